import sys

import numpy as np
import pytest
import torch

from promptmm_pyg.data import INTERACTS, read_table

pd = pytest.importorskip('pandas')

FRAME = pd.DataFrame(
    {'user_id': ['u9', 'u1', 'u9'], 'item_id': ['b', 'c', 'd'], 'when': [3, 1, 2]}
)
TEXT = pd.DataFrame({'item_id': ['d', 'b'], 'p': [1.0, 2.0], 'q': [-3.0, 4.0]})
EXPECTED = torch.tensor([[2.0, 4.0], [0.0, 0.0], [1.0, -3.0]])


@pytest.fixture(params=['.csv', '.parquet'])
def suffix(request):
    if request.param == '.parquet':
        pytest.importorskip('pyarrow')
    return request.param


def write(frame, path):
    if path.suffix == '.csv':
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


def test_a_table_and_its_features_are_read(tmp_path, suffix):
    path = write(FRAME, tmp_path / f'log{suffix}')
    write(TEXT, tmp_path / f'text{suffix}')
    graph = read_table(path, time='when', features={'text': f'text{suffix}'})
    assert graph['item'].raw_id.tolist() == ['b', 'c', 'd']
    assert graph[INTERACTS].edge_index.tolist() == [[1, 0, 1], [0, 1, 2]]
    assert graph[INTERACTS].time.tolist() == [3, 1, 2]
    torch.testing.assert_close(graph['item'].x_text, EXPECTED)
    assert graph['item'].mask_text.tolist() == [True, False, True]


def test_a_column_of_lists_is_spread_out(tmp_path):
    pytest.importorskip('pyarrow')
    path = write(FRAME, tmp_path / 'log.parquet')
    packed = pd.DataFrame({'item_id': TEXT['item_id']})
    packed['vector'] = TEXT[['p', 'q']].to_numpy().tolist()
    write(packed, tmp_path / 'text.parquet')
    graph = read_table(path, features={'text': 'text.parquet'})
    torch.testing.assert_close(graph['item'].x_text, EXPECTED)


def test_lists_of_different_lengths_are_named(tmp_path):
    pytest.importorskip('pyarrow')
    path = write(FRAME, tmp_path / 'log.parquet')
    packed = pd.DataFrame({'item_id': ['b', 'c'], 'vector': [[1.0], [1.0, 2.0]]})
    write(packed, tmp_path / 'text.parquet')
    with pytest.raises(
        ValueError, match=r"text\.parquet' must contain lists of numbers of one"
    ):
        read_table(path, features={'text': 'text.parquet'})


def test_arrays_need_ids(tmp_path):
    path = write(FRAME, tmp_path / 'log.csv')
    np.save(tmp_path / 'text.npy', np.array([[1.0], [2.0], [3.0]]))
    features = {'text': 'text.npy'}
    graph = read_table(path, features=features, item_ids=['d', 'c', 'b'])
    assert graph['item'].raw_id.tolist() == ['d', 'c', 'b']
    assert graph['item'].x_text.tolist() == [[1.0], [2.0], [3.0]]
    with pytest.raises(ValueError, match=r"'item_ids' .*got shape \[3, 1\] and no ids"):
        read_table(path, features=features)


def test_columns_can_have_other_names(tmp_path):
    frame = FRAME.rename(columns={'user_id': 'who', 'item_id': 'what'})
    path = write(frame, tmp_path / 'log.csv')
    write(TEXT.rename(columns={'item_id': 'what'}), tmp_path / 'text.csv')
    graph = read_table(path, user='who', item='what', features={'text': 'text.csv'})
    torch.testing.assert_close(graph['item'].x_text, EXPECTED)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv' must be a file"):
        read_table(tmp_path / 'none.csv')


def test_dates_in_csv_are_read_as_in_iso_8601(tmp_path):
    days = ['2026-03-01', '2026-03-01 17:30', '1970-01-01T00:00:07+00:00']
    path = tmp_path / 'log.csv'
    frame = pd.DataFrame({'user_id': [1, 2, 3], 'item_id': [1, 2, 3], 'day': days})
    frame.to_csv(path, index=False)
    time = read_table(path, time='day')[INTERACTS].time
    assert (time[1] - time[0]).item() == 17.5 * 3600 * 10**9
    assert time[2].item() == 7 * 10**9
    frame.assign(day=['2026-03-01', '3.1.26', '']).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"'day' \(got '3\.1\.26' in line 3, 1 such"):
        read_table(path, time='day')


def test_features_need_the_id_column(tmp_path):
    path = write(FRAME, tmp_path / 'log.csv')
    write(TEXT.rename(columns={'item_id': 'code'}), tmp_path / 'text.csv')
    with pytest.raises(ValueError, match=r"text\.csv' must have a column 'item_id'"):
        read_table(path, features={'text': 'text.csv'})


@pytest.mark.parametrize('package', ['pyarrow', 'narwhals'])
def test_without_arrow_the_extra_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install ".\[frames\]"'):
        read_table(tmp_path / 'log.csv')
