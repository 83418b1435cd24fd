import csv
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from promptmm_pyg.cli import main
from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_per_user

QUICK = ['--epochs', '2', '--batch-size', '128', '--validate-every', '1', '--quiet']
TRAIN = [*QUICK, '--embedding-dim', '8']
DISTILL = [*QUICK, '--embedding-dim', '4']
SIZES = {'num_users': 40, 'num_items': 60, 'num_clusters': 4}


def write_csv(path, head, rows):
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerows([head, *rows])


def printed(*words):
    """What a command that succeeds prints to stdout and stderr."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        assert main([str(word) for word in words]) == 0
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope='session')
def files(tmp_path_factory):
    """The same made-up data as a table with ids of its own and as a folder."""
    folder = tmp_path_factory.mktemp('data')
    graph = make_synthetic_dataset(**SIZES)
    users, items = graph['user'].raw_id, graph['item'].raw_id
    pairs = graph[INTERACTS].edge_index.t().tolist()
    times = graph[INTERACTS].time.tolist()
    table = folder / 'clicks.csv'
    rows = [(users[u], items[i], t) for (u, i), t in zip(pairs, times, strict=True)]
    write_csv(table, ['user_id', 'item_id', 'when'], rows)
    x = graph['item'].x_text[:, :6].tolist()
    columns = [f'c{number}' for number in range(6)]
    text = [(items[i], *row) for i, row in enumerate(x)]
    write_csv(folder / 'text.csv', ['item_id', *columns], text)
    titles = [(item, f'The {item}') for item in items]
    write_csv(folder / 'titles.csv', ['item_id', 'title'], titles)

    layout = folder / 'mmssl'
    layout.mkdir()
    split = split_per_user(graph, 0.2, 0.2)
    edges = {
        'train': split.train[INTERACTS].edge_index,
        'val': split.val[INTERACTS].edge_label_index,
        'test': split.test[INTERACTS].edge_label_index,
    }
    for name, index in edges.items():
        lists = {}
        for user, item in index.t().tolist():
            lists.setdefault(str(user), []).append(item)
        (layout / f'{name}.json').write_text(json.dumps(lists))
    np.save(layout / 'text_feat.npy', graph['item'].x_text.numpy())
    return SimpleNamespace(
        table=str(table),
        text=str(folder / 'text.csv'),
        titles=str(folder / 'titles.csv'),
        layout=str(layout),
        edges=edges,
    )


@pytest.fixture(scope='session')
def trained(files, tmp_path_factory):
    """A run with a teacher only."""
    run = tmp_path_factory.mktemp('runs') / 'teacher'
    data = [files.table, '--features', f'text={files.text}', '--titles', files.titles]
    assert main(['train', *data, '--out', str(run), *TRAIN]) == 0
    return run


@pytest.fixture(scope='session')
def distilled(trained, tmp_path_factory):
    """A run with everything."""
    run = tmp_path_factory.mktemp('runs') / 'student'
    shutil.copytree(trained, run)
    assert main(['distill', str(run), *DISTILL]) == 0
    return run


@pytest.fixture
def copy_of(tmp_path):
    """Copies a shared run, to be changed."""

    def copy(run):
        return Path(shutil.copytree(run, tmp_path / 'copy'))

    return copy


@pytest.fixture
def fails(capsys):
    """Runs the program, expects a mistake, and returns its one line."""

    def run(*argv):
        capsys.readouterr()
        assert main([str(word) for word in argv]) == 2
        out, err = capsys.readouterr()
        assert out == ''
        lines = [x for x in err.splitlines() if not x.startswith('warning: ')]
        assert len(lines) == 1
        assert lines[0].startswith('promptmm: error: ')
        return lines[0]

    return run
