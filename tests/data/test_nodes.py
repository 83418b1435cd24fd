"""Feature tables and columns of users and items, through ``read_table``."""

import numpy as np
import pandas as pd
import pytest
import torch

from promptmm_pyg.data import load_dataset, read_table

CLICKS = pd.DataFrame(
    {
        'user_id': ['u1', 'u2', 'u3', 'u1'],
        'item_id': ['a', 'b', 'c', 'b'],
        'color': ['red', None, 'blue', 'green'],
        'age': [30, 40, 50, 30],
    }
)
FEATURES = pd.DataFrame(
    {'item_id': ['c', 'a', 'd', 'b'], 'p': [3.0, 1.0, 4.0, 2.0], 'q': [0, 7, 8, 9]}
)


def graph(**options):
    return read_table(CLICKS, **options)


def test_columns_of_the_interactions_are_read_by_first_value():
    data = graph(item_columns=['color'], user_columns=['age'])
    assert data['item'].x_color.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert data['user'].x_age.tolist() == [[30], [40], [50]]
    assert data.feature_columns == {
        'user.x_age': ('age',),
        'item.x_color': ('color',) * 3,
    }
    assert data.column_encodings['item.x_color']['tokens'] == ('blue', 'green', 'red')


def test_columns_of_a_table_are_joined_by_id():
    data = graph(item_table=FEATURES, item_columns=['p', 'q:category'])
    # Item 'd' has no interactions.
    assert data['item'].raw_id.tolist() == ['a', 'b', 'c', 'd']
    assert data['item'].x_p.tolist() == [[1], [2], [3], [4]]
    assert data['item'].x_q.argmax(1).tolist() == [1, 3, 0, 2]


def test_features_of_users_are_read_like_those_of_items(tmp_path):
    table = pd.DataFrame({'user_id': ['u3', 'u1'], 'x': [3.0, 1.0]})
    data = graph(user_features={'demo': table})
    assert data['user'].x_demo.tolist() == [[1], [0], [3]]
    assert data['user'].mask_demo.tolist() == [True, False, True]
    table.to_csv(tmp_path / 'demo.csv', index=False)
    CLICKS.to_csv(tmp_path / 'clicks.csv', index=False)
    same = read_table(tmp_path / 'clicks.csv', user_features={'demo': 'demo.csv'})
    assert torch.equal(same['user'].x_demo, data['user'].x_demo)


def test_arrays_of_users_have_the_order_of_the_ids(tmp_path):
    np.save(tmp_path / 'x.npy', np.array([[0.0], [3.0], [2.0], [1.0]]))
    CLICKS.to_csv(tmp_path / 'clicks.csv', index=False)
    options = {'user_features': {'x': 'x.npy'}, 'user_ids': ['u3', 'u2', 'u1']}
    data = load_dataset(tmp_path / 'clicks.csv', padding_row=True, **options)
    assert data.train['user'].x_x.tolist() == [[3], [2], [1]]
    with pytest.raises(ValueError, match=r'first row is zeros.*padding_row=True'):
        load_dataset(tmp_path / 'clicks.csv', **options)


def test_names_of_feature_columns_are_kept_and_columns_dropped():
    data = graph(features={'f': FEATURES})
    assert data.feature_columns == {'item.x_f': ('p', 'q')}
    data = graph(features={'f': FEATURES}, drop_columns=['q'])
    assert data.feature_columns == {'item.x_f': ('p',)}
    assert data['item'].x_f.tolist() == [[1], [2], [3], [4]]


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (
            {'features': {'f': FEATURES}, 'drop_columns': ['r']},
            r"'drop_columns' \(--drop-columns\) must name .*got \['r'\], known are",
        ),
        (
            {'features': {'f': FEATURES.assign(r=np.nan)}},
            r"got none in \['r'\].*--drop-columns 'r'",
        ),
        (
            {'features': {'f': FEATURES.assign(r=['x', 'y', 'z', 'x'])}},
            r"numeric columns only beside 'item_id' \(got \['r'\]\).*--item-columns",
        ),
        (
            {'features': {'f': FEATURES.replace(2.0, np.nan)}},
            r"gaps in \['p'\] of 1 items, the first is 'b'",
        ),
        (
            {'features': {'color': FEATURES}, 'item_columns': ['color']},
            r"must not name a modality of the features \(got 'color'\)",
        ),
        ({'item_columns': ['nothing']}, "must have a column 'nothing'"),
        (
            {'item_table': FEATURES.assign(**{'p-': 1, 'p_': 2})}
            | {'item_columns': ['p-', 'p_']},
            'columns must have different names',
        ),
    ],
)
def test_errors_name_columns_and_options(options, match):
    with pytest.raises(ValueError, match=match):
        graph(**options)


def test_a_dropped_column_is_no_item_column():
    data = graph(item_columns=['color', 'age'], drop_columns=['age'])
    assert 'x_age' not in data['item']
