"""What a report says of the models of a run: weights, size and latency."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from promptmm_pyg.cli.models import (
    Prepared,
    Tables,
    load_tables,
    load_teacher,
    new_student,
    reload,
)
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.cli.run_folder import MODEL, RunFolder
from promptmm_pyg.data import INTERACTS, ITEM, USER
from promptmm_pyg.explain import Explainer
from promptmm_pyg.models import PromptMM
from promptmm_pyg.report import gather, served
from promptmm_pyg.report.content import Missing, Size
from promptmm_pyg.serving import Recommender


class Loaded(NamedTuple):
    """What needs the data of a run."""

    data: Prepared
    teacher: PromptMM
    tables: dict[str, Tables]


def places(run: RunFolder) -> dict[str, Path]:
    """The folder of each model; the demo trains a baseline, too."""
    baseline = run.path / 'lightgcn'
    first = {'LightGCN': baseline} if baseline.is_dir() else {}
    return {
        **first,
        'teacher': run.teacher,
        'student': run.student,
        'control': run.control,
    }


def has_student(run: RunFolder) -> bool:
    """Whether a student is trained and served."""
    return (run.student / MODEL).is_file() and run.recommender.is_dir()


def load(
    run: RunFolder, config: dict[str, Any], missing: list[Missing]
) -> Loaded | None:
    """The data of a run and its models; ``None`` if the teacher is not trained or the
    data cannot be read, which ``missing`` then says.
    """
    if not (run.teacher / MODEL).is_file():
        return None
    try:
        data = reload(run, config)
    except (UserError, OSError, ValueError, ImportError) as error:
        why = ' '.join(str(error).split())
        what = 'the data could not be read, so what needs them is left out'
        missing.append(Missing(f'{what}: {why}', None))
        return None
    teacher = load_teacher(run, config, data.train)
    return Loaded(data, teacher, load_tables(run, config, data))


def weights(loaded: Loaded | None) -> dict[str, float]:
    """What the settings of the teacher weight, and how much."""
    if loaded is None:
        return {}
    teacher = loaded.teacher
    found = dict.fromkeys(teacher.modalities, teacher.modality_weight)
    found["a node's own features, before its neighbors'"] = teacher.self_loop_weight
    if teacher.prompt is not None:
        found['prompt, in ids'] = teacher.prompt_id_weight
    return found


def shares(loaded: Loaded | None) -> dict[str, dict[str, float]]:
    """By node type, how much of the teacher's embeddings is what."""
    if loaded is None:
        return {}
    explainer = Explainer(loaded.teacher, *loaded.data.inputs)
    return {
        node_type: gather.part_shares(explainer.parts(node_type))
        for node_type in (USER, ITEM)
    }


def sizes(run: RunFolder, loaded: Loaded | None) -> dict[str, Size]:
    """How large the models of a run are, by name."""
    counts: dict[str, int] = {}
    if loaded is not None:
        counts['teacher'] = _trainable(loaded.teacher)
        if (run.student / MODEL).is_file():
            # The control is the same model, trained otherwise.
            number = _trainable(new_student(run, loaded.data.train))
            counts |= {'student': number, 'control': number}
    tables = loaded.tables if loaded is not None else {}
    found = {}
    for name, folder in places(run).items():
        if (folder / MODEL).is_file():
            in_memory = gather.table_bytes(tables[name]) if name in tables else None
            stored = (folder / MODEL).stat().st_size
            found[name] = Size(counts.get(name), stored, in_memory)
    return found


def _trainable(model: torch.nn.Module) -> int:
    return sum(x.numel() for x in model.parameters() if x.requires_grad)


def served_bytes(run: RunFolder) -> int | None:
    """What the recommender takes on disk."""
    if not has_student(run):
        return None
    return sum(x.stat().st_size for x in run.recommender.rglob('*') if x.is_file())


def latencies(recommender: Recommender | None, loaded: Loaded | None) -> dict[str, Any]:
    """The student as it is served and, served in the same way, the teacher."""
    recommenders = {} if recommender is None else {'student': recommender}
    if loaded is not None:
        x_dict, train = loaded.tables['teacher'], loaded.data.train
        teacher = Recommender(
            x_dict[USER],
            x_dict[ITEM],
            user_ids=train[USER].raw_id,
            item_ids=train[ITEM].raw_id,
            seen=train[INTERACTS].edge_index,
        )
        recommenders = {'teacher': teacher, **recommenders}
    if not recommenders:
        return {}
    k = min(10, *(one.num_items for one in recommenders.values()))
    return {'latencies': served.latencies(recommenders, k), 'latency_k': k}
