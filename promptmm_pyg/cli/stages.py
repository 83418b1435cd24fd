"""The stages of a run: trains and writes the teacher, then the student."""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from promptmm_pyg.cli.data_source import read_titles
from promptmm_pyg.cli.models import (
    Prepared,
    build_student,
    build_teacher,
    distill_arguments,
    load_teacher,
)
from promptmm_pyg.cli.run_folder import (
    MODEL,
    RunFolder,
    save_tensors,
    versions,
    write_json,
)
from promptmm_pyg.data import ITEM, Split
from promptmm_pyg.distillation import DistillationResult, distill
from promptmm_pyg.serving import Recommender
from promptmm_pyg.training import History, TrainingConfig
from promptmm_pyg.training import train as train_model
from promptmm_pyg.training.loop import CHECKPOINT

CPU = torch.device('cpu')


def train(
    run: RunFolder,
    config: dict[str, Any],
    data: Prepared,
    *,
    resume: bool = False,
    progress: bool = True,
    device: torch.device = CPU,
) -> History:
    """Trains the teacher of a configuration into the folder of a run."""
    write_json(run.config_file, {**config, 'versions': versions()})
    teacher = build_teacher(config, data.train).to(device)
    there = data.to(device)
    history = train_model(
        teacher,
        Split(there.train, there.val, there.test),
        loss_weights=config['weights'],
        inputs=there.inputs,
        config=training_config(
            config['train'],
            config['schedule'],
            run.teacher,
            resume=resume,
            progress=progress,
        ),
    )
    save_tensors(run.teacher / MODEL, teacher.cpu().state_dict())
    write_json(run.teacher / 'metrics.json', best(history))
    return history


def training_config(
    options: dict[str, Any],
    schedule: dict[str, Any],
    folder: Path,
    *,
    resume: bool,
    progress: bool,
) -> TrainingConfig:
    """The training of a configuration; an interruption may have come before the first
    checkpoint.
    """
    return TrainingConfig(
        **options,
        **schedule,
        run_dir=folder,
        resume=resume and (folder / CHECKPOINT).is_file(),
        progress=progress,
    )


def best(history: History) -> dict[str, Any]:
    """The validation metrics of the epoch that was kept, for a file."""
    record = history.records[history.best_epoch - 1]
    return {
        'monitor': history.monitor,
        'best_value': history.best_value,
        'best_epoch': history.best_epoch,
        'num_epochs': history.num_epochs,
        'validation': record['validation'],
    }


def distill_run(
    run: RunFolder,
    config: dict[str, Any],
    student: dict[str, Any],
    data: Prepared,
    *,
    resume: bool = False,
    progress: bool = True,
    device: torch.device = CPU,
    titles: dict[Any, str] | None = None,
) -> DistillationResult:
    """Trains the student of a configuration into the folder of a run; what is returned
    lies on the CPU.
    """
    teacher = load_teacher(run, config, data.train).to(device)
    write_json(run.student / 'config.json', student)
    model = build_student(student, data.train).to(device)
    there = data.to(device)
    arguments = distill_arguments(student, there)
    result = distill(
        model,
        teacher,
        Split(there.train, there.val, there.test),
        config=training_config(
            arguments.pop('train'),
            student['schedule'],
            run.student,
            resume=resume,
            progress=progress,
        ),
        **arguments,
    )
    result = result._replace(targets=result.targets.to(CPU))
    for trained in (result.student, result.baseline):
        if trained is not None:
            trained.to(CPU)
    save_tensors(run.student / 'targets.safetensors', result.targets.x_dict)
    if result.baseline is not None and result.baseline_history is not None:
        save_tensors(run.control / MODEL, result.baseline.state_dict())
        write_json(run.control / 'metrics.json', best(result.baseline_history))
    write_json(run.student / 'metrics.json', best(result.history))
    recommender = _recommender(config, result, data, titles)
    recommender.save(run.recommender, card=_card(student, result))
    # Last: the student counts as trained once this is there.
    save_tensors(run.student / MODEL, result.student.state_dict())
    return result


def _recommender(
    config: dict[str, Any],
    result: DistillationResult,
    data: Prepared,
    titles: dict[Any, str] | None,
) -> Recommender:
    if config['titles'] is not None:
        where = config['titles']
        by_text = read_titles(where['path'], where['item'], where['title'])
        item_ids = data.val[ITEM].raw_id.tolist()
        titles = {raw: by_text[str(raw)] for raw in item_ids if str(raw) in by_text}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        # The features of the training graph are standardized, those of new items not.
        recommender = Recommender.from_model(
            result.student, data.val, inputs=data.inputs, titles=titles
        )
    for warning in caught:
        print(f'warning: {warning.message}', file=sys.stderr)
    return recommender


def _card(student: dict[str, Any], result: DistillationResult) -> dict[str, Any]:
    """What the recommender's folder says of its training."""
    metrics = {'student': best(result.history)}
    if result.baseline_history is not None:
        metrics['control'] = best(result.baseline_history)
    return {
        'name': f'Recommender: a {student["student"]} student of PromptMM',
        'metrics': metrics,
        'training': student,
    }
