import json

import numpy as np
import pyarrow as pa
import pytest

from promptmm_pyg.data.columns import (
    HASH_WIDTH,
    MAX_CATEGORIES,
    ColumnEncoding,
    encode_column,
    fit_column,
    parse_column,
)
from promptmm_pyg.data.tables import Table


def table(**columns):
    data = pa.table(columns)
    return Table('items.csv', data, data.column_names)


def encode(name='a', separator=None, **columns):
    data = table(**columns)
    encoding = fit_column(data, name, separator)
    x, present = encode_column(data, encoding)
    assert x.dtype == np.float32
    assert x.shape == (len(data), encoding.width)
    return encoding, x.tolist(), present.tolist()


@pytest.mark.parametrize(
    'cells',
    [[1.5, None, -3.0], ['1.5', '', '-3'], ['1.5', None, ' -3.0 ']],
)
def test_numbers_are_one_column_as_they_are(cells):
    encoding, x, present = encode(a=cells)
    assert (encoding.kind, x, present) == (
        'number',
        [[1.5], [0.0], [-3.0]],
        [True, False, True],
    )


def test_truth_values_are_numbers():
    assert encode(a=[True, False])[1] == [[1.0], [0.0]]


def test_categories_have_a_column_each_in_sorted_order():
    encoding, x, present = encode(a=['red', 'blue', None, ' red ', ''])
    assert encoding.tokens == ('blue', 'red')
    assert x == [[0, 1], [1, 0], [0, 0], [0, 1], [0, 0]]
    assert present == [True, True, False, True, False]


def test_codes_with_leading_zeros_are_categories():
    assert encode(a=['01234', '98765'])[0].tokens == ('01234', '98765')


def test_typed_categories_are_categories_even_of_numbers():
    cells = pa.array([3, 1, 3]).dictionary_encode()
    assert encode(a=cells)[0].tokens == ('1', '3')


def test_the_kind_can_be_named():
    encoding, x, _ = encode('a:category', a=[10, 20, 10])
    assert (encoding.column, encoding.tokens) == ('a', ('10', '20'))
    assert x == [[1, 0], [0, 1], [1, 0]]
    assert parse_column('a:category') == ('a', 'category')
    assert parse_column('ns:a') == ('ns:a', None)
    assert fit_column(table(**{'a:number': ['x']}), 'a:number').column == 'a:number'


def test_a_separator_gives_several_categories_per_cell():
    encoding, x, present = encode(
        a=['Drama|War', 'War', None, 'Drama| '], separator='|'
    )
    assert encoding.tokens == ('Drama', 'War')
    assert x == [[1, 1], [0, 1], [0, 0], [1, 0]]
    assert present == [True, True, False, True]


@pytest.mark.parametrize('kind', [pa.string(), pa.large_string()])
def test_lists_of_texts_are_several_categories(kind):
    cells = pa.array([['b', 'a'], [], None, ['b']], pa.list_(kind))
    encoding, x, present = encode(a=cells)
    assert encoding.tokens == ('a', 'b')
    assert x == [[1, 1], [0, 0], [0, 0], [0, 1]]
    assert present == [True, False, False, True]


def test_lists_of_numbers_of_one_length_are_vectors():
    encoding, x, present = encode(a=pa.array([[1.0, 2.0], None, [3.0, 4.0]]))
    assert (encoding.kind, encoding.width) == ('vector', 2)
    assert x == [[1, 2], [0, 0], [3, 4]]
    assert present == [True, False, True]


def test_lists_of_numbers_of_other_lengths_are_categories():
    assert encode(a=pa.array([[1, 2], [2]]))[0].tokens == ('1', '2')


def brands(num):
    return [f'brand {n % num}' for n in range(3 * num)]


def test_up_to_64_categories_are_marked_and_more_are_hashed_with_signs():
    assert encode(a=brands(MAX_CATEGORIES))[0].width == MAX_CATEGORIES
    encoding, x, present = encode(a=brands(MAX_CATEGORIES + 1))
    assert (encoding.width, encoding.tokens) == (HASH_WIDTH, None)
    rows = np.array(x)
    assert (np.abs(rows).sum(axis=1) == 1).all()
    assert {-1.0, 1.0} < set(rows.ravel())
    assert all(present)
    # The same category has the same row.
    assert (rows[:65] == rows[65:130]).all()
    # Few of them collide.
    assert len(np.unique(rows[:65], axis=0)) > 55


def test_later_rows_are_encoded_in_the_same_way():
    data = table(a=['red', 'blue', 'red'])
    encoding = ColumnEncoding.from_dict(
        json.loads(json.dumps(fit_column(data, 'a').to_dict()))
    )
    x, present = encode_column(table(a=['red', 'green', None]), encoding)
    assert x.tolist() == [[0, 1], [0, 0], [0, 0]]
    assert present.tolist() == [True, False, False]


def test_hashes_do_not_depend_on_the_table():
    many = table(a=brands(100))
    encoding = fit_column(many, 'a')
    x, _ = encode_column(table(a=['brand 7']), encoding)
    assert (x[0] == encode_column(many, encoding)[0][7]).all()


@pytest.mark.parametrize(
    ('columns', 'match'),
    [
        ({'a': [None, None]}, "values in the column 'a' .got none in 2 rows"),
        ({'a': ['', ' ']}, 'got none in 2 rows'),
        (
            {'a': [1.0, float('inf')]},
            r"finite numbers in the column 'a' \(got inf in row 2",
        ),
        ({'b': [1]}, "must have a column 'a'"),
        (
            {'a': [f'A long story {n}' for n in range(90)]},
            "90 different .* '--text items",
        ),
        (
            {'a': [f'Drama|{n}' for n in range(90)]},
            "Split its lists with .*--list-separator '.'",
        ),
    ],
)
def test_unusable_columns_are_refused(columns, match):
    with pytest.raises(ValueError, match=match):
        encode(**columns)


def test_commas_in_sentences_are_no_lists():
    cells = [f'Ink {n}, black, for printer {n}, {n} pages' for n in range(90)]
    with pytest.raises(ValueError, match=r"Encode text with '--text items.csv:a'"):
        encode(a=cells)


def test_text_can_be_hashed_on_request():
    cells = [f'A long story {n}' for n in range(90)]
    assert encode('a:category', a=cells)[0].width == HASH_WIDTH


def test_lists_without_a_separator_have_a_warning():
    cells = [f'Drama|{n % 70}' for n in range(210)]
    with pytest.warns(UserWarning, match='70 different values, most of them lists'):
        encode(a=cells)


def test_vectors_of_another_length_are_refused():
    encoding = fit_column(table(a=pa.array([[1.0, 2.0]])), 'a')
    with pytest.raises(ValueError, match=r'lists of 2 numbers .* \(got 3\)'):
        encode_column(table(a=pa.array([[1.0, 2.0, 3.0]])), encoding)
