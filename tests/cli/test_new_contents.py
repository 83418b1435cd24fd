import shutil

import numpy as np
import pytest
import torch

from promptmm_pyg.cli import main
from promptmm_pyg.content import HashingTextEncoder
from promptmm_pyg.serving import Recommender
from tests.cli.conftest import DISTILL, TRAIN, write_csv

WORDS = ('red', 'blue', 'loud', 'calm')


@pytest.fixture(scope='session')
def texts(tmp_path_factory):
    """A folder of texts of 30 items, and interactions of 12 users with them."""
    folder = tmp_path_factory.mktemp('texts')
    for i in range(30):
        (folder / f'{i}.txt').write_text(f'{WORDS[i % 4]} {WORDS[i // 8]} thing')
    rows = [(f'u{u}', i) for u in range(12) for i in range(u % 4, 30, 4)]
    rows += [(f'u{u}', (u + 1) % 30) for u in range(12) if (u + 1 - u % 4) % 4]
    write_csv(folder / 'clicks.csv', ['user_id', 'item_id'], rows)
    return folder


@pytest.fixture(scope='session')
def trained_on_texts(texts, tmp_path_factory):
    run = tmp_path_factory.mktemp('runs') / 'texts'
    data = [str(texts / 'clicks.csv'), '--text', str(texts)]
    assert main(['train', *data, '--prompt-dim', '4', '--out', str(run), *TRAIN]) == 0
    assert main(['distill', str(run), *DISTILL]) == 0
    return run


@pytest.fixture
def more(texts, tmp_path):
    """The texts of training and two more."""
    folder = tmp_path / 'texts'
    shutil.copytree(texts, folder)
    (folder / '77.txt').write_text('a calm blue thing')
    (folder / '78.txt').write_text('loud')
    return folder


def test_texts_of_new_items_are_encoded_as_those_of_training(
    trained_on_texts, copy_of, more, capsys
):
    run = copy_of(trained_on_texts)
    old = Recommender.load(run / 'recommender')
    assert main(['add-items', str(run), '--text', str(more)]) == 0
    assert '2 items added, 32 in total\n' in capsys.readouterr().out
    new = Recommender.load(run / 'recommender')
    assert new.item_ids == [*sorted(map(str, range(30))), '77', '78']
    rows = HashingTextEncoder().encode(['a calm blue thing', 'loud'])
    expected = old.feature_mapper({'text': torch.from_numpy(rows)})
    torch.testing.assert_close(new.item_x[-2:], expected)


def test_texts_come_from_a_column_too(trained_on_texts, tmp_path, capsys):
    write_csv(tmp_path / 'new.csv', ['sku', 'plot'], [(3, 'old'), (77, 'red thing')])
    words = ['--text', f'{tmp_path / "new.csv"}:plot', '--item-column', 'sku']
    out = tmp_path / 'served'
    assert main(['add-items', str(trained_on_texts), *words, '--out', str(out)]) == 0
    assert Recommender.load(out).item_ids[-1] == '77'
    assert '1 item added, 31 in total\n' in capsys.readouterr().out


def test_ids_choose_among_the_texts(trained_on_texts, more, tmp_path, fails):
    (tmp_path / 'ids.txt').write_text('78\n')
    words = ['add-items', trained_on_texts, '--text', more, '--out', tmp_path / 'out']
    message = fails(*words, '--ids', tmp_path / 'ids.txt')
    assert "must be of items in --ids (got those of '77', 1 unknown" in message


def test_a_run_without_such_contents_is_refused(
    trained_on_texts, distilled, more, tmp_path, fails
):
    message = fails('add-items', distilled, '--text', more)
    assert '--text requires a run that was trained with --text' in message
    assert 'trained with none). Pass --features' in message
    message = fails('add-items', trained_on_texts, '--images', more)
    assert "trained with ['text'])" in message
    message = fails('add-items', trained_on_texts / 'recommender', '--text', more)
    assert '--text requires the folder of a run' in message


def test_sources_are_checked(trained_on_texts, texts, more, tmp_path, fails):
    words = ['add-items', trained_on_texts]
    assert '--item-table FILE, --text SOURCE or --images' in fails(*words)
    assert 'must contain new items' in fails(*words, '--text', texts)
    assert "FILE:COLUMN (got 'title')" in fails(*words, '--text', 'title')
    np.save(tmp_path / 'x.npy', np.ones((2, 1024)))
    both = ['--text', more, '--features', f'text={tmp_path / "x.npy"}']
    assert 'Pass one of them' in fails(*words, *both)
    (more / '79.txt').write_text('')
    message = fails(*words, '--text', more)
    assert "item '79' has no features in any file" in message
