import contextlib
import csv
import io
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from promptmm_pyg.cli import main
from promptmm_pyg.data import INTERACTS, make_synthetic_dataset

EVIL = '<script>document.title = "owned"</script><img src=x onerror="x()"> & \'"'
NAME = 'a <b id=x> & run'
SIZES = {'num_users': 60, 'num_items': 50, 'num_clusters': 4}
TRAIN = ['--epochs', '3', '--batch-size', '128', '--embedding-dim', '8', '--quiet']
DISTILL = ['--epochs', '3', '--batch-size', '128', '--embedding-dim', '4', '--quiet']
VOID = {'meta', 'br', 'img', 'input', 'link', 'hr'}


class Page(HTMLParser):
    """Reads a page and fails where tags do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f'never closed: {self.open}'

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f'</{tag}> without a start'
        assert self.open.pop() == tag, f'</{tag}> out of order'

    def handle_data(self, data):
        if 'style' not in self.open:
            self.words.append(data)

    @property
    def text(self):
        """All that can be read."""
        return ' '.join(' '.join(self.words).split())

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)

    def named(self, key):
        return any(attrs.get('id') == key for _, attrs in self.tags)


def write(path, head, rows):
    with path.open('w', newline='') as file:
        csv.writer(file).writerows([head, *rows])


def quietly(*argv):
    """Runs the program and returns what it printed to either stream."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([str(word) for word in argv]) == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """A run with a teacher only, whose data lie in the folder beside it."""
    folder = tmp_path_factory.mktemp('report')
    graph = make_synthetic_dataset(**SIZES)
    users, items = graph['user'].raw_id, graph['item'].raw_id
    pairs = graph[INTERACTS].edge_index.t().tolist()
    write(
        folder / 'c.csv',
        ['user_id', 'item_id', 'time'],
        [
            (users[u], items[i], t)
            for (u, i), t in zip(pairs, graph[INTERACTS].time.tolist(), strict=True)
        ],
    )
    x = graph['item'].x_text[:, :6]
    head = ['item_id', *(f'c{column}' for column in range(6))]
    rows = [(items[i], *row) for i, row in enumerate(x.tolist()) if i % 5]
    write(folder / 'text.csv', head, rows)
    titles = [(item, f'{EVIL} {item}') for item in items]
    write(folder / 'titles.csv', ['item_id', 'title'], titles)
    run = folder / NAME
    words = ['--features', f'text={folder}/text.csv']
    words += ['--titles', folder / 'titles.csv', '--out', run]
    quietly('train', folder / 'c.csv', *words, *TRAIN)
    return run


def _copy(run, tmp_path_factory):
    return Path(shutil.copytree(run, tmp_path_factory.mktemp('run') / run.name))


@pytest.fixture(scope='session')
def distilled(trained, tmp_path_factory):
    """The same with a student that was not evaluated."""
    run = _copy(trained, tmp_path_factory)
    quietly('distill', run, *DISTILL)
    return run


@pytest.fixture(scope='session')
def whole(distilled, tmp_path_factory):
    """The same, evaluated on validation."""
    run = _copy(distilled, tmp_path_factory)
    quietly('evaluate', run)
    return run


@pytest.fixture(scope='session')
def whole_page(whole, tmp_path_factory):
    """The file of a report on everything."""
    out = tmp_path_factory.mktemp('page') / 'whole.html'
    quietly('report', whole, '--out', out)
    return out


@pytest.fixture
def copy_of(tmp_path):
    """Copies a shared run, to be changed."""
    return lambda run: Path(shutil.copytree(run, tmp_path / run.name))


@pytest.fixture
def report_on(tmp_path):
    """Makes a report and returns its page, and what was said on the way."""

    def make(run):
        out = tmp_path / 'out.html'
        _, err = quietly('report', run, '--out', out)
        return Page(out.read_text(encoding='utf-8')), err

    return make
