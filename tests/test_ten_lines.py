"""The program of the README runs as it is printed there."""

import csv
import pickle
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix

from promptmm_pyg import Recommender, TrainingConfig, split_per_user
from promptmm_pyg.cli import main
from promptmm_pyg.data import INTERACTS, make_synthetic_dataset
from tests.real_data import sample_tiktok

README = (Path(__file__).parents[1] / 'README.md').read_text(encoding='utf-8')
PROGRAM = re.findall(r'```python\n(.*?)```', README, re.DOTALL)[0]
OUTPUT = re.findall(r'```text\n(.*?)```', README, re.DOTALL)[0]
USERS, ITEMS = 60, 50


def run(program, folder, monkeypatch, epochs):
    config = TrainingConfig(epochs=epochs, progress=False)
    for name in ('training.train', 'distillation.distill'):
        module = import_module(f'promptmm_pyg.{name}')
        monkeypatch.setattr(module, 'TrainingConfig', lambda: config)
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    names = {}
    exec(program, names)
    return names


def check(names, printed):
    """The table has the rows and columns of the README, and the student is served."""
    rows = [line.split()[0] for line in OUTPUT.splitlines()[1:]]
    assert [line.split()[0] for line in printed.splitlines()[1:]] == rows
    assert printed.splitlines()[1].split() == OUTPUT.splitlines()[1].split()
    served = Recommender.load('served')
    user = served.user_ids[0]
    assert len(served.recommend(user, k=5).ids) == 5
    assert names['result'].baseline is not None


@pytest.fixture
def synthetic():
    return make_synthetic_dataset(USERS, ITEMS, 4, seed=0)


def write_diffmm(folder, graph):
    """The layout of DiffMM: three sparse matrices and one array per modality."""
    folder.mkdir(parents=True)
    split = split_per_user(graph)
    train = split.train[INTERACTS].edge_index
    parts = [train] + [x[INTERACTS].edge_label_index for x in (split.val, split.test)]
    for name, edges in zip(('trn', 'val', 'tst'), parts, strict=True):
        ones = np.ones(edges.size(1), dtype=np.float32)
        matrix = coo_matrix((ones, edges.numpy()), shape=(USERS, ITEMS))
        (folder / f'{name}Mat.pkl').write_bytes(pickle.dumps(matrix))
    for name in ('image', 'text'):
        np.save(folder / f'{name}_feat.npy', graph['item'][f'x_{name}'].numpy())


def test_the_program_is_ten_lines():
    lines = [line for line in PROGRAM.splitlines() if line.strip()]
    assert len(lines) <= 10


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_on_a_folder(synthetic, tmp_path, monkeypatch, capsys):
    write_diffmm(tmp_path / 'data' / 'ml100k', synthetic)
    names = run(PROGRAM, tmp_path, monkeypatch, epochs=2)
    check(names, capsys.readouterr().out)
    # The folder has its own split, which is kept.
    expected = split_per_user(synthetic).test[INTERACTS].edge_label_index
    assert names['data'].test[INTERACTS].edge_label_index.size() == expected.size()


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_on_tables(synthetic, tmp_path, monkeypatch, capsys):
    raw = {key: list(synthetic[key].raw_id) for key in ('user', 'item')}
    with (tmp_path / 'clicks.csv').open('w', newline='') as file:
        edges = synthetic[INTERACTS].edge_index.t().tolist()
        rows = [(raw['user'][u], raw['item'][i]) for u, i in edges]
        csv.writer(file).writerows([('user_id', 'item_id'), *rows])
    with (tmp_path / 'text.csv').open('w', newline='') as file:
        x = synthetic['item'].x_text[:, :6].tolist()
        rows = [(item, *row) for item, row in zip(raw['item'], x, strict=True)]
        head = ('item_id', *(f'c{n}' for n in range(6)))
        csv.writer(file).writerows([head, *rows])
    call = re.search(r"load_dataset\('clicks.csv', [^`]*\)", README)[0]
    program = PROGRAM.replace("load_dataset('data/ml100k')", call)
    assert program != PROGRAM
    names = run(program, tmp_path, monkeypatch, epochs=2)
    check(names, capsys.readouterr().out)
    assert set(names['data'].train['user'].raw_id) <= set(raw['user'])


@pytest.mark.real_data
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_on_tiktok(tmp_path, monkeypatch, capsys):
    sample_tiktok(tmp_path / 'data' / 'ml100k')
    names = run(PROGRAM, tmp_path, monkeypatch, epochs=2)
    printed = capsys.readouterr().out
    check(names, printed)
    assert OUTPUT.startswith('904 users x 1682 items')
    assert printed.startswith('140 users x 6710 items')


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_the_four_command_lines(synthetic, tmp_path, monkeypatch, capsys):
    write_diffmm(tmp_path / 'data' / 'ml100k', synthetic)
    monkeypatch.chdir(tmp_path)
    block = README.split('## The command line')[1].split('```bash\n')[1].split('```')[0]
    lines = block.splitlines()
    assert len(lines) == 4
    for line in lines:
        program, *words = line.split()
        assert program == 'promptmm'
        if words[0] in ('train', 'distill'):
            words += ['--epochs', '1', '--quiet']
        assert main(words) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert len(re.findall(r'^(?:17|42) ', printed, re.MULTILINE)) == 20
