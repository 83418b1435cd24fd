import subprocess
import sys

import numpy as np
import pytest
import torch

from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.serving import (
    Recommender,
    TopItems,
    export_embeddings,
    export_lancedb,
    export_onnx,
    export_program,
    faiss_index,
)

INF = float('inf')


def ties(num_users=6, num_items=9, seed=0, dtype=torch.float):
    """Small integers, so that scores tie within lists and at their ends."""
    g = torch.Generator().manual_seed(seed)
    edges = torch.stack(
        [
            torch.randint(0, num_users, (20,), generator=g),
            torch.randint(0, num_items, (20,), generator=g),
        ]
    )
    everything = torch.stack([torch.full((num_items,), 2), torch.arange(num_items)])
    return Recommender(
        torch.randint(-1, 2, (num_users, 2), generator=g).to(dtype),
        torch.randint(-1, 2, (num_items, 2), generator=g).to(dtype),
        user_ids=list(range(10, 10 + num_users)),
        item_ids=[f'i{n}' for n in range(num_items)],
        seen=torch.cat([edges, everything], dim=1),  # User 2 has seen all there is.
        titles={'i0': 'Ünïcode'},
    )


def named(model, index):
    return [
        [model.item_ids[i] if i >= 0 else None for i in row] for row in index.tolist()
    ]


OPTIONS = [
    {},
    {'exclude_seen': False},
    {'allow': ['i8', 'i1', 'i2']},
    {'deny': ['i0', 'i3']},
    {'allow': []},
]


@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize('k', [1, 4, 9])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_the_module_ranks_as_the_recommender_does(options, k, seed):
    model = ties(seed=seed)
    users = torch.tensor([5, 0, 2, 2, 3])
    index, scores = TopItems.from_recommender(model, k, **options)(users)
    expected = model.recommend((users + 10).numpy(), k=k, **options)
    assert named(model, index) == expected.ids.tolist()
    np.testing.assert_array_equal(scores.numpy(), expected.scores)


@pytest.mark.parametrize('options', OPTIONS[:3])
def test_the_exported_program_takes_any_batch(tmp_path, options):
    model = ties()
    path = export_program(model, tmp_path / 'new' / 'top.pt2', k=4, **options)
    assert path == tmp_path / 'new' / 'top.pt2'
    program = torch.export.load(path).module()
    for users in ([0], [1, 2], [3, 4, 5, 0, 1, 2, 3]):
        index, scores = program(torch.tensor(users))
        expected = model.recommend(np.array(users) + 10, k=4, **options)
        assert named(model, index) == expected.ids.tolist()
        np.testing.assert_array_equal(scores.numpy(), expected.scores)


@pytest.mark.parametrize('options', OPTIONS)
def test_onnxruntime_ranks_as_the_recommender_does(tmp_path, options):
    pytest.importorskip('onnx', reason='requires the extra export')
    runtime = pytest.importorskip('onnxruntime', reason='requires onnxruntime')
    for k, dtype in ((1, torch.float), (4, torch.half), (9, torch.float)):
        model = ties(seed=k, dtype=dtype)
        path = export_onnx(model, tmp_path / f'{k}.onnx', k=k, **options)
        session = runtime.InferenceSession(path, providers=['CPUExecutionProvider'])
        for users in ([0], [5, 0, 2, 2, 3], [2]):
            index, scores = session.run(None, {'users': np.array(users)})
            expected = model.recommend(np.array(users) + 10, k=k, **options)
            assert named(model, index) == expected.ids.tolist()
            np.testing.assert_array_equal(scores, expected.scores)


def test_lancedb_finds_what_the_recommender_does(tmp_path):
    lancedb = pytest.importorskip('lancedb', reason='requires the extra export')
    g = torch.Generator().manual_seed(0)
    x = [torch.randn(n, 4, generator=g) for n in (5, 200)]
    seen = torch.stack([torch.arange(50) % 5, torch.randperm(200, generator=g)[:50]])
    items = [f"it's {n}" for n in range(200)]
    titles = {items[0]: 'Ünïcode'}
    model = Recommender(*x, user_ids=range(5), item_ids=items, seen=seen, titles=titles)
    folder = export_lancedb(model, tmp_path / 'new' / 'db')
    with pytest.raises(ValueError, match=r"'folder' must have no table 'items'"):
        export_lancedb(model, folder)
    export_lancedb(model, folder, overwrite=True)
    database = lancedb.connect(folder)
    table = database.open_table('items')
    assert table.search().where("title = 'Ünïcode'").to_list()[0]['id'] == items[0]
    for user in range(5):
        (row,) = database.open_table('users').search().where(f'id = {user}').to_list()
        query = table.search(row['embedding']).distance_type('dot').limit(10)
        ids = ', '.join("'" + raw.replace("'", "''") + "'" for raw in row['seen'])
        result = query.where(f'id NOT IN ({ids})', prefilter=True).to_list()
        assert [x['id'] for x in result] == model.recommend(user, 10).ids.tolist()


def test_the_module_moves_and_keeps_its_tables():
    model = ties()
    module = TopItems.from_recommender(model, 3)
    assert set(module.state_dict()) == {'user_x', 'item_x', 'seen', 'candidates'}
    before = module(torch.tensor([1]))
    model.item_x.zero_()
    again = module(torch.tensor([1]))
    torch.testing.assert_close(again, before)
    assert module.double()(torch.tensor([1]))[1].dtype == torch.double


def test_a_module_is_independent():
    seen = SeenItems.from_edge_index(torch.tensor([[0], [1]]), 2, 3)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    index, scores = TopItems(x[:2], x, 3, seen=seen)(torch.tensor([0, 1]))
    assert index.tolist() == [[0, 2, -1], [1, 2, 0]]
    assert scores.tolist() == [[1.0, 1.0, -INF], [1.0, 1.0, 0.0]]


@pytest.mark.parametrize('row', [-1, 6])
def test_a_row_outside_is_refused(row):
    with pytest.raises(IndexError, match='out of range'):
        TopItems.from_recommender(ties(), 3)(torch.tensor([0, row]))


def test_low_precision_ranks_in_the_module():
    model = ties()
    half = Recommender(
        model.user_x.half(),
        model.item_x.half(),
        user_ids=model.user_ids,
        item_ids=model.item_ids,
        seen=model.seen,
    )
    index, _ = TopItems.from_recommender(half, 5)(torch.arange(6))
    assert named(model, index) == model.recommend(model.user_ids, 5).ids.tolist()


def test_mistakes_about_modules_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'k' must be in \[1, 9\] \(got 10\)"):
        TopItems.from_recommender(ties(), 10)
    with pytest.raises(ValueError, match=r"'k' must be in \[1, 9\] \(got 0\)"):
        export_program(ties(), tmp_path / 'x.pt2', 0)
    with pytest.raises(ValueError, match=r"'path' must end in '\.pt2'"):
        export_program(ties(), tmp_path / 'x.pt', 3)
    with pytest.raises(ValueError, match=r"'allow' and 'deny'.*\(got both\)"):
        TopItems.from_recommender(ties(), allow=['i1'], deny=['i1'])
    empty = Recommender(
        torch.empty(0, 2), torch.ones(1, 2), user_ids=[], item_ids=[0], seen=None
    )
    with pytest.raises(ValueError, match="'num_users' must be positive"):
        export_program(empty, tmp_path / 'x.pt2', 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('dtype', [torch.float, torch.half, torch.bfloat16])
def test_npz_holds_ids_and_embeddings_without_pickle(tmp_path, dtype):
    model = ties(dtype=dtype)
    assert export_embeddings(model, tmp_path / 'a' / 'x.npz') == [tmp_path / 'a/x.npz']
    found = np.load(tmp_path / 'a' / 'x.npz', allow_pickle=False)
    assert found['user_ids'].tolist() == model.user_ids
    assert found['item_ids'].tolist() == model.item_ids
    assert found['item_x'].dtype == np.float32
    np.testing.assert_array_equal(found['user_x'], model.user_x.float().numpy())
    np.testing.assert_array_equal(found['item_x'], model.item_x.float().numpy())


def test_tables_need_not_be_contiguous_to_be_exported(tmp_path):
    model = ties()
    x = model.item_x.t().contiguous().t()
    model = Recommender(
        model.user_x,
        x,
        user_ids=model.user_ids,
        item_ids=model.item_ids,
        seen=None,
    )
    assert not model.item_x.is_contiguous()
    export_embeddings(model, tmp_path / 'x.npz')
    found = np.load(tmp_path / 'x.npz', allow_pickle=False)
    np.testing.assert_array_equal(found['item_x'], model.item_x.numpy())


@pytest.mark.parametrize('chunk', [4, 2**16])
def test_parquet_is_read_by_pandas(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr('promptmm_pyg.serving.exports._CHUNK', chunk)
    pandas = pytest.importorskip('pandas')
    pytest.importorskip('pyarrow')
    model = ties()
    files = export_embeddings(model, tmp_path / 'x.parquet')
    assert [file.name for file in files] == ['x.users.parquet', 'x.items.parquet']
    users, items = (pandas.read_parquet(file) for file in files)
    assert users['id'].tolist() == model.user_ids
    assert items['id'].tolist() == model.item_ids
    assert list(users.columns) == ['id', 'embedding']
    assert items['title'].tolist()[0] == 'Ünïcode'
    assert items['title'].isna().tolist()[1:] == [True] * 8
    np.testing.assert_array_equal(np.stack(users['embedding']), model.user_x.numpy())
    np.testing.assert_array_equal(np.stack(items['embedding']), model.item_x.numpy())


@pytest.mark.parametrize('raw', ['x' * 10_000_000, 'a\0'])
def test_text_that_an_array_cannot_hold_is_refused_and_kept_by_parquet(tmp_path, raw):
    parquet = pytest.importorskip('pyarrow.parquet', reason="requires 'frames'")
    x = torch.ones(200, 1)
    ids = [raw, *map(str, range(199))]
    model = Recommender(x, x, user_ids=ids, item_ids=range(200), seen=None)
    with pytest.raises(ValueError, match=r"'user_ids' must contain short ids without"):
        export_embeddings(model, tmp_path / 'x.npz')
    assert list(tmp_path.iterdir()) == []
    paths = export_embeddings(model, tmp_path / 'x.parquet')
    assert parquet.read_table(paths[0])['id'].to_pylist() == ids


def test_parquet_of_no_users_has_its_columns(tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    model = Recommender(
        torch.empty(0, 2), torch.ones(1, 2), user_ids=[], item_ids=[7], seen=None
    )
    table = parquet.read_table(export_embeddings(model, tmp_path / 'x.parquet')[0])
    assert table.num_rows == 0
    assert table.column_names == ['id', 'embedding']


def test_what_cannot_be_exported_is_refused(tmp_path):
    model = ties()
    with pytest.raises(
        ValueError, match=r"end in '\.npz' or '\.parquet' \(got '.*x\.c"
    ):
        export_embeddings(model, tmp_path / 'x.csv')
    x = torch.ones(2, 1)
    mixed = Recommender(x, x, user_ids=[0, 1], item_ids=[7, '7'], seen=None)
    with pytest.raises(ValueError, match=r"'item_ids'.*only text.*\(got 7 and '7'\)"):
        export_embeddings(mixed, tmp_path / 'x.npz')
    large = Recommender(x, x, user_ids=[0, -(2**70)], item_ids=[0, 1], seen=None)
    with pytest.raises(ValueError, match=r"'user_ids'.*64 bits.*\(got -1180591620717"):
        export_embeddings(large, tmp_path / 'x.npz')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (
            lambda model: export_embeddings(model, 'x.parquet'),
            r"'pyarrow'.*\[frames\]",
        ),
        (lambda model: export_onnx(model, 'x.onnx'), r"'onnx'.*\[export\]"),
        (lambda model: export_lancedb(model, 'x'), r'lancedb.*\[export\]'),
        (lambda model: faiss_index(model), r"'faiss'.*\[ann\]"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch, tmp_path, call, message
):
    for name in ('pyarrow', 'pyarrow.parquet', 'faiss', 'onnx', 'lancedb'):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportError, match=message):
        call(ties())


def test_the_faiss_index_finds_what_the_recommender_does():
    pytest.importorskip('faiss')
    # In a process of its own: its threads and torch's do not always get along.
    code = (
        'import torch, numpy as np\n'
        'from promptmm_pyg.serving import Recommender, faiss_index\n'
        'g = torch.Generator().manual_seed(0)\n'
        'x = [torch.randn(n, 4, generator=g).half() for n in (5, 200)]\n'
        'model = Recommender(*x, user_ids=list(range(5)), seen=None,\n'
        '                    item_ids=list(range(200)))\n'
        'expected = (model.user_x.float() @ model.item_x.float().t()).topk(3)\n'
        "for factory in ('Flat', 'IVF2,Flat', 'HNSW8'):\n"
        '    index = faiss_index(model, factory)\n'
        "    if hasattr(index, 'nprobe'): index.nprobe = 2\n"
        '    scores, found = index.search(model.user_x.float().numpy(), 3)\n'
        '    np.testing.assert_allclose(scores, expected.values, rtol=1e-4)\n'
        '    print(factory, (found == expected.indices.numpy()).all())\n'
    )
    out = subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True, text=True
    )
    results = [line.split() for line in out.stdout.splitlines()]
    assert results == [['Flat', 'True'], ['IVF2,Flat', 'True'], ['HNSW8', 'True']]
