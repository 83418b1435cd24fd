"""Ids come out as they were written, whatever holds them."""

import gzip
import json

import numpy as np
import pytest

from promptmm_pyg.data import INTERACTS, load_dataset, read_table
from promptmm_pyg.data.ids import IdColumn, positions, sorted_union, to_raw_ids

pa = pytest.importorskip('pyarrow')
pd = pytest.importorskip('pandas')
parquet = pytest.importorskip('pyarrow.parquet')

WRITTEN = [
    *('007', '7', '07', '1.0', '1', '12e4', '120000', '0x10', '1_000', '+5', '-0'),
    *('NA', 'null', 'None', 'nan', 'NaN', '-', 'true', 'True', '2026-03-01'),
    *('1' * 30, '9223372036854775808', ' x', 'x ', 'x', 'é', 'e\u0301', '名前', '😀'),
    *('a"b', "a'b", 'a,b', 'a;b', 'a|b', 'a\\b', 'x\0y', 'x\0', 'Z' * 10_000),
]


def write_csv(path, rows, separator=','):
    def quoted(cell):
        return '"' + cell.replace('"', '""') + '"'

    text = '\n'.join(separator.join(map(quoted, row)) for row in rows) + '\n'
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)


def write(path, ids):
    """One interaction per id, of a user with the same id."""
    suffix = path.suffixes[0]
    if suffix == '.parquet':
        parquet.write_table(pa.table({'user_id': ids, 'item_id': ids}), path)
    elif suffix == '.jsonl':
        rows = [json.dumps({'user_id': x, 'item_id': x}) for x in ids]
        path.write_text('\n'.join(rows) + '\n')
    else:
        rows = [('user_id', 'item_id'), *((x, x) for x in ids)]
        write_csv(path, rows, '\t' if suffix == '.tsv' else ',')
    return path


@pytest.mark.parametrize(
    'suffix', ['.csv', '.csv.gz', '.tsv', '.txt', '.jsonl', '.parquet']
)
def test_ids_are_as_written_in_every_file(tmp_path, suffix):
    graph = read_table(write(tmp_path / f'clicks{suffix}', WRITTEN))
    for node_type in ('user', 'item'):
        assert graph[node_type].raw_id.dtype == object
        assert graph[node_type].raw_id.tolist() == sorted(WRITTEN)
    users, items = graph[INTERACTS].edge_index
    assert graph['user'].raw_id[users.numpy()].tolist() == WRITTEN
    assert graph['item'].raw_id[items.numpy()].tolist() == WRITTEN


@pytest.mark.parametrize('written', WRITTEN)
def test_one_id_alone_is_as_written(tmp_path, written):
    path = write(tmp_path / 'clicks.csv', [written])
    assert read_table(path)['item'].raw_id.tolist() == [written]


@pytest.mark.parametrize('suffix', ['.jsonl', '.parquet'])
def test_integers_stay_integers_where_the_file_has_types(tmp_path, suffix):
    path = write(tmp_path / f'clicks{suffix}', [30, -4, 2**40, 9])
    raw_id = read_table(path)['item'].raw_id
    assert raw_id.dtype == np.int64
    assert raw_id.tolist() == [-4, 9, 30, 2**40]


@pytest.mark.parametrize('kind', ['int8', 'int32', 'uint16', 'uint64'])
def test_integers_of_any_width_are_one_kind(kind):
    column = np.array([3, 1], dtype=kind)
    graph = read_table(pa.table({'user_id': column, 'item_id': column}))
    assert graph['user'].raw_id.dtype == np.int64


@pytest.mark.parametrize('at', [1, 999, 40_000])
def test_a_mixed_column_is_text_wherever_the_text_is(tmp_path, at):
    ids = [*range(at), 'a', *range(at, 60_000)]
    raw_id = read_table(write(tmp_path / 'clicks.jsonl', ids))['item'].raw_id
    assert set(raw_id) == {str(x) for x in ids}
    frame = pd.DataFrame({'user_id': ids, 'item_id': ids})
    assert set(read_table(frame)['item'].raw_id) == {str(x) for x in ids}


@pytest.mark.parametrize('suffix', ['.jsonl', '.parquet'])
def test_integers_beyond_64_bits_are_text(tmp_path, suffix):
    ids = [2**63, 5]
    path = tmp_path / f'clicks{suffix}'
    if suffix == '.parquet':
        column = pa.array(ids, pa.uint64())
        parquet.write_table(pa.table({'user_id': column, 'item_id': column}), path)
    else:
        write(path, [*ids, 10**30])
    raw_id = read_table(path)['item'].raw_id.tolist()
    assert {str(2**63), '5'} <= set(raw_id)


def test_bytes_of_text_are_text(tmp_path):
    column = pa.array(['é'.encode(), b'7'])
    graph = read_table(pa.table({'user_id': column, 'item_id': [1, 2]}))
    assert graph['user'].raw_id.tolist() == ['7', 'é']


def test_integers_meet_the_same_ids_written_as_text(tmp_path):
    path = write(tmp_path / 'clicks.parquet', [7, 10, 3])
    write_csv(tmp_path / 'x.csv', [('item_id', 'a'), ('10', '1'), ('8', '2')])
    graph = read_table(path, features={'x': 'x.csv'})
    assert graph['item'].raw_id.tolist() == [3, 7, 8, 10]
    assert graph['item'].raw_id.dtype == np.int64
    assert graph['item'].x_x[:, 0].tolist() == [0.0, 0.0, 2.0, 1.0]
    # '007' is no integer as written, so that all ids are text.
    write_csv(tmp_path / 'x.csv', [('item_id', 'a'), ('007', '1'), ('7', '2')])
    graph = read_table(path, features={'x': 'x.csv'})
    assert graph['item'].raw_id.tolist() == ['007', '10', '3', '7']
    assert graph['item'].x_x[:, 0].tolist() == [1.0, 0.0, 0.0, 2.0]


def test_given_ids_are_compared_as_text(tmp_path):
    path = write(tmp_path / 'clicks.parquet', [7, 10])
    for given in (['10', '7', '3'], [10, 7, 3], np.array([10, 7, 3])):
        assert read_table(path, item_ids=given)['item'].raw_id.tolist() == [10, 7, 3]
    path = write(tmp_path / 'clicks.csv', ['007', '7'])
    with pytest.raises(ValueError, match=r"must contain every item .*'007'"):
        read_table(path, item_ids=[7])


@pytest.mark.parametrize(
    ('column', 'match'),
    [
        (pa.array([1.0, 2.0]), r'integers or text .*\(got double\)'),
        (pa.array([True, False]), r'integers or text .*\(got bool\)'),
        (pa.array([b'a', b'\xe9']), r'integers or text .*\(got binary\)'),
        (pa.array(['a', '']), '1 empty, the first in row 2'),
        (pa.array([None, 5]), '1 empty, the first in row 1'),
        (pa.array(['a', None]).dictionary_encode(), '1 empty, the first in row 2'),
    ],
)
def test_what_is_no_id_is_refused(column, match):
    with pytest.raises(ValueError, match=match):
        read_table(pa.table({'user_id': [1, 2], 'item_id': column}))


@pytest.mark.parametrize('suffix', ['.csv', '.jsonl'])
def test_an_empty_id_is_refused_with_its_line(tmp_path, suffix):
    path = write(tmp_path / f'clicks{suffix}', ['a', 'b\nc', '', 'd', ''])
    line = 6 if suffix == '.csv' else 3  # One cell has two lines in CSV.
    with pytest.raises(ValueError, match=f'2 empty, the first in line {line}'):
        load_dataset(path)


def code_by_a_loop(values):
    place = {}
    codes = [place.setdefault(value, len(place)) for value in values]
    return codes, list(place)


@pytest.mark.parametrize('kind', ['text', 'integers', 'dictionary', 'chunks'])
def test_codes_agree_with_a_loop(kind):
    random = np.random.default_rng(0)
    numbers = random.integers(-20, 20, 500)
    values = numbers.tolist() if kind == 'integers' else [f'{n}' for n in numbers]
    codes, distinct = code_by_a_loop(values)
    column = pa.array(values)
    if kind == 'dictionary':
        column = pa.array(['unused', *values]).dictionary_encode()[1:]
    elif kind == 'chunks':
        column = pa.chunked_array([column[:100], column[100:100], column[100:]])
    coded = IdColumn.encode(column)
    assert coded.codes.tolist() == codes
    assert coded.values.to_pylist() == distinct
    ordered = sorted_union([coded.values, coded.values])
    assert to_raw_ids(ordered).tolist() == sorted(distinct)
    expected = [sorted(distinct).index(value) for value in distinct]
    assert positions(coded.values, ordered).tolist() == expected
