"""Several runs as one teacher."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from promptmm_pyg.data.schema import INTERACTS, fingerprint
from promptmm_pyg.distillation import ensemble_targets, fit_ensemble_weights
from promptmm_pyg.models._resolve import short_name
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.runs.data import RunError
from promptmm_pyg.runs.folder import write_json
from promptmm_pyg.runs.run import Run
from promptmm_pyg.targets import SoftTargets, soft_targets


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
        targets[name] = _targets(other)
        used[name] = {'run': str(other.path.resolve())}
    try:
        weights = fit_ensemble_weights(targets, data.train, data.val)
    except ValueError as error:
        raise RunError(f'--teachers have no weights: {error}') from error
    if folder is not None:
        for name, weight in weights.items():
            used[name]['weight'] = weight
        write_json(folder / 'teachers.json', used)
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


def _targets(run: Run) -> SoftTargets:
    teacher = run.teacher()
    if isinstance(teacher, ClosedForm):
        return SoftTargets.from_output(teacher.as_output())
    return soft_targets(teacher, *run.data.inputs)


def _check_same_data(run: Run, other: Run) -> None:
    graphs = zip(run.data.split[1:], other.data.split[1:], strict=True)
    held_out = (
        torch.equal(*(graph[INTERACTS].edge_label_index for graph in pair))
        for pair in graphs
    )
    trains = run.data.train, other.data.train
    if fingerprint(trains[0]) != fingerprint(trains[1]) or not all(held_out):
        raise RunError(
            f"--teachers must be runs on the interactions of '{run.path}', split alike "
            f"(got '{other.path}'). Train it with the same options of the data"
        )


def student_teacher(
    run: Run, config: Mapping[str, Any], folder: Path | None = None
) -> torch.nn.Module | ClosedForm[Any] | SoftTargets:
    """The teacher of a student: that of its run, or of several."""
    if not config['teachers']:
        return run.teacher()
    return teacher_of_runs(run, config['teachers'], config['teacher_scale'], folder)
