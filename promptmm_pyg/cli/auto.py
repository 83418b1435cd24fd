"""``promptmm auto``: the best recommender within a budget of time."""

import argparse
from typing import Any

from promptmm_pyg.auto import auto_run
from promptmm_pyg.cli.data import data_config
from promptmm_pyg.cli.evaluate import ONE_TRAINING, format_table, interval_text
from promptmm_pyg.cli.parsing import (
    Parser,
    add_config_options,
    add_device,
    add_flags,
    check_device,
    config_text,
)
from promptmm_pyg.cli.train import add_run_options, titles_config
from promptmm_pyg.evaluation import PairedTest
from promptmm_pyg.runs import Run
from promptmm_pyg.runs.folder import read_json

DESCRIPTION = """\
Find the best recommender within a budget of time: closed forms first, then the models
that the data allow, tuned by successive halving; the best of them, weighted on
validation, are one teacher; a student of it, two small tables, is what RUN serves.
Validation chooses everything. At the end all are compared on test, once, with 95%
intervals of the differences to LightGCN and EASE, which are tuned with the same budget.

RUN will be a run like any other: evaluate, recommend, report and export work, and
members/ has a run of every teacher. Ctrl-C ends with the best so far; the same command
with --resume goes on, also with more --minutes."""
EXAMPLE = """\
example:
  promptmm auto clicks.csv --features text=text.npy --minutes 30 --out runs/best
  promptmm auto data/tiktok --minutes 240 --out runs/tiktok
  promptmm auto data/tiktok --models EASE LightGCN FREEDOM --out runs/three"""
_ORDER = ('ensemble', 'student', 'truncated_teacher', 'teacher', 'LightGCN', 'EASE')


def add_arguments(parser: Parser) -> None:
    """Adds all options."""
    parser.usage = 'promptmm auto PATH --out RUN [options]'
    add_run_options(parser)
    add_flags(
        parser,
        """
--minutes X [30]  budget of wall-clock time, reading and test included
--models NAME...  models to try (default: all that the data allow)
--embedding-dim N [32]  width of the student
--jobs N  models that are trained side by side, each with its share of the cores
  (default: by cores and memory)
--seed N [0]  seed of everything random
--quiet  show no progress""",
    )
    add_device(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Searches, and prints the leaderboard and the proof."""
    data = data_config(args)
    titles = titles_config(args, data)
    if args.print_config:
        print(config_text(args))
        return 0
    run = auto_run(
        args.out,
        data,
        minutes=args.minutes,
        models=args.models,
        embedding_dim=args.embedding_dim,
        jobs=args.jobs,
        seed=args.seed,
        titles=titles,
        device=check_device(args.device),
        overwrite=args.overwrite,
        resume=args.resume,
        progress=not args.quiet,
    )
    print(f'{run.search["monitor"]} on validation')
    print(format_table(HEAD, leaderboard(run.search)))
    print(_proof(run))
    print(f'next: promptmm report {run.path}')
    return 0


HEAD = ('model', 'validation', 'weight', 'trials', 'epochs', 'CPU s', 'settings')


def leaderboard(search: dict[str, Any]) -> list[list[Any]]:
    """One row per model, the best first: its best trial, and its weight in the
    ensemble.
    """
    weights = (search.get('ensemble') or {}).get('weights', {})
    trials: dict[str, list[dict[str, Any]]] = {}
    for trial in sorted(search.get('trials', ()), key=lambda x: -(x['value'] or 0.0)):
        trials.setdefault(trial['model'], []).append(trial)
    rows = []
    for model, tried in trials.items():
        best = tried[0]
        weight = sum(weights.get(trial['name'], 0.0) for trial in tried)
        seed = {} if best['seed'] is None else {'seed': best['seed']}
        settings = ', '.join(f'{k} {v}' for k, v in (best['params'] | seed).items())
        rows.append(
            [
                model,
                best['value'],
                f'{weight:.2f}' if weight else '-',
                sum(trial['tried'] for trial in tried),
                best['epochs'],
                round(sum(trial['cpu_seconds'] for trial in tried)),
                _note(best) or settings or 'default',
            ]
        )
    return rows


def _note(trial: dict[str, Any]) -> str:
    if trial['status'] == 'new':
        return 'not tried: no time was left'
    return f'left out: {trial["error"]}' if trial['error'] else ''


def _proof(run: Run) -> str:
    """The recorded evaluation on test, else on validation."""
    files = [run.evaluation_file(split) for split in ('test', 'val')]
    content = next((read_json(file) for file in files if file.is_file()), {})
    if not content:
        return f'next: promptmm evaluate {run.path}'
    metrics = content['metrics']
    names = [name for name in _ORDER if name in metrics]
    keys = [key for key in metrics['student'] if key.startswith(('Recall', 'NDCG'))]
    dims = content['embedding_dim']
    rows = [[x, dims[x], *(metrics[x][key] for key in keys)] for x in names]
    lines = [f'\n{content["split"]}, read once at the end']
    lines.append(format_table(['', 'dim', *keys], rows))
    lines.append('\ndifferences with 95% intervals')
    for pair, by_metric in content['differences'].items():
        metric, test = next(iter(by_metric.items()))
        if set(pair.split(' - ')) <= set(names) and None not in test.values():
            text = interval_text(PairedTest(**test))
            lines.append(f'{pair:<27}  {metric}  {text}')
    lines.append(ONE_TRAINING)
    return '\n'.join(lines)
