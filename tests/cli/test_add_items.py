import csv
import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from promptmm_pyg.cli import main
from promptmm_pyg.cli.add_items import _load, read_new_features
from promptmm_pyg.serving import Recommender
from tests.cli.conftest import write_csv


@pytest.fixture
def new_text(files, tmp_path):
    """Features of two new items that are those of old ones, as a table."""
    with Path(files.text).open(newline='') as file:
        head, *rows = csv.reader(file)
    rows = [['n1', *rows[4][1:]], ['n2', *rows[9][1:]]]
    path = tmp_path / 'new.csv'
    with path.open('w', newline='') as file:
        csv.writer(file).writerows([head, *rows])
    return path, np.array([row[1:] for row in rows], dtype=np.float32)


def add(run, *words):
    return main(['add-items', str(run), *map(str, words)])


def test_new_items_are_placed_by_their_features(distilled, copy_of, new_text, capsys):
    path, x = new_text
    run = copy_of(distilled)
    old = Recommender.load(run / 'recommender')
    assert add(run, '--features', f'text={path}') == 0
    out = capsys.readouterr().out
    assert f'2 items added, {old.num_items + 2} in total\n' in out
    assert f'written: {run / "recommender"}' in out
    new = Recommender.load(run / 'recommender')
    assert new.item_ids == [*old.item_ids, 'n1', 'n2']
    assert new.num_added == 2
    torch.testing.assert_close(new.item_x[:-2], old.item_x)
    expected = old.feature_mapper({'text': torch.from_numpy(x)})
    torch.testing.assert_close(new.item_x[-2:], expected)
    assert new.card['metrics'] == old.card['metrics']


def test_columns_may_be_in_another_order(distilled, new_text, tmp_path, fails):
    path, _ = new_text
    with path.open(newline='') as file:
        head, *rows = csv.reader(file)
    out = [tmp_path / name for name in ('given', 'reordered')]
    add(distilled, '--features', f'text={path}', '--out', out[0])
    other = tmp_path / 'other.csv'
    write_csv(other, [*head[::-1], 'more'], [[*row[::-1], 0] for row in rows])
    add(distilled, '--features', f'text={other}', '--out', out[1])
    given, reordered = (Recommender.load(folder).item_x for folder in out)
    torch.testing.assert_close(reordered, given)
    write_csv(other, head[:-1], [row[:-1] for row in rows])
    argv = ['add-items', distilled, '--features', f'text={other}']
    assert f'must have the columns of training (got {head[1:-1]}' in fails(*argv)


def test_new_items_are_recommended(distilled, copy_of, new_text, tmp_path, capsys):
    run = copy_of(distilled)
    add(run, '--features', f'text={new_text[0]}')
    (tmp_path / 'new.txt').write_text('n1\nn2\n')
    capsys.readouterr()
    words = ['--users', 'u1', '-k', '2', '--allow', str(tmp_path / 'new.txt')]
    assert main(['recommend', str(run), *words, '--json']) == 0
    items = json.loads(capsys.readouterr().out)[0]['items']
    assert {item['item'] for item in items} == {'n1', 'n2'}


def test_rows_without_ids_take_those_of_a_file(distilled, new_text, tmp_path):
    path, x = new_text
    np.save(tmp_path / 'x.npy', x[::-1])
    (tmp_path / 'ids.txt').write_text('n2\nn1\n')
    out = [tmp_path / name for name in ('table', 'rows')]
    add(distilled, '--features', f'text={path}', '--out', out[0])
    words = ['--ids', tmp_path / 'ids.txt', '--out', out[1]]
    add(distilled, '--features', f'text={tmp_path / "x.npy"}', *words)
    table, rows = (Recommender.load(folder) for folder in out)
    assert rows.item_ids[-2:] == ['n2', 'n1']
    torch.testing.assert_close(rows.item_x[-2:], table.item_x[-2:].flip(0))


def test_another_folder_leaves_the_run_as_it_was(distilled, new_text, tmp_path):
    before = Recommender.load(distilled / 'recommender').num_items
    add(distilled, '--features', f'text={new_text[0]}', '--out', tmp_path / 'a')
    assert Recommender.load(distilled / 'recommender').num_items == before


def test_a_recommender_alone_takes_items_and_titles(distilled, new_text, tmp_path):
    folder = shutil.copytree(distilled / 'recommender', tmp_path / 'served')
    (tmp_path / 't.csv').write_text('item_id,title\nn2,Second\ni1,Old\n')
    words = ['--features', f'text={new_text[0]}', '--titles', tmp_path / 't.csv']
    assert add(folder, *words) == 0
    model = Recommender.load(folder)
    assert model.titles['n2'] == 'Second'
    assert 'n1' not in model.titles
    assert model.titles['i1'] == 'The i1'


def test_titles_that_match_no_new_item_are_a_warning(
    distilled, new_text, tmp_path, capsys
):
    (tmp_path / 't.csv').write_text('item_id,title\nN1,First\n')
    words = ['--features', f'text={new_text[0]}', '--titles', str(tmp_path / 't.csv')]
    out = str(tmp_path / 'served')
    assert main(['add-items', str(distilled), *words, '--out', out]) == 0
    assert "1 of 1 titles match no item, such as 'N1'" in capsys.readouterr().err


def served(folder, ids):
    """A recommender whose items have text of three channels, image of two."""
    g = torch.Generator().manual_seed(0)
    x = {n: torch.randn(20, w, generator=g) for n, w in (('text', 3), ('image', 2))}
    model = Recommender(
        torch.randn(8, 4, generator=g),
        torch.randn(20, 4, generator=g),
        user_ids=list(range(8)),
        item_ids=ids,
        seen=torch.stack([torch.arange(20) % 8, torch.arange(20)]),
    )
    model.fit_feature_mapper(x)
    model.save(folder)
    return model


def test_an_item_may_lack_a_modality(tmp_path):
    old = served(tmp_path / 'served', list(range(20)))
    np.save(tmp_path / 'text.npy', np.array([[1.0, 2, 3], [0, 0, 0]]))
    (tmp_path / 'image.csv').write_text('item_id,a,b\n51,5,6\n')
    (tmp_path / 'ids.txt').write_text('50\n51\n')
    files = [f'text={tmp_path / "text.npy"}', f'image={tmp_path / "image.csv"}']
    words = ['--features', *files, '--ids', tmp_path / 'ids.txt']
    assert add(tmp_path / 'served', *words) == 0
    new = Recommender.load(tmp_path / 'served')
    assert new.item_ids[-2:] == [50, 51]
    one = old.feature_mapper({'text': torch.tensor([[1.0, 2, 3]])})
    two = old.feature_mapper({'image': torch.tensor([[5.0, 6]])})
    torch.testing.assert_close(new.item_x[-2:], torch.cat([one, two]))


def test_numbers_stay_text_where_ids_are_text(tmp_path):
    served(tmp_path / 'served', [str(n) for n in range(20)])
    (tmp_path / 'image.csv').write_text('item_id,a,b\n51,5,6\n')
    assert (
        add(tmp_path / 'served', '--features', f'image={tmp_path / "image.csv"}') == 0
    )
    assert Recommender.load(tmp_path / 'served').item_ids[-1] == '51'


@pytest.mark.parametrize(
    ('table', 'words', 'message'),
    [
        ('item_id,a,b\n3,1,2\n', [], "item '3' exists already (1 such items"),
        ('item_id,a,b\nx,1,2\n', [], 'ids must be integers'),
        (
            'item_id,a,b\n50,1,2\n50,3,4\n',
            [],
            "must contain each id once (got '50' again in line 3)",
        ),
        ('item_id,a\n50,1\n', [], 'must have 2 channels, as in training (got 1)'),
        (
            'item_id,a,b\n50,x,2\n',
            [],
            "must have numeric columns only beside 'item_id' (got ['a'])",
        ),
        ('item_id,a,b\n50,,2\n', [], "have a gap in item '50' (1 such items"),
        ('item_id,a,b\n50,0,0\n', [], "item '50' has no features in any file (1 such"),
        ('item_id,a,b\n', [], 'there are no new items in these files'),
        ('id,a,b\n50,1,2\n', [], "must have a column 'item_id'"),
        (
            'item_id,a,b\n50,1,2\n',
            ['--ids', 'IDS'],
            "those of '50', 1 unknown in total",
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, fails, table, words, message):
    served(tmp_path / 'served', list(range(20)))
    (tmp_path / 'x.csv').write_text(table)
    (tmp_path / 'ids.txt').write_text('60\n')
    words = [str(tmp_path / 'ids.txt') if word == 'IDS' else word for word in words]
    features = ['--features', f'image={tmp_path / "x.csv"}']
    assert message in fails('add-items', tmp_path / 'served', *features, *words)
    assert Recommender.load(tmp_path / 'served').num_items == 20


def test_rows_need_as_many_ids_each_once(tmp_path, fails):
    served(tmp_path / 'served', list(range(20)))
    np.save(tmp_path / 'x.npy', np.ones((2, 2)))
    words = ['add-items', tmp_path / 'served', '--features', f'image={tmp_path}/x.npy']
    assert 'has no ids of its own: pass --ids FILE' in fails(*words)
    ids = tmp_path / 'ids.txt'
    ids.write_text('50\n51\n52\n')
    assert 'a row for each of the 3 --ids (got 2)' in fails(*words, '--ids', ids)
    ids.write_text('50\n50\n')
    assert "item '50' occurs twice in --ids" in fails(*words, '--ids', ids)


def test_modalities_and_files_need_to_be_known(tmp_path, fails):
    served(tmp_path / 'served', list(range(20)))
    words = ['add-items', tmp_path / 'served', '--features']
    assert "of ['image', 'text'], those of training (got 'audio')" in fails(
        *words, 'audio=x.npy'
    )
    assert "a file that does not exist: 'nowhere.npy'" in fails(
        *words, 'text=nowhere.npy'
    )


def test_a_folder_that_holds_something_is_kept(tmp_path, fails):
    served(tmp_path / 'served', list(range(20)))
    served(tmp_path / 'other', list(range(20)))
    (tmp_path / 'x.csv').write_text('item_id,a,b\n50,1,2\n')
    words = ['--features', f'image={tmp_path / "x.csv"}', '--out']
    words = ['add-items', tmp_path / 'served', *words]
    assert 'contains a recommender' in fails(*words, tmp_path / 'other')
    assert 'contains something that is not a recommender' in fails(*words, tmp_path)
    assert '--out must be a folder' in fails(*words, tmp_path / 'x.csv')
    assert main([str(x) for x in (*words, tmp_path / 'other', '--overwrite')]) == 0
    assert Recommender.load(tmp_path / 'other').num_items == 21


def test_without_a_feature_path_nothing_is_added(tmp_path, fails):
    x = torch.eye(3)
    Recommender(x, x, user_ids=[1, 2, 3], item_ids=[1, 2, 3], seen=None).save(tmp_path)
    message = fails('add-items', tmp_path, '--features', 'text=x.npy')
    assert 'cannot add items' in message


def test_rows_without_a_feature_are_zeros_behind_a_mask(tmp_path):
    (tmp_path / 'a.csv').write_text('item_id,x,y\n50,1,2\n51,,\n52,0,0\n')
    (tmp_path / 'b.csv').write_text('item_id,z\n50,3\n51,4\n52,5\n')
    args = Namespace(item_column='item_id', ids=None, padding_row=False)
    tables = {name: _load(tmp_path / f'{name}.csv', args) for name in ('a', 'b')}
    new = read_new_features(tables, None)
    assert new.modality_x['a'].tolist() == [[1, 2], [0, 0], [0, 0]]
    assert new.modality_mask['a'].tolist() == [True, False, False]
