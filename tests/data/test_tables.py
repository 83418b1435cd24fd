"""Files of every kind give one graph; what is damaged is named with its line."""

import gzip
import json

import numpy as np
import pytest

from promptmm_pyg.data import INTERACTS, load_dataset, read_table, table_files
from promptmm_pyg.data.tables import read_file

pa = pytest.importorskip('pyarrow')
pd = pytest.importorskip('pandas')
parquet = pytest.importorskip('pyarrow.parquet')

ROWS = [(f'u{n % 5}', f'i{n % 9}', 10**18 + n, n % 5 + 0.5) for n in range(40)]
HEADER = ('user_id', 'item_id', 'timestamp', 'rating')


def text(rows, separator=',', header=HEADER):
    lines = [header, *rows] if header else rows
    return '\n'.join(separator.join(map(str, row)) for row in lines) + '\n'


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    if path.suffix == '.gz':
        data = gzip.compress(data)
    elif path.suffix == '.zst':
        data = pa.compress(data, 'zstd', asbytes=True)
    path.write_bytes(data)
    return path


def make(path):
    name = path.name
    if '.parquet' in name:
        columns = dict(zip(HEADER, map(list, zip(*ROWS, strict=True)), strict=True))
        parquet.write_table(pa.table(columns), path)
        return path
    if '.jsonl' in name:
        rows = [json.dumps(dict(zip(HEADER, row, strict=True))) for row in ROWS]
        return write(path, '\n'.join(rows) + '\n')
    return write(path, text(ROWS, '\t' if '.tsv' in name else ','))


KINDS = ['.csv', '.tsv', '.txt', '.jsonl']
KINDS = [*KINDS, *(f'{kind}{end}' for kind in KINDS for end in ('.gz', '.zst'))]


def same(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        for node_type in ('user', 'item'):
            assert a[node_type].raw_id.tolist() == b[node_type].raw_id.tolist()
        assert a[INTERACTS].edge_index.tolist() == b[INTERACTS].edge_index.tolist()
        ours, theirs = a[INTERACTS].edge_label_time, b[INTERACTS].edge_label_time
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize('kind', [*KINDS, '.parquet', '.CSV'])
def test_every_kind_of_file_gives_one_split(tmp_path, kind):
    frame = pd.DataFrame(ROWS, columns=HEADER)
    graph = read_table(
        frame, time='timestamp', rating='rating', min_rating=2, duplicates='first'
    )
    assert graph[INTERACTS].time.min() >= 10**18
    options = {'min_rating': 2, 'duplicates': 'first', 'split': lambda g: (g,)}
    (read,) = load_dataset(make(tmp_path / f'clicks{kind}'), **options)
    assert read['user'].raw_id.tolist() == graph['user'].raw_id.tolist()
    assert read['item'].raw_id.tolist() == graph['item'].raw_id.tolist()
    assert read[INTERACTS].edge_index.tolist() == graph[INTERACTS].edge_index.tolist()
    assert read[INTERACTS].time.tolist() == graph[INTERACTS].time.tolist()


@pytest.mark.parametrize('separator', [',', ';', '\t', '|', ':'])
@pytest.mark.parametrize('suffix', ['.csv', '.tsv', '.txt'])
def test_separators_are_recognized(tmp_path, separator, suffix):
    path = write(tmp_path / f'clicks{suffix}', text(ROWS[:9], separator))
    options = {}
    if separator == ':':
        with pytest.raises(ValueError, match=r'header is one column.*\(--separator\)'):
            load_dataset(path)
        options = {'separator': ':'}
    assert load_dataset(path, **options).train['user'].num_nodes == 5


@pytest.mark.parametrize(
    ('content', 'separator'),
    [
        ('user_id,item_id,title\nu,i,a;b;c\nv,j,a;b\n', ','),
        ('user_id;item_id;price\nu;i;3,5\nv;j;4\n', ';'),
        ('user_id;item_id;price\nu;i;3,5\nv;j;4,5\n', ';'),
        ('user_id|item_id|title\nu|i|a, b\nv|j|c\n', '|'),
        ('user_id,item_id\n"a;b",i\nc,"j;k"\n', ','),
        ('user_id\n007\n7\n', ','),
        ('user_id;item_id\n' + 'Z' * 200_000 + ';i\n', ';'),
        ('user_id,item_id\nu,5" disk\n', ','),
        ('user_id,item_id,title\nu,i,"two\nlines; of text"\n', ','),
    ],
)
def test_a_separator_inside_of_cells_is_not_taken_for_one(tmp_path, content, separator):
    table = read_file(write(tmp_path / 'clicks.csv', content))
    assert table.separator == separator
    assert table.header[0] == 'user_id'


@pytest.mark.parametrize('encoding', ['cp1252', 'latin-1', 'utf-16', 'utf-8-sig'])
@pytest.mark.parametrize('suffix', ['.csv', '.csv.gz', '.jsonl'])
def test_encodings(tmp_path, encoding, suffix):
    rows = [('Zoë', 'café', n, 1.0) for n in range(1)] + [('Ünal', 'thé', 2, 1.0)]
    if suffix == '.jsonl':
        lines = [dict(zip(HEADER, row, strict=True)) for row in rows]
        content = '\n'.join(json.dumps(x, ensure_ascii=False) for x in lines)
    else:
        content = text(rows)
    path = write(tmp_path / f'clicks{suffix}', content.encode(encoding))
    graph = load_dataset(path, encoding=encoding).train
    assert graph['user'].raw_id.tolist() == ['Zoë', 'Ünal']
    assert graph['item'].raw_id.tolist() == ['café', 'thé']
    if encoding == 'utf-8-sig':
        assert load_dataset(path).train['user'].raw_id.tolist() == ['Zoë', 'Ünal']
    else:
        message = rf"clicks{suffix}' must be text in utf-8 .*line \d.*\(--encoding\)"
        with pytest.raises(ValueError, match=message):
            load_dataset(path)


def test_an_encoding_must_exist(tmp_path):
    with pytest.raises(
        ValueError, match=r"\(--encoding\) must be the name .*'klingon'"
    ):
        load_dataset(make(tmp_path / 'clicks.csv'), encoding='klingon')


@pytest.mark.parametrize(
    ('name', 'content', 'match'),
    [
        ('a.csv', '', 'must begin with a line of column names'),
        ('a.csv', '\n\n', 'must begin with a line of column names'),
        ('a.csv', 'user_id,item_id\n', r'at least one row \(got none below its header'),
        ('a.csv', 'user_id,item_id\nu,i\nv,j,k\n', r'2 cells .*got 3 in line 3'),
        ('a.csv', 'user_id,item_id\nu,i\n\nv\n', r'2 cells .*got 1 in line 4'),
        ('a.csv', 'user_id,item_id\n"u\nv",i\nw\n', r'2 cells .*got 1 in line 4'),
        ('a.csv', 'user_id,item_id\n"u,i\nv,j\n', r'2 cells'),
        (
            'a.csv',
            'user_id,item_id,user_id\nu,i,v\n',
            r"each column once \(got 'user_id",
        ),
        ('a.csv', '1,1,5\n1,2,3\n', r'If the first line is data, put a line of column'),
        (
            'a.csv',
            'u1,i1,5\nu1,i2,3\n',
            r'If the first line is data, put a line of col',
        ),
        (
            'a.csv',
            'user_id,item_id\nu,\n',
            r"'item_id' \(got 1 empty, the first in line 2",
        ),
        ('a.csv', 'user_id,item_id,timestamp\nu,i,\n', r"'timestamp' .*1 .*line 2"),
        ('a.csv', 'user_id,item_id,timestamp\nu,i,5\nv,i,x\n', r"got 'x' in line 3"),
        (
            'a.csv',
            'user_id,item_id,timestamp\nu,i,nan\n',
            r'1 rows without one.*line 2',
        ),
        (
            'a.csv',
            'user_id,item_id,timestamp\nu,i,2026-03-01\nv,i,\n',
            r'1 missing, the first in line 3',
        ),
        (
            'a.csv',
            'user_id,item_id\nu,i\nv,"j\nw,k\n',
            r'open to the end, .*from line 3',
        ),
        ('a.csv', b'user_id,item_id\nu,i\nv\xe9,j\n', r'utf-8 .*in line 3'),
        ('a.jsonl', '{"user_id": "a", "item_id"', r'one JSON object per line .*line 1'),
        ('a.jsonl', '{"user_id": 1, "item_id": 2}\n[1]\n', r'got a list in line 2'),
        ('a.jsonl', '[' * 100_000, r'one JSON object per line'),
        ('a.jsonl', '{"user_id": 1}\n{"user_id": 2}\n', r'column of item ids'),
        (
            'a.jsonl',
            '{"user_id": 1, "item_id": 2}\n{"user_id": 2}\n',
            r'1 empty.*line 2',
        ),
        ('a.jsonl', '{"user_id": 1.5, "item_id": 2}\n', r'integers or text .*double'),
        ('a.parquet', 'no', r'must be a whole \.parquet table'),
        ('a.parquet', b'PAR1\x15\x04\x15', r'must be a whole \.parquet table'),
        ('a.xlsx', 'no', r'must end in one of \.csv, \.tsv, \.txt, \.jsonl, \.parquet'),
        ('a.parquet.gz', 'no', r'must end in one of'),
    ],
)
def test_what_is_damaged_is_named(tmp_path, name, content, match):
    with pytest.raises(ValueError, match=match):
        load_dataset(write(tmp_path / name, content))


@pytest.mark.parametrize('end', ['.gz', '.zst'])
def test_a_truncated_compressed_file_is_named(tmp_path, end):
    rows = [
        (f'u{n}', f'i{n}', n, 1.0) for n in np.random.default_rng(0).permutation(999)
    ]
    path = write(tmp_path / f'clicks.csv{end}', text(rows))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r'must be a whole \.csv table'):
        load_dataset(path)


def test_a_late_line_is_found_in_a_large_file(tmp_path):
    rows = [(f'u{n}', 'i', n, 1.0) for n in range(300_000)]
    rows[250_000] = ('u', '', 0, 1.0)
    path = write(tmp_path / 'clicks.csv', text(rows))
    with pytest.raises(ValueError, match=r'1 empty, the first in line 250002\b'):
        load_dataset(path)
    rows[250_000] = ('u', 'i', 0)
    with pytest.raises(ValueError, match=r'got 3 in line 250002\b'):
        load_dataset(write(path, text(rows)))


def test_texts_that_look_like_dates_stay_texts_in_json(tmp_path):
    row = '{"user_id": "2026-03-01", "item_id": "2026-03-01T00:00:00Z"}\n'
    graph = load_dataset(write(tmp_path / 'a.jsonl', row)).train
    assert graph['user'].raw_id.tolist() == ['2026-03-01']
    assert graph['item'].raw_id.tolist() == ['2026-03-01T00:00:00Z']


def frames():
    columns = dict(zip(HEADER, map(list, zip(*ROWS[:9], strict=True)), strict=True))
    yield 'pandas', lambda: pd.DataFrame(columns)
    yield 'objects', lambda: pd.DataFrame(columns).astype(object)
    yield 'categories', lambda: pd.DataFrame(columns).astype({'user_id': 'category'})
    yield 'pyarrow', lambda: pa.table(columns)
    yield 'polars', lambda: pytest.importorskip('polars').DataFrame(columns)
    yield 'lazy', lambda: pytest.importorskip('polars').LazyFrame(columns)

    def relation():
        table = pa.table(columns)
        return pytest.importorskip('duckdb').from_arrow(table)

    yield 'duckdb', relation


@pytest.mark.parametrize(('name', 'build'), [*frames()])
def test_frames_of_every_library(name, build):
    options = {'time': 'timestamp', 'weight': 'rating', 'where': {'user_id': 'u1'}}
    graph = read_table(build(), **options)
    assert graph['user'].raw_id.tolist() == ['u1']
    assert graph['item'].raw_id.tolist() == ['i1', 'i6']
    assert graph[INTERACTS].time.tolist() == [10**18 + 1, 10**18 + 6]
    assert graph[INTERACTS].weight.tolist() == [1.5, 1.5]
    with pytest.raises(ValueError, match=r"must have a column 'when'.*--time-column"):
        read_table(build(), time='when')


def test_columns_may_have_numbers_as_names():
    clicks = pd.DataFrame({0: ['a', 'b'], 1: [7, 8]})
    features = pd.DataFrame(np.eye(2), index=[7, 8], columns=[5, 6])
    graph = read_table(clicks, user='0', item='1', features={'x': features})
    assert graph['item'].raw_id.tolist() == [7, 8]
    assert graph['item'].x_x.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match=r"each column once \(got '1' 2 times"):
        read_table(
            clicks, user='0', item='1', features={'x': clicks.assign(**{'1': 0})}
        )


def test_what_is_no_frame_is_refused():
    with pytest.raises(
        TypeError, match=r"'interactions' must be a file, or a frame .*got list"
    ):
        read_table([1, 2])


def test_feature_frames_have_ids_in_a_column_or_in_the_index():
    clicks = pd.DataFrame({'user_id': ['a', 'b'], 'item_id': [7, 8]})
    by_index = pd.DataFrame({'x': [1.0, 2.0]}, index=['8', '7'])
    by_column = pa.table({'item_id': ['8', '7'], 'x': [1.0, 2.0]})
    for features in (by_index, by_column):
        graph = read_table(clicks, features={'x': features})
        assert graph['item'].x_x.tolist() == [[2.0], [1.0]]
        assert graph['item'].raw_id.tolist() == [7, 8]


def selected(tmp_path, suffix='.csv', **options):
    header = ['user_id', 'item_id', 'behavior', 'stars', 'when']
    rows = [
        ('a', 'x', 'view', '5', '1'),
        ('a', 'y', 'purchase', '4', '2'),
        ('b', 'x', 'purchase', '2', '3'),
        ('b', 'y', 'cart', '3.5', '4'),
    ]
    path = tmp_path / f'clicks{suffix}'
    if suffix == '.parquet':
        columns = map(list, zip(*rows, strict=True))
        table = pa.table(dict(zip(header, columns, strict=True)))
        parquet.write_table(table, path)
    else:
        write(path, text(rows, header=header))
    (graph,) = load_dataset(path, split=lambda g: (g,), **options)
    users, items = graph[INTERACTS].edge_index
    names = graph['user'].raw_id[users.numpy()], graph['item'].raw_id[items.numpy()]
    return {''.join(pair) for pair in zip(*map(list, names), strict=True)}


@pytest.mark.parametrize('suffix', ['.csv', '.parquet'])
@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'min_rating': 3.5}, {'ax', 'ay', 'by'}),
        ({'min_rating': 3, 'rating': 'when'}, {'bx', 'by'}),
        ({'where': {'behavior': 'purchase'}}, {'ay', 'bx'}),
        ({'where': {'behavior': ['purchase', 'cart']}}, {'ay', 'bx', 'by'}),
        ({'where': {'behavior': ['purchase'], 'stars': 2}}, {'bx'}),
        ({'where': {'behavior': 'purchase'}, 'min_rating': 4}, {'ay'}),
    ],
)
def test_rows_are_selected(tmp_path, suffix, options, expected):
    assert selected(tmp_path, suffix, **options) == expected


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (
            {'min_rating': 6},
            r'keep at least one interaction \(got 6, the highest .*is 5',
        ),
        ({'where': {'behavior': 'buy'}}, r"\(--where behavior=.*'buy'.*'view', 'purch"),
        ({'where': {'behavior': ['cart', 'buy']}}, r"values .*\(got 'buy'"),
        ({'where': {'kind': 'buy'}}, r"must have a column 'kind' .*\(--where\)"),
        (
            {'where': {'behavior': 'cart', 'stars': '5'}},
            r"values of the column 'stars'",
        ),
        (
            {'min_rating': 1, 'rating': 'item_id'},
            r"numbers in the column 'item_id'.*'x'",
        ),
        ({'rating': 'stars'}, r'requires .min_rating. \(--min-rating\)'),
        (
            {'weight': 'behavior'},
            r"numbers in the column 'behavior' \(got 'view' in line 2",
        ),
    ],
)
def test_selections_are_checked(tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        selected(tmp_path, **options)


@pytest.mark.parametrize('rows', [1, 3, 7, 1000])
def test_a_long_parquet_file_is_read_in_blocks(tmp_path, monkeypatch, rows):
    random = np.random.default_rng(0)
    names = [None if n == 5 else f'ü{n}' for n in random.integers(9, size=50)]
    table = pa.table(
        {
            'user_id': names,
            'time': pa.array(random.integers(99, size=50)),
            'empty': pa.array([None] * 50, pa.string()),
            'item_id': pa.array([f'i{n}' for n in range(50)], pa.large_string()),
        }
    )
    parquet.write_table(table, tmp_path / 'clicks.parquet', row_group_size=11)
    monkeypatch.setattr(table_files, '_ROWS', rows)
    result = read_file(tmp_path / 'clicks.parquet').data
    assert result.to_pydict() == table.to_pydict()
    if rows < 50:
        (chunk,) = result.column('user_id').chunks
        expected = [name for name in dict.fromkeys(names) if name is not None]
        assert chunk.dictionary.to_pylist() == expected


def test_a_parquet_file_of_more_rows_than_can_be_is_refused(tmp_path, monkeypatch):
    column = pa.array(['u'] * 10**6)
    path = tmp_path / 'clicks.parquet'
    parquet.write_table(pa.table({'user_id': column, 'item_id': column}), path)
    monkeypatch.setattr('promptmm_pyg.data.table_files.FREE_ROWS', 10**5)
    assert path.stat().st_size < 9000
    with pytest.raises(ValueError, match=r'at most 100 rows per byte.*1000000 rows'):
        load_dataset(path)


@pytest.mark.parametrize('kind', ['.csv', '.jsonl'])
def test_a_compressed_text_of_more_bytes_than_can_be_is_refused(
    tmp_path, monkeypatch, kind
):
    content = text([('u', 'i', 1, 1)] * 10**6)
    if kind == '.jsonl':
        content = '{"user_id": 1, "item_id": 2}\n' * 10**6
    path = write(tmp_path / f'clicks{kind}.gz', content)
    monkeypatch.setattr('promptmm_pyg.data.table_files.FREE_TEXT', 2**20)
    with pytest.raises(
        ValueError,
        match=r'at most 100 bytes of text per byte.*Decompress the file first',
    ):
        load_dataset(path)


def test_long_ids_stay_small_in_memory(tmp_path):
    import tracemalloc

    ids = ['Z' * 10_000, *(f'i{n}' for n in range(20_000))]
    frame = pa.table({'user_id': ids, 'item_id': ids})
    parquet.write_table(frame, tmp_path / 'clicks.parquet')
    tracemalloc.start()
    graph = read_table(tmp_path / 'clicks.parquet')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert graph['item'].raw_id[0] == 'Z' * 10_000
    assert peak < 30e6  # An array of fixed width has 800 MB.
