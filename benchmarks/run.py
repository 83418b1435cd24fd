"""Teacher, student, control, LightGCN and EASE under one protocol, over several seeds.

    python -m benchmarks.run tiktok --data FOLDER --seeds 0 1 2

Epochs and hyper-parameters are chosen on validation; the test positives are read
once per seed, by the restored models. Finished seeds are kept under ``--work``, so an
interrupted run goes on where it was. Writes ``benchmarks/results/<setting>.json``.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from benchmarks.command_line import command_line
from benchmarks.paired import difference
from benchmarks.result_file import versions, write_result
from benchmarks.settings import SETTINGS, Setting, read
from promptmm_pyg.data import INTERACTS, ITEM, Split, modality_x_dict, num_nodes_dict
from promptmm_pyg.distillation import (
    CONTROL_WEIGHTS,
    STUDENT_WEIGHTS,
    DistillationObjective,
    distill,
    truncate_embeddings,
)
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import EASE, LightGCN, MatrixFactorization, PromptMM
from promptmm_pyg.targets import save_targets, soft_targets
from promptmm_pyg.training import (
    History,
    Schedule,
    bpr_terms,
    get_embeddings,
    load_state,
    normalized_adj_dict,
    save_state,
    train_teacher,
)
from promptmm_pyg.transforms import (
    AddBipartiteNorm,
    AddModalityPCA,
    StandardizeModalities,
)

LIGHT_GCN, TEACHER, EASE_ROW = 'LightGCN', 'PromptMM teacher', 'EASE'
EASE_L2 = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
STUDENTS = {'LightGCN': LightGCN, 'MatrixFactorization': MatrixFactorization}
KS = (10, 20, 50)


def targets_path(work: Path, name: str, seed: int) -> Path:
    """Where what the teacher of a seed says is kept."""
    digest = SETTINGS[name].digest()
    return work / f'{name}-{seed}-{digest}-targets.safetensors'


def differences(setting: Setting) -> list[tuple[str, str]]:
    """The pairs whose difference is reported, first minus second."""
    pairs = [(TEACHER, LIGHT_GCN)]
    for kind, spec in setting.students.items():
        student = f'{kind} student'
        rivals = (
            f'{kind} control',
            f'teacher cut to width {spec.arguments["embedding_dim"]}',
            TEACHER,
            LIGHT_GCN,
            EASE_ROW,
        )
        pairs += [(student, rival) for rival in rivals]
    return pairs


def prepare(train: HeteroData, setting: Setting) -> HeteroData:
    """Weights, standardized features and the prompt's start, from training edges."""
    train = AddBipartiteNorm()(StandardizeModalities()(train))
    return AddModalityPCA(setting.prompt_channels)(train)


def build_teacher(
    train: HeteroData,
    setting: Setting,
    features: dict[str, dict[str, Any]] | None = None,
) -> PromptMM:
    """A setting's teacher, of the graph's features or of others in their place."""
    start = {key: train[key].prompt_start for key in ('user', 'item')}
    features = modality_x_dict(train) if features is None else features
    return PromptMM(num_nodes_dict(train), features, start, **setting.teacher)


def training(setting: Setting, seed: int) -> dict[str, Any]:
    """How all models of a setting are trained."""
    return {
        'learning_rate': setting.learning_rate,
        'batch_size': setting.batch_size,
        'seed': seed,
        'schedule': Schedule(
            epochs=setting.epochs,
            patience=setting.patience,
            validate_every=setting.validate_every,
        ),
    }


def run_seed(
    split: Split, setting: Setting, seed: int, targets_file: Path
) -> dict[str, Any]:
    """Everything one seed yields: per-user test values, histories, sizes, seconds.

    What the teacher says is kept in ``targets_file``.
    """
    train, val = prepare(split.train, setting), split.val
    inputs = (normalized_adj_dict(train),)
    common = training(setting, seed)
    seconds: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        out = run()
        seconds[name] = time.perf_counter() - started
        return out

    torch.manual_seed(seed)
    models: dict[str, torch.nn.Module] = {
        LIGHT_GCN: LightGCN(num_nodes_dict(train), **setting.light_gcn)
    }
    weights = {'bpr': 1.0, 'l2': setting.light_gcn_l2}
    histories: dict[str, History] = {
        LIGHT_GCN: timed(
            LIGHT_GCN,
            lambda: train_teacher(
                models[LIGHT_GCN],
                train,
                val,
                terms=bpr_terms,
                weights=weights,
                **common,
            ),
        )
    }
    torch.manual_seed(seed)
    teacher = build_teacher(train, setting)
    models[TEACHER] = teacher
    histories[TEACHER] = timed(
        TEACHER,
        lambda: train_teacher(
            teacher, train, val, weights=setting.teacher_weights, **common
        ),
    )
    targets = soft_targets(teacher, *inputs)
    save_targets(targets_file, targets, train)
    for kind, spec in setting.students.items():
        torch.manual_seed(seed)
        student = STUDENTS[kind](num_nodes_dict(train), **spec.arguments)
        objective = DistillationObjective(
            targets, student.embeddings.embedding_dim, **setting.objective
        )
        run = partial(
            distill,
            student,
            targets,
            train,
            val,
            objective=objective,
            candidates=setting.candidates,
            weights={**STUDENT_WEIGHTS, 'l2': spec.l2},
            control_weights={**CONTROL_WEIGHTS, 'l2': spec.control_l2},
            **common,
        )
        out = timed(f'{kind} student and control', run)
        models |= {f'{kind} student': out.student, f'{kind} control': out.control}
        histories |= {
            f'{kind} student': out.history,
            f'{kind} control': out.control_history,
        }
    tables = {name: get_embeddings(model, inputs) for name, model in models.items()}
    for kind in setting.students:
        width = tables[f'{kind} student'][ITEM].size(1)
        tables[f'teacher cut to width {width}'] = truncate_embeddings(
            targets.x_dict, width
        )
    test = {
        name: evaluate(x_dict, split.test, ks=KS) for name, x_dict in tables.items()
    }
    return {
        'per_user': {name: dict(result.per_user) for name, result in test.items()},
        'validation': {name: h.best_value for name, h in histories.items()},
        'epochs': {name: h.best_epoch for name, h in histories.items()},
        'seconds': seconds,
        'parameters': {
            name: sum(p.numel() for p in models[name].parameters())
            if name in models
            else sum(x.numel() for x in x_dict.values())
            for name, x_dict in tables.items()
        },
        'width': {name: x_dict[ITEM].size(1) for name, x_dict in tables.items()},
    }


def best_ease(split: Split) -> tuple[float, EASE]:
    """EASE with the penalty that is best on validation, and its value there."""

    def fitted(l2: float) -> EASE:
        model = EASE(num_nodes_dict(split.train), INTERACTS, l2=l2)
        return model.fit(split.train[INTERACTS].edge_index)

    values = [
        evaluate(fitted(l2).scores, split.val, ks=(20,)).metrics['Recall@20']
        for l2 in EASE_L2
    ]
    return max(values), fitted(EASE_L2[values.index(max(values))])


def add_ease(split: Split, seeds: dict[int, dict[str, Any]]) -> None:
    """Puts EASE beside the models of every seed, for each of which it is the same."""
    value, model = best_ease(split)
    test = evaluate(model.scores, split.test, ks=KS)
    num_items = num_nodes_dict(split.train)[ITEM]
    for outcome in seeds.values():
        outcome['per_user'][EASE_ROW] = dict(test.per_user)
        outcome['validation'][EASE_ROW] = value
        outcome['width'][EASE_ROW] = num_items
        outcome['parameters'][EASE_ROW] = num_items**2


def summarize(setting: Setting, seeds: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The result file: means over seeds, paired intervals over users, versions."""
    first = next(iter(seeds.values()))
    models = {}
    for name in first['width']:
        values = {
            metric: [float(s['per_user'][name][metric].mean()) for s in seeds.values()]
            for metric in first['per_user'][name]
        }
        models[name] = {
            'width': first['width'][name],
            'parameters': first['parameters'][name],
            # What is copied was not chosen on validation.
            'validation': [s['validation'].get(name) for s in seeds.values()],
            'epochs': [s['epochs'].get(name) for s in seeds.values()],
            'test': {metric: spread(v) for metric, v in values.items()},
        }
    intervals = {}
    for a, b in differences(setting):
        pair = [
            [s['per_user'][name]['Recall@20'] for s in seeds.values()]
            for name in (a, b)
        ]
        intervals[f'{a} - {b}'] = difference(*pair)
    return {
        'setting': setting.as_dict(),
        'ease_l2': EASE_L2,
        'seeds': list(seeds),
        'models': models,
        'differences': intervals,
        'seconds': [s['seconds'] for s in seeds.values()],
        'versions': versions(),
        'threads': torch.get_num_threads(),
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation and the values of all seeds."""
    x = torch.tensor(values, dtype=torch.double)
    std = float(x.std()) if len(values) > 1 else 0.0
    return {'mean': float(x.mean()), 'std': std, 'seeds': values}


def main() -> None:
    args = command_line(__doc__).parse_args()
    setting = SETTINGS[args.setting]
    split = read(setting.dataset, args.data)
    seeds = {}
    for seed in args.seeds:
        # A seed is done for these very numbers; others start anew.
        kept = args.work / f'{args.setting}-{seed}-{setting.digest()}.safetensors'
        if not kept.is_file():
            targets_file = targets_path(args.work, args.setting, seed)
            save_state(kept, run_seed(split, setting, seed, targets_file))
        seeds[seed] = load_state(kept)
        print(
            {k: round(v, 4) for k, v in seeds[seed]['validation'].items()}, flush=True
        )
    add_ease(split, seeds)
    write_result(args.out / f'{args.setting}.json', summarize(setting, seeds))


if __name__ == '__main__':
    main()
