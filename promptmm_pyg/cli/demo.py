"""``promptmm demo``: everything once, on made-up data."""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from promptmm_pyg.cli.data_source import fingerprint, load_split
from promptmm_pyg.cli.demo_settings import BASELINE, CONFIG, STUDENT
from promptmm_pyg.cli.evaluate import comparisons, evaluate_tables, record
from promptmm_pyg.cli.models import Prepared, Tables, load_tables, prepare
from promptmm_pyg.cli.parsing import UserError, add_progress
from promptmm_pyg.cli.recommend import recommend, recommendation_table
from promptmm_pyg.cli.run_folder import RunFolder, read_json, write_json
from promptmm_pyg.cli.stages import best, distill_run, train, training_config
from promptmm_pyg.cli.tables import table
from promptmm_pyg.data import INTERACTS, ITEM, USER, Split
from promptmm_pyg.evaluation import Evaluation, paired_bootstrap
from promptmm_pyg.models import LightGCN
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.serving import Recommender
from promptmm_pyg.training import train as train_model
from promptmm_pyg.training.loop import LOG

_DESCRIPTION = """\
Do everything once on made-up data, in about a minute on one slow core: train LightGCN
on ids alone, PromptMM's teacher on ids and features, a student of a quarter of the
teacher's width with the teacher and, as its control, without. Then read test once,
recommend, and draw a figure.

The data are synthetic: 2,000 users and 1,000 items of 25 tastes, three modalities
that show the taste through more or less noise. They show what the parts do, not how
good they are on real data."""
_EXAMPLE = """\
example:
  promptmm demo
  promptmm demo --out runs/second && promptmm recommend runs/second --users u7"""
_ORDER = ('LightGCN', 'teacher', 'student', 'control')
_PAIRS = (('teacher', 'LightGCN'), ('student', 'control'), ('teacher', 'student'))


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``demo`` to the program."""
    parser = commands.add_parser(
        'demo',
        **kwargs,
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
    )
    parser.add_argument(
        '--out',
        default='runs/demo',
        metavar='DIR',
        help='folder to write; an earlier demo there is replaced (default: runs/demo)',
    )
    add_progress(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the demo as it is described."""
    demo(args.out, progress=not args.quiet)
    return 0


def demo(out: str | Path, *, progress: bool = True) -> None:
    """Trains, compares, recommends and draws, into one folder.

    Args:
        out: The folder.
        progress: Whether to show progress bars. (default: ``True``)
    """
    started = time.perf_counter()
    config, student = dict(CONFIG), STUDENT
    folder = _begin(out)
    split = load_split(config['data'])
    config['data_sha256'] = fingerprint(split)
    data = prepare(split, config['prompt'])
    users, items = data.train[USER].num_nodes, data.train[ITEM].num_nodes
    _say(f'made-up data: {users} users, {items} items, three modalities')

    train(folder, config, data, progress=progress)
    baseline = _train_baseline(folder, config, data, progress)
    distill_run(
        folder, config, student, data, progress=progress, titles=_tastes(data, ITEM)
    )
    tables = {'LightGCN': baseline, **load_tables(folder, config, data)}
    tables = {name: tables[name] for name in _ORDER}
    found = evaluate_tables(tables, data.test)
    record(folder, 'test', tables, found, data.test)
    print(_results(folder, found, tables))
    for line in comparisons(found, _PAIRS):
        print(line)
    _print_recommendations(folder, data)
    _draw(folder, found)
    print(f'\neverything is in {folder.path}, {time.perf_counter() - started:.0f} s')


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _begin(out: str | Path) -> RunFolder:
    folder = RunFolder(out)
    if folder.config_file.is_file():
        config = folder.read_config()
        if config.get('data', {}).get('format') != 'synthetic':
            raise UserError(f"'{out}' holds a run of yours. Choose another --out")
        folder.evaluation('test').unlink(missing_ok=True)
    folder.begin(overwrite=True)
    return folder


def _train_baseline(
    folder: RunFolder, config: dict[str, Any], data: Prepared, progress: bool
) -> Tables:
    options = config['train']
    torch.manual_seed(options['seed'])
    counts = data.train.num_nodes_dict
    model = LightGCN(counts, embedding_dim=int(BASELINE['embedding_dim']))
    history = train_model(
        model,
        Split(data.train, data.val, data.test),
        inputs=data.inputs,
        loss_weights={'bpr': 1.0, 'l2': BASELINE['l2']},
        config=training_config(
            options,
            config['schedule'],
            _baseline(folder),
            resume=False,
            progress=progress,
        ),
    )
    write_json(_baseline(folder) / 'metrics.json', best(history))
    return get_embeddings(model, data.inputs)


def _baseline(folder: RunFolder) -> Path:
    return folder.path / 'lightgcn'


def _folders(folder: RunFolder) -> dict[str, Path]:
    places = (_baseline(folder), folder.teacher, folder.student, folder.control)
    return dict(zip(_ORDER, places, strict=True))


def _tastes(data: Prepared, node_type: str) -> dict[Any, str]:
    store = data.train[node_type]
    pairs = zip(store.raw_id.tolist(), store.taste.tolist(), strict=True)
    return {raw: f'taste {taste}' for raw, taste in pairs}


def _results(
    folder: RunFolder, found: Mapping[str, Evaluation], tables: Mapping[str, Tables]
) -> str:
    rows = []
    for name, place in _folders(folder).items():
        metrics = read_json(place / 'metrics.json')
        one = found[name].metrics
        width = tables[name][ITEM].size(1)
        chosen = metrics['best_value']
        rows.append([name, width, chosen, one['Recall@20'], one['NDCG@20']])
    head = ['model', 'width', 'val Recall@20', 'test Recall@20', 'test NDCG@20']
    title = 'synthetic data; epochs chosen on validation, test read once'
    return f'\n{title}\n{table(head, rows)}'


def _print_recommendations(folder: RunFolder, data: Prepared) -> None:
    busiest = data.train[INTERACTS].edge_index[0].bincount().argmax()
    user = str(data.train[USER].raw_id[int(busiest)])
    recommender = Recommender.load(folder.recommender)
    taste = _tastes(data, USER)[user]
    print(f'\nfive recommendations for {user}, the most active user, who has {taste}')
    print(recommendation_table(recommend(recommender, [user], 5)))


def _log(place: Path) -> list[dict[str, Any]]:
    text = (place / LOG).read_text(encoding='utf-8')
    return [json.loads(line) for line in text.splitlines()]


def _draw(folder: RunFolder, found: Mapping[str, Evaluation]) -> None:
    from promptmm_pyg.viz import Bar, plot_run, save_figure

    curves = {name: _log(place) for name, place in _folders(folder).items()}
    bars = {}
    for name, one in found.items():
        values = one.per_user['Recall@20']
        interval = paired_bootstrap(values, torch.zeros_like(values))
        bars[name] = Bar(interval.difference, interval.low, interval.high)
    file = folder.path / 'demo.png'
    try:
        save_figure(plot_run(curves, bars), file)
    except ImportError as error:
        _say(f'no figure: {error}')
        return
    print(f'\nfigure: {file}')
