import shutil

import numpy as np
import pytest
import torch

from promptmm_pyg.cli import main
from promptmm_pyg.data import INTERACTS, load_dataset
from promptmm_pyg.runs.data import load_split
from promptmm_pyg.runs.run import Run
from promptmm_pyg.serving import Recommender


def recommender(run):
    return Recommender.load(run / 'recommender')


def test_embeddings_come_with_their_ids(distilled, tmp_path, capsys):
    file = tmp_path / 'x.npz'
    assert main(['export', str(distilled), '--embeddings', str(file)]) == 0
    assert capsys.readouterr().out == f'written: {file}\n'
    found, expected = np.load(file), recommender(distilled)
    assert found['item_ids'].tolist() == expected.item_ids
    assert np.array_equal(found['user_x'], expected.user_x.numpy())


def test_parquet_is_two_files(distilled, tmp_path, capsys):
    pytest.importorskip('pyarrow')
    file = tmp_path / 'x.parquet'
    assert main(['export', str(distilled), '--embeddings', str(file)]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['x.items.parquet', 'x.users.parquet']
    assert all(str(tmp_path / name) in capsys.readouterr().out for name in names[:1])


def test_the_index_finds_what_the_recommender_does(distilled, tmp_path):
    faiss = pytest.importorskip('faiss')
    file = tmp_path / 'items.index'
    assert main(['export', str(distilled), '--faiss', str(file)]) == 0
    served = recommender(distilled)
    query = served.user_x[:1].float().numpy()
    _, rows = faiss.read_index(str(file)).search(query, 5)
    user = served.user_ids[0]
    expected = served.recommend(user, 5, exclude_seen=False).ids.tolist()
    assert [served.item_ids[row] for row in rows[0]] == expected


def test_an_index_that_cannot_be_built_is_a_mistake(distilled, tmp_path, fails):
    pytest.importorskip('faiss')
    words = ['--faiss', tmp_path / 'x', '--faiss-factory', 'Nonsense']
    assert "faiss cannot build 'Nonsense'" in fails('export', distilled, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('more', [[], ['--include-seen']])
def test_the_program_ranks_as_the_recommender_does(distilled, tmp_path, more):
    file = tmp_path / 'top.pt2'
    words = ['--torch-export', str(file), '-k', '4', *more]
    assert main(['export', str(distilled), *words]) == 0
    served = recommender(distilled)
    items, _ = torch.export.load(file).module()(torch.tensor([3, 1, 2]))
    users = [served.user_ids[row] for row in (3, 1, 2)]
    expected = served.recommend(users, 4, exclude_seen=not more).ids
    found = [[served.item_ids[row] for row in line] for line in items.tolist()]
    assert found == expected.tolist()


def test_the_data_come_back_from_mmrec_without_a_student(trained, tmp_path):
    folder = tmp_path / 'clicks'
    assert main(['export', str(trained), '--mmrec', str(folder)]) == 0
    split = load_split(Run(trained).read_config()['data'])
    for found, expected in zip(load_dataset(folder), split, strict=True):
        a, b = (graph[INTERACTS].edge_label_index for graph in (found, expected))
        assert set(map(tuple, a.t().tolist())) == set(map(tuple, b.t().tolist()))


def test_an_output_is_required(distilled, fails):
    message = fails('export', distilled)
    assert 'Pass one or more of --embeddings, --faiss, --torch-export' in (message)


@pytest.mark.parametrize(
    ('words', 'match'),
    [
        (['--embeddings', 'x.csv'], '--embeddings must end in .npz or .parquet'),
        (['--torch-export', 'x.pt'], '--torch-export must end in .pt2'),
        (['--onnx', 'x.pb'], '--onnx must end in .onnx'),
        (['--torch-export', 'x.pt2', '-k', '0'], '-k must be between 1 and'),
        (['--torch-export', 'x.pt2', '-k', '999'], '-k must be between 1 and'),
    ],
)
def test_an_option_that_does_not_fit_is_a_mistake(
    distilled, fails, tmp_path, monkeypatch, words, match
):
    monkeypatch.chdir(tmp_path)
    assert match in fails('export', distilled, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('option', 'name', 'there'),
    [
        ('--embeddings', 'x.npz', 'x.npz'),
        ('--embeddings', 'x.parquet', 'x.items.parquet'),
        ('--faiss', 'x', 'x'),
        ('--torch-export', 'x.pt2', 'x.pt2'),
    ],
)
def test_a_file_is_not_replaced_by_accident(
    distilled, fails, tmp_path, option, name, there
):
    (tmp_path / there).write_text('mine')
    message = fails('export', distilled, option, tmp_path / name)
    assert f"'{tmp_path / there}' exists already" in message
    assert (tmp_path / there).read_text() == 'mine'


def test_a_file_is_replaced_on_purpose(distilled, tmp_path):
    file = tmp_path / 'x.npz'
    file.write_text('mine')
    words = ['--embeddings', str(file), '--overwrite']
    assert main(['export', str(distilled), *words]) == 0
    assert 'item_x' in np.load(file)


def test_a_folder_is_no_file(distilled, fails, tmp_path):
    (tmp_path / 'x').mkdir()
    message = fails('export', distilled, '--faiss', tmp_path / 'x', '--overwrite')
    assert 'got the folder' in message


def test_a_folder_of_data_is_never_replaced(distilled, fails, tmp_path):
    (tmp_path / 'thesis.tex').write_text('mine')
    words = ['--mmrec', tmp_path, '--overwrite']
    assert 'must be new or empty' in fails('export', distilled, *words)


def test_a_run_without_a_student_exports_its_teacher(trained, tmp_path):
    out = tmp_path / 'x.npz'
    assert main(['export', str(trained), '--embeddings', str(out)]) == 0
    teacher = Run(trained).embeddings()['teacher']
    known = Run(trained).data.train['user', 'interacts', 'item'].edge_index[1].unique()
    with np.load(out) as tables:
        exported = torch.from_numpy(tables['item_x'])
    assert torch.allclose(exported[known], teacher['item'][known], atol=1e-6)


def test_data_that_have_changed_are_not_exported(trained, copy_of, fails, tmp_path):
    run = copy_of(trained)
    text = (run / 'config.json').read_text()
    (run / 'config.json').write_text(
        text.replace('"data_sha256": "', '"data_sha256": "0')
    )
    assert 'the data have changed' in fails('export', run, '--mmrec', tmp_path / 'm')


def test_a_recommender_on_its_own_has_no_data(distilled, tmp_path, fails):
    folder = shutil.copytree(distilled / 'recommender', tmp_path / 'served')
    assert main(['export', str(folder), '--embeddings', str(tmp_path / 'x.npz')]) == 0
    assert 'is not a run' in fails('export', folder, '--mmrec', tmp_path / 'm')
