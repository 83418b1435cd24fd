"""The hub is a folder here: no test uses the network."""

import inspect
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

from promptmm_pyg import PromptMM, load_prompt, save_prompt
from promptmm_pyg.data import make_synthetic_dataset
from promptmm_pyg.hub import HubMixin, download, upload
from promptmm_pyg.serving import Recommender

hub = pytest.importorskip('huggingface_hub', reason='requires promptmm_pyg[hub]')


def make_recommender():
    return Recommender(
        torch.eye(2), torch.eye(2), user_ids=['ann', 'bob'], item_ids=[1, 2], seen=None
    )


@pytest.fixture
def local_hub(monkeypatch, tmp_path):
    """The three calls of the library, answered by a folder per repository."""
    root = tmp_path / 'hub'

    def create(self, repo_id, *, private=None, exist_ok=False):
        (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
        return f'{repo_id}: {options["commit_message"]}'

    def upload_file(self, *, repo_id, path_or_fileobj, path_in_repo, **options):
        shutil.copy(path_or_fileobj, root / repo_id / path_in_repo)
        return repo_id

    def snapshot(repo_id, *, local_dir, **options):
        shutil.copytree(root / repo_id, local_dir, dirs_exist_ok=True)

    for name, call in (
        ('create_repo', create),
        ('upload_folder', upload_folder),
        ('upload_file', upload_file),
    ):
        monkeypatch.setattr(hub.HfApi, name, call)
    monkeypatch.setattr(hub, 'snapshot_download', snapshot)
    return root


def test_a_recommender_comes_back_from_a_folder_and_from_the_hub(local_hub, tmp_path):
    model = make_recommender()
    model.save_pretrained(tmp_path / 'saved')
    model.push_to_hub('me/mine', commit_message='first')
    for place in (tmp_path / 'saved', 'me/mine'):
        loaded = Recommender.from_pretrained(place, cache_dir=tmp_path / 'cache')
        assert loaded.recommend('bob', 2).ids.tolist() == [2, 1]
    assert Recommender.load(tmp_path / 'saved').card == model.card | {
        'about': Recommender.load(tmp_path / 'saved').card['about']
    }


def test_the_model_card_has_the_metrics_in_the_format_of_the_hub(tmp_path):
    metrics = {
        'student': {
            'monitor': 'Recall@20',
            'best_epoch': 3,
            'validation': {'Recall@20': 0.5, 'NDCG@20': 0.25},
            'tuned': True,
        },
        'baseline': {'validation': {'Recall@20': 0.125}},
    }
    card = {'name': 'Mine: a student', 'metrics': metrics, 'license': 'mit'}
    make_recommender().save_pretrained(tmp_path, card=card, dataset='tiktok')
    data = hub.ModelCard.load(tmp_path / 'README.md').data
    assert (data.library_name, data.license) == ('promptmm_pyg', 'mit')
    assert data.model_name == 'Mine: a student'
    found = [
        (x.dataset_name, x.dataset_split, x.metric_type, x.metric_name, x.metric_value)
        for x in data.eval_results
    ]
    assert found == [
        ('tiktok', 'validation', 'recall_at_20', 'Recall@20', 0.5),
        ('tiktok', 'validation', 'ndcg_at_20', 'NDCG@20', 0.25),
    ]
    assert '# Mine: a student' in (tmp_path / 'README.md').read_text()


def test_metrics_without_a_split_are_metrics_of_the_card(tmp_path):
    card = {'metrics': {'Recall@20': 0.06, 'epochs': 7}, 'data': 'clicks'}
    make_recommender().save_pretrained(tmp_path, card=card)
    (result,) = hub.ModelCard.load(tmp_path / 'README.md').data.eval_results
    assert (result.dataset_name, result.dataset_split) == ('clicks', None)
    assert result.metric_value == 0.06
    make_recommender().save_pretrained(tmp_path, card={'metrics': 'good'})
    assert hub.ModelCard.load(tmp_path / 'README.md').data.eval_results is None


def test_a_prompt_comes_back_from_the_hub(local_hub, tmp_path):
    graph = make_synthetic_dataset(20, 10, 4)
    teachers = [PromptMM.from_data(graph, embedding_dim=4) for _ in range(2)]
    save_prompt(tmp_path / 'prompt.safetensors', teachers[0])
    upload(tmp_path / 'prompt.safetensors', 'me/prompt')
    folder = download('me/prompt', cache_dir=tmp_path / 'cache')
    load_prompt(folder / 'prompt.safetensors', teachers[1])
    pair = zip(*(x.get_prompt().parameters() for x in teachers), strict=True)
    assert all(torch.equal(a, b) for a, b in pair)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(hub.constants, 'ENDPOINT', 'http://127.0.0.1:9')
    model, options = make_recommender(), {'cache_dir': tmp_path}
    for call in (
        lambda: model.push_to_hub('me/mine', token='hf_none'),
        lambda: Recommender.from_pretrained('me/mine', **options),
        lambda: Recommender.from_pretrained(
            'me/mine', local_files_only=True, **options
        ),
        lambda: Recommender.from_pretrained('../no/such/folder', **options),
    ):
        with pytest.raises(ConnectionError, match='must ') as caught:
            call()
        assert '\n' not in str(caught.value)
        assert len(str(caught.value)) < 450


def test_what_is_not_there_is_not_uploaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="'path' must exist"):
        upload(tmp_path / 'nothing', 'me/mine')


def test_a_missing_library_is_named_with_its_extra(monkeypatch, tmp_path):
    make_recommender().save(tmp_path)
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    assert Recommender.from_pretrained(tmp_path).num_items == 2
    for call in (
        lambda: Recommender.from_pretrained('me/mine'),
        lambda: make_recommender().push_to_hub('me/mine'),
    ):
        with pytest.raises(ImportError, match=r'\.\[hub\]'):
            call()


def test_the_arguments_are_those_of_the_mixin_of_the_library():
    loading, sending = (
        [set(inspect.signature(x).parameters) for x in pair]
        for pair in (
            (HubMixin.from_pretrained, hub.ModelHubMixin.from_pretrained),
            (upload, hub.ModelHubMixin.push_to_hub),
        )
    )
    assert loading[0] - {'options'} == loading[1] - {'model_kwargs'}
    assert sending[0] - {'path'} <= sending[1]
