"""``promptmm report``: a run on one page."""

import argparse
import datetime
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg._files import replacing
from promptmm_pyg.cli.auto import HEAD, leaderboard
from promptmm_pyg.cli.compare import (
    count_parameters,
    flatten,
    recommender_bytes,
    setting_text,
)
from promptmm_pyg.cli.parsing import UserError, add_flags
from promptmm_pyg.data import INTERACTS, ITEM, USER
from promptmm_pyg.evaluation import Evaluation
from promptmm_pyg.explain import Explainer
from promptmm_pyg.explain.explainer import Explainable
from promptmm_pyg.models import PromptMM
from promptmm_pyg.report import Report, gather, render, served
from promptmm_pyg.report.content import Missing, Size
from promptmm_pyg.report.page import GENERATOR
from promptmm_pyg.runs import Prepared, Run
from promptmm_pyg.runs.evaluation import (
    evaluate_embeddings,
    evaluated_embeddings,
    scorers_of,
)
from promptmm_pyg.runs.folder import MODEL, read_json
from promptmm_pyg.runs.run import Trained, XDict
from promptmm_pyg.serving import Recommender
from promptmm_pyg.training.loop import LOG

DESCRIPTION = """\
Write everything in RUN to one self-contained HTML file: learning curves, teacher,
student and baseline with intervals, slices (cold and rare items, length of history,
missing modalities), the parts of the teacher's embeddings, size, latency (measured now)
and example recommendations. The page needs no network and runs no script.

For steps that are not done yet, the page names the command. Metrics are those that
'promptmm evaluate' wrote; test is not read."""
EXAMPLE = """\
example:
  promptmm report runs/tiktok
  promptmm report runs/tiktok --out tiktok.html"""
# Paths are private, and a reader of the page does not need them.
_HIDDEN = ('data', 'data_sha256', 'format', 'titles', 'versions')


class _Loaded(NamedTuple):
    """The parts of a run that need its data."""

    data: Prepared
    teacher: Trained
    x_dicts: dict[str, XDict]
    scorers: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options."""
    parser.add_argument('folder', metavar='RUN', help='folder of a run')
    add_flags(
        parser,
        """
--out FILE.html  where to write it; an earlier report in it is replaced (default:
  report.html in RUN)""",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    run = Run.open(args.folder)
    out = run.path / 'report.html' if args.out is None else Path(args.out)
    _check_out(out)
    with replacing(out) as temporary:  # First: an error is raised before any work.
        report = gather_run(run)
        temporary.write_text(render(report), encoding='utf-8')
    for what, command in report.missing:
        fix = f'. Add it with: {command}' if command else ''
        print(f'note: {what}{fix}', file=sys.stderr)
    print(f'written: {out}')
    return 0


def _check_out(out: Path) -> None:
    """Raises before any work is done."""
    if out.suffix.lower() not in ('.html', '.htm'):
        raise UserError(f"--out must end in .html (got '{out}')")
    if out.is_dir():
        raise UserError(f"--out must be a file (got the folder '{out}')")
    if out.is_file():
        with out.open('rb') as file:
            start = file.read(4096)
        if start and GENERATOR.encode() not in start:
            raise UserError(
                f"'{out}' exists already and is not a report. Choose another --out"
            )


def gather_run(run: Run) -> Report:
    """Everything that a run contains."""
    missing = _missing(run)
    loaded = _load(run, missing)
    recorded = _recorded(run, missing)
    results = _evaluate(run, loaded, recorded.get('val'), missing)
    recommender = run.recommender(final=False) if _has_recommender(run) else None
    if recommender is not None and not recommender.titles:
        missing.append(
            Missing('the items have no titles: train with --titles FILE', None)
        )
    rows = leaderboard(run.search)
    train, val = (loaded.data.train, loaded.data.val) if loaded else (None, None)
    return Report(
        name=run.path.resolve().name,
        made=datetime.datetime.now(datetime.UTC).isoformat(' ', 'minutes'),
        missing=missing,
        facts=gather.data_facts(train, val) if train and val else {},
        comparisons=[
            gather.comparison(content, results if split == 'val' else None)
            for split, content in recorded.items()
        ],
        weights=_weights(loaded),
        shares=_shares(loaded),
        sizes=_sizes(run, loaded),
        recommender_bytes=recommender_bytes(run) if recommender else None,
        num_threads=torch.get_num_threads(),
        examples=served.examples(recommender, val) if recommender else [],
        settings=_settings(run),
        leaderboard=[list(HEAD), *rows] if rows else [],
        ensemble=run.search.get('ensemble') or {},
        **_curves(run),
        **gather.trials(run.metrics('teacher').get('trials', [])),
        **_slices(recorded.get('val'), results, val),
        **_latencies(recommender, loaded),
    )


def _has_recommender(run: Run) -> bool:
    return run.has('student') and run.recommender_dir.is_dir()


def _missing(run: Run) -> list[Missing]:
    folder = shlex.quote(str(run.path))
    if not run.has('teacher'):
        what = 'the teacher is not fully trained, so there is no student'
        return [Missing(what, f'promptmm train ... --out {folder} --resume')]
    if not run.has('student'):
        has_started = (run.student_dir / LOG).is_file()
        what = 'there is no student'
        if has_started:
            what = 'the student is not fully trained'
        command = f'promptmm distill {folder}{" --resume" * has_started}'
        return [Missing(f'{what}, so there are no recommendations', command)]
    if not run.has('baseline') and not run.search:
        what = (
            'the student was trained without its baseline, so the effect of the '
            'teacher is unknown'
        )
        return [Missing(what, f'promptmm distill {folder} --overwrite')]
    return []


def _load(run: Run, missing: list[Missing]) -> _Loaded | None:
    """``None`` if the teacher is not trained or the data cannot be read."""
    if not run.has('teacher'):
        return None
    try:
        data = run.data
    except (OSError, ValueError, ImportError) as error:
        reason = ' '.join(str(error).split())
        what = f'the data could not be read, so parts are left out: {reason}'
        missing.append(Missing(what, None))
        return None
    x_dicts = evaluated_embeddings(run)
    return _Loaded(data, run.teacher(), x_dicts, scorers_of(run, x_dicts))


def _recorded(run: Run, missing: list[Missing]) -> dict[str, dict[str, Any]]:
    """The recorded evaluations, by split."""
    recorded = {}
    for split in ('val', 'test'):
        file = run.evaluation_file(split)
        content = read_json(file) if file.is_file() else {}
        if content.get('metrics'):
            recorded[split] = content
        elif content.get('test_reads'):
            times = len(content['test_reads'])
            reads = f'{times} time{"s" * (times > 1)}'
            what = f'test was read {reads} for an earlier student (metrics removed)'
            missing.append(Missing(what, None))
    if 'val' not in recorded and run.has('teacher'):
        what = 'validation was not evaluated, so it has no metrics and no slices'
        missing.append(Missing(what, _evaluate_command(run)))
    return recorded


def _evaluate_command(run: Run) -> str:
    return f'promptmm evaluate {shlex.quote(str(run.path))}'


def _evaluate(
    run: Run,
    loaded: _Loaded | None,
    content: dict[str, Any] | None,
    missing: list[Missing],
) -> dict[str, Evaluation] | None:
    """The recorded evaluation on validation, with the values of every user."""
    if loaded is None or content is None:
        return None
    scorers = {
        name: x for name, x in loaded.scorers.items() if name in content['metrics']
    }
    results = evaluate_embeddings(scorers, loaded.data.val) if scorers else {}
    command = _evaluate_command(run)
    if set(content['metrics']) - set(results) or not gather.agrees(content, results):
        what = (
            'evaluation-val.json is not of the current models, so its metrics have no '
            'intervals and few slices'
        )
        missing.append(Missing(what, command))
        return None
    later = ', '.join(sorted(set(loaded.x_dicts) - set(results)))
    if later:
        missing.append(Missing(f'validation was not evaluated for: {later}', command))
    return results


def _weights(loaded: _Loaded | None) -> dict[str, float]:
    """The weights of the teacher's parts."""
    teacher = loaded and loaded.teacher
    if not isinstance(teacher, PromptMM):
        return {}
    weights = dict.fromkeys(teacher.modalities, teacher.modality_weight)
    weights["a node's own features, before its neighbors'"] = teacher.self_loop_weight
    if teacher.prompt is not None:
        weights['prompt, in ids'] = teacher.prompt_id_weight
    return weights


def _shares(loaded: _Loaded | None) -> dict[str, dict[str, float]]:
    """The shares of the parts of the teacher's embeddings, by node type."""
    if loaded is None or type(loaded.teacher) not in get_args(Explainable):
        return {}
    teacher: Any = loaded.teacher
    explainer = Explainer(teacher, *loaded.data.inputs)
    shares = {x: gather.part_shares(explainer.parts(x)) for x in (USER, ITEM)}
    return {node_type: x for node_type, x in shares.items() if x}


def _sizes(run: Run, loaded: _Loaded | None) -> dict[str, Size]:
    counts = count_parameters(run) if loaded is not None else {}
    x_dicts = loaded.x_dicts if loaded is not None else {}
    sizes = {}
    for name, folder in run.folders().items():
        if (folder / MODEL).is_file():
            in_memory = gather.table_bytes(x_dicts[name]) if name in x_dicts else None
            stored = (folder / MODEL).stat().st_size
            sizes[name] = Size(counts.get(name), stored, in_memory)
    if 'ensemble' in x_dicts:
        sizes['ensemble'] = Size(None, None, gather.table_bytes(x_dicts['ensemble']))
    return sizes


def _latencies(
    recommender: Recommender | None, loaded: _Loaded | None
) -> dict[str, Any]:
    """The latency of the student and, served in the same way, of its teachers."""
    recommenders = {} if recommender is None else {'student': recommender}
    if loaded is not None:
        train = loaded.data.train
        for name in {'teacher', 'ensemble'} & set(loaded.x_dicts):
            x_dict = loaded.x_dicts[name]
            recommenders[name] = Recommender(
                x_dict[USER],
                x_dict[ITEM],
                user_ids=train[USER].raw_id,
                item_ids=train[ITEM].raw_id,
                seen=train[INTERACTS].edge_index,
            )
        recommenders = dict(sorted(recommenders.items(), reverse=True))
    if not recommenders:
        return {}
    k = min(10, *(x.num_items for x in recommenders.values()))
    return {'latencies': served.latencies(recommenders, k), 'latency_k': k}


def _curves(run: Run) -> dict[str, Any]:
    logs = {name: gather.read_log(x / LOG) for name, x in run.folders().items()}
    best = {name: run.metrics(name).get('best_epoch') for name in logs}
    default = run.config['train'].get('monitor', 'Recall@20')
    monitor = gather.shared_metric(logs, default)
    parts = {
        'curves': {
            name: gather.validation_curve(log, monitor, best[name])
            for name, log in logs.items()
        },
        'losses': {
            name: gather.loss_curve(log, best[name]) for name, log in logs.items()
        },
        'trainings': {
            name: gather.training(log, best[name]) for name, log in logs.items()
        },
    }
    known = {
        part: {name: x for name, x in by_name.items() if x is not None}  # type: ignore[attr-defined]
        for part, by_name in parts.items()
    }
    return {'monitor': monitor, **known}


def _slices(
    content: dict[str, Any] | None,
    results: dict[str, Evaluation] | None,
    val: HeteroData | None,
) -> dict[str, Any]:
    if content is None:
        return {}
    metric = gather.drawn_metric(content)
    if results and val is not None:
        slices = gather.slices(results, val, metric)
    else:
        slices = gather.recorded_slices(content, metric)
    slices += gather.recorded_groups(content, metric)
    return {'slices': slices, 'slice_metric': metric}


def _settings(run: Run) -> dict[str, str]:
    config = {key: x for key, x in run.config.items() if key not in _HIDDEN}
    settings = dict(flatten(config))
    settings |= {f'student: {name}': x for name, x in flatten(run.student_config)}
    settings |= flatten(run.config['versions'], 'version of ')
    return {name: setting_text(value) for name, value in settings.items()}
