"""From the folder of a run to its report."""

import datetime
import json
import shlex
from collections.abc import Mapping
from typing import Any

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.cli.evaluate import evaluate_tables
from promptmm_pyg.cli.report_models import (
    Loaded,
    has_student,
    latencies,
    load,
    places,
    served_bytes,
    shares,
    sizes,
    weights,
)
from promptmm_pyg.cli.run_folder import MODEL, RunFolder, read_json
from promptmm_pyg.evaluation import Evaluation
from promptmm_pyg.report import Report, gather
from promptmm_pyg.report.content import Curve, Missing, Training
from promptmm_pyg.report.served import examples
from promptmm_pyg.serving import Recommender
from promptmm_pyg.training.loop import LOG

_NO_SETTINGS = ('data', 'data_sha256', 'format', 'titles', 'versions')


def gather_run(run: RunFolder, config: dict[str, Any]) -> Report:
    """All that a run holds.

    Args:
        run: Its folder.
        config: Its configuration.
    """
    missing = _missing(run)
    loaded = load(run, config, missing)
    written = _written(run, missing)
    found = _evaluate(run, loaded, written.get('val'), missing)
    recommender = Recommender.load(run.recommender) if has_student(run) else None
    if recommender is not None and not recommender.titles:
        missing.append(
            Missing('the items have no titles: train with --titles FILE', None)
        )
    train, val = (loaded.data.train, loaded.data.val) if loaded else (None, None)
    return Report(
        name=run.path.resolve().name,
        made=datetime.datetime.now(datetime.UTC).isoformat(' ', 'minutes'),
        missing=missing,
        facts=gather.data_facts(train, val) if train and val else {},
        comparisons=[
            gather.comparison(content, found if part == 'val' else None)
            for part, content in written.items()
        ],
        weights=weights(loaded),
        shares=shares(loaded),
        sizes=sizes(run, loaded),
        recommender_bytes=served_bytes(run),
        num_threads=torch.get_num_threads(),
        examples=examples(recommender, val) if recommender else [],
        settings=_settings(run, config),
        **_curves(run, config),
        **_slices(written.get('val'), found, val),
        **latencies(recommender, loaded),
    )


def _missing(run: RunFolder) -> list[Missing]:
    folder = shlex.quote(str(run.path))
    if not (run.teacher / MODEL).is_file():
        return [
            Missing(
                'the teacher is not trained to the end, so there is no student and '
                'nothing to compare',
                f'promptmm train ... --out {folder} --resume',
            )
        ]
    missing = []
    if not (run.student / MODEL).is_file():
        begun = (run.student / LOG).is_file()
        what = (
            'the student is not trained to the end' if begun else 'there is no student'
        )
        command = f'promptmm distill {folder}{" --resume" if begun else ""}'
        missing.append(
            Missing(f'{what}, so there are no recommendations to show', command)
        )
    elif not (run.control / MODEL).is_file():
        missing.append(
            Missing(
                'the student was trained without its control, so it cannot be told '
                'what the teacher is good for',
                f'promptmm distill {folder} --overwrite',
            )
        )
    return missing


def _written(run: RunFolder, missing: list[Missing]) -> dict[str, dict[str, Any]]:
    """The evaluations that were made, by part."""
    found = {}
    for part in ('val', 'test'):
        file = run.evaluation(part)
        content = read_json(file) if file.is_file() else {}
        if content.get('metrics'):
            found[part] = content
        elif content.get('readings'):
            times = len(content['readings'])
            what = (
                f'test was read {times} time{"s" * (times > 1)} for an earlier student'
            )
            missing.append(Missing(f'{what}, whose metrics are gone', None))
    if 'val' not in found and (run.teacher / MODEL).is_file():
        missing.append(
            Missing(
                'validation was not evaluated, so there are no metrics and no slices '
                'of it',
                f'promptmm evaluate {shlex.quote(str(run.path))}',
            )
        )
    return found


def _evaluate(
    run: RunFolder,
    loaded: Loaded | None,
    content: dict[str, Any] | None,
    missing: list[Missing],
) -> dict[str, Evaluation] | None:
    """What was written about validation, with the values of every user."""
    if loaded is None or content is None:
        return None
    tables = {
        name: x for name, x in loaded.tables.items() if name in content['metrics']
    }
    found = evaluate_tables(tables, loaded.data.val) if tables else {}
    command = f'promptmm evaluate {shlex.quote(str(run.path))}'
    if set(content['metrics']) - set(found) or not gather.agrees(content, found):
        what = (
            'evaluation-val.json is not about the models that are there now, so its '
            'metrics have no intervals and few slices'
        )
        missing.append(Missing(what, command))
        return None
    later = ', '.join(sorted(set(loaded.tables) - set(found)))
    if later:
        missing.append(Missing(f'validation was not evaluated for: {later}', command))
    return found


def _curves(run: RunFolder, config: dict[str, Any]) -> dict[str, Any]:
    folders = places(run)
    logs = {name: gather.read_log(folder / LOG) for name, folder in folders.items()}
    best: dict[str, int | None] = {}
    for name, folder in folders.items():
        file = folder / 'metrics.json'
        best[name] = read_json(file).get('best_epoch') if file.is_file() else None
    monitor = gather.shared_metric(logs, config['schedule']['monitor'])
    curves: dict[str, Curve] = {}
    losses: dict[str, Curve] = {}
    trainings: dict[str, Training] = {}
    for name, log in logs.items():
        curve = gather.validation_curve(log, monitor, best[name])
        loss = gather.loss_curve(log, best[name])
        times = gather.training(log, best[name])
        curves |= {} if curve is None else {name: curve}
        losses |= {} if loss is None else {name: loss}
        trainings |= {} if times is None else {name: times}
    return {
        'monitor': monitor,
        'curves': curves,
        'losses': losses,
        'trainings': trainings,
    }


def _slices(
    content: dict[str, Any] | None,
    found: dict[str, Evaluation] | None,
    val: HeteroData | None,
) -> dict[str, Any]:
    if content is None:
        return {}
    metric = gather.drawn_metric(content)
    if found and val is not None:
        return {'slices': gather.slices(found, val, metric), 'slice_metric': metric}
    slices = gather.recorded_slices(content, metric)
    return {'slices': slices, 'slice_metric': metric}


def _settings(run: RunFolder, config: Mapping[str, Any]) -> dict[str, str]:
    """Without paths, which say more than a reader of the page needs to know."""
    found = _flat({k: x for k, x in config.items() if k not in _NO_SETTINGS})
    file = run.student / 'config.json'
    if file.is_file():
        student = _flat(read_json(file)).items()
        found |= {f'student: {name}': value for name, value in student}
    return found | _flat(config.get('versions', {}), 'version of ')


def _flat(config: Mapping[str, Any], above: str = '') -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f'{above}{key}.')
        else:
            found[f'{above}{key}'] = (
                value if isinstance(value, str) else json.dumps(value)
            )
    return found
