import pytest

from promptmm_pyg.content import folder_contents, table_contents

pd = pytest.importorskip('pandas')


def write(folder, *names):
    for name in names:
        (folder / name).write_text('a')
    return folder


def test_files_are_named_by_id(tmp_path):
    write(tmp_path, '7.txt', '007.txt', 'a b.TXT', 'x.y.md')
    found = folder_contents(tmp_path, 'text')
    assert found == {
        '007': tmp_path / '007.txt',
        '7': tmp_path / '7.txt',
        'a b': tmp_path / 'a b.TXT',
        'x.y': tmp_path / 'x.y.md',
    }


def test_other_files_hidden_files_and_folders_are_left_out(tmp_path):
    write(tmp_path, '1.png', '2.jpeg', '3.txt', '.4.png', 'list.json')
    (tmp_path / '5.png').mkdir()
    assert list(folder_contents(tmp_path, 'images')) == ['1', '2']


@pytest.mark.parametrize(
    ('names', 'error', 'match'),
    [
        (['1.png', '1.jpg'], ValueError, "one file for each id .*'1.jpg' and '1.png'"),
        (['1.txt'], FileNotFoundError, 'files named by raw id that end in .jpg'),
    ],
)
def test_folders_are_checked(tmp_path, names, error, match):
    write(tmp_path, *names)
    with pytest.raises(error, match=match):
        folder_contents(tmp_path, 'images')


def test_the_folder_has_to_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="'folder' must exist"):
        folder_contents(tmp_path / 'no', 'text')


def test_the_kind_is_checked(tmp_path):
    with pytest.raises(ValueError, match="'kind' must be one of"):
        folder_contents(tmp_path, 'audio')


TABLE = {
    'user_id': [1, 1, 2, 2, 3],
    'item_id': [10, 20, 20, 30, 10],
    'title': [None, 'b', 'other', None, 'a'],
    'year': [1990, 1991, 1991, 1992, 1990],
}


@pytest.mark.parametrize('suffix', ['csv', 'parquet'])
def test_an_item_keeps_its_first_text(tmp_path, suffix):
    path = tmp_path / f't.{suffix}'
    frame = pd.DataFrame(TABLE)
    frame.to_csv(path, index=False) if suffix == 'csv' else frame.to_parquet(path)
    kind = str if suffix == 'csv' else int  # Only Parquet has types.
    titles = {10: 'a', 20: 'b', 30: None}
    years = {10: '1990', 20: '1991', 30: '1992'}
    assert table_contents(path, 'title') == {kind(k): x for k, x in titles.items()}
    assert table_contents(path, 'year') == {kind(k): x for k, x in years.items()}
    assert set(table_contents(path, 'title', item='user_id')) == set(
        map(kind, (1, 2, 3))
    )


@pytest.mark.parametrize(
    ('name', 'text', 'match'),
    [
        ('t.csv', 'item_id,name\n1,a\n', r"have a column 'title' \(got \['item"),
        ('t.csv', '', r'must begin with a line of column names'),
        ('t.csv', 'item_id,title\na,x\n,y\n', r'1 empty, the first in line 3'),
        ('t.parquet', 'no', r'must be a whole \.parquet table'),
        ('t.xlsx', '', r'must end in one of \.csv, \.tsv'),
    ],
)
def test_tables_are_checked(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=match):
        table_contents(tmp_path / name, 'title')


def test_the_table_has_to_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='must be a file'):
        table_contents(tmp_path / 't.csv', 'title')
