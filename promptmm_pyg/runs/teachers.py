"""Several runs as one teacher."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, fingerprint
from promptmm_pyg.distillation import ensemble_targets, fit_ensemble_weights
from promptmm_pyg.models._resolve import short_name
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.runs.data import Prepared, RunError
from promptmm_pyg.runs.folder import read_json, write_json
from promptmm_pyg.runs.run import Run, Trained, settings_of
from promptmm_pyg.targets import SoftTargets, soft_targets

TEACHERS = 'teachers.json'


def teacher_of_runs(
    run: Run, paths: Sequence[str | Path], scale: float, folder: Path | None = None
) -> SoftTargets:
    """The teachers of several runs as one: the sum of their scores with the weights
    that make the validation positives most likely.

    Args:
        run: The run of the student.
        paths: The folders of the other runs, on the same data; one that is relative
            is looked for in the folder of ``run`` first, so that this can be moved.
        scale: The sum of the weights, an inverse temperature.
        folder: Where ``teachers.json`` with runs and weights is written.
            (default: nowhere)

    Raises:
        RunError: If a run has no teacher, is on other interactions or is named twice,
            or no teacher is better than chance.
    """
    data = run.data
    inside = [run.path / path for path in paths]
    paths = [a if a.is_dir() else b for a, b in zip(inside, paths, strict=True)]
    _check_named_once([run.path, *paths])
    targets: dict[str, SoftTargets] = {}
    used: dict[str, dict[str, Any]] = {}
    for other in (run, *(Run.open(path) for path in paths)):
        if other is not run:
            _check_same_data(run, other)
        name = short_name(other.config['model'])
        number = sum(key.partition('-')[0] == name for key in targets) + 1
        name = f'{name}-{number}' if number > 1 else name
        targets[name] = targets_of(other.teacher(), other.data)
        used[name] = {'run': _recorded_path(run, other)}
    try:
        weights = fit_ensemble_weights(targets, data.train, data.val)
    except ValueError as error:
        raise RunError(f'--teachers have no weights: {error}') from error
    if folder is not None:
        for name, weight in weights.items():
            used[name]['weight'] = weight
        write_json(folder / TEACHERS, used)
    scaled = {name: scale * weight for name, weight in weights.items()}
    return ensemble_targets(targets, scaled, data.train)


def _check_named_once(paths: Sequence[str | Path]) -> None:
    folders = [Path(path).resolve() for path in paths]
    twice = [str(path) for path in folders if folders.count(path) > 1]
    if twice:
        raise RunError(
            f'--teachers must be other runs than RUN, each named once (got '
            f"'{twice[0]}' twice, RUN included). Leave it out"
        )


def _recorded_path(run: Run, other: Run) -> str:
    """The folder of a run; relative if it is in that of the student, which may move."""
    root, path = run.path.resolve(), other.path.resolve()
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def recorded_teachers(run: Run) -> dict[str, tuple[Run, float]]:
    """The runs that taught the student together, and their weights, by name. Those of
    weight zero are left out. Empty if the teacher of the run taught it alone.

    Raises:
        RunError: If one of them is no run any more, or the file is damaged.
    """
    file = run.student_dir / TEACHERS
    content = read_json(file) if file.is_file() else {}
    with settings_of(file):
        weights = {name: float(x['weight']) for name, x in content.items()}
        paths = {name: run.path / x['run'] for name, x in content.items()}
    used = {name: weight for name, weight in weights.items() if weight > 0}
    return {name: (Run.open(paths[name]), weight) for name, weight in used.items()}


def targets_of(teacher: Trained, data: Prepared) -> SoftTargets:
    """The output of a trained teacher."""
    if isinstance(teacher, ClosedForm):
        return SoftTargets.from_output(teacher.as_output())
    return soft_targets(teacher, *data.inputs)


def check_same_interactions(
    run: Run, other: Run, train: HeteroData, other_train: HeteroData
) -> None:
    """Raises a ``RunError`` unless two runs have the same interactions and nodes."""
    if fingerprint(train) != fingerprint(other_train):
        raise _other_data_error(run, other)


def _other_data_error(run: Run, other: Run) -> RunError:
    return RunError(
        f"--teachers must be runs on the interactions of '{run.path}', split alike "
        f"(got '{other.path}'). Train it with the same options of the data"
    )


def _check_same_data(run: Run, other: Run) -> None:
    graphs = zip(run.data.split[1:], other.data.split[1:], strict=True)
    held_out = (
        torch.equal(*(graph[INTERACTS].edge_label_index for graph in pair))
        for pair in graphs
    )
    check_same_interactions(run, other, run.data.train, other.data.train)
    if not all(held_out):
        raise _other_data_error(run, other)


def student_teacher(
    run: Run, config: Mapping[str, Any], folder: Path | None = None
) -> torch.nn.Module | ClosedForm[Any] | SoftTargets:
    """The teacher of a student: that of its run, or of several."""
    if not config['teachers']:
        return run.teacher()
    return teacher_of_runs(run, config['teachers'], config['teacher_scale'], folder)
