"""``refit`` of a student of several runs: all of them are trained again."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from promptmm_pyg.cli import main
from promptmm_pyg.data import INTERACTS, Split, build_graph
from promptmm_pyg.models import EASE, LightGCN
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.runs import Run, RunError, prepare
from promptmm_pyg.runs.folder import read_json, write_json
from promptmm_pyg.runs.record import merge_all
from promptmm_pyg.runs.run import build_model
from promptmm_pyg.training import TrainingConfig, loop, train
from tests.cli.conftest import DISTILL, TRAIN
from tests.runs.test_final import all_pairs, seen_pairs
from tests.runs.test_mistakes import files_of

WEIGHTS = {'PromptMM': 0.5, 'EASE': 0.3, 'LightGCN': 0.2}


@pytest.fixture(scope='module')
def taught(trained, files, tmp_path_factory):
    """A run whose student has three teachers, one in its folder, and one of other
    features.
    """
    folder = tmp_path_factory.mktemp('taught')
    run, light = folder / 'run', folder / 'light'
    shutil.copytree(trained, run)
    ease = run / 'members' / 'EASE'
    small = ['--model', 'EASE', '--embedding-dim', '8', '--quiet']
    for out, name, words in (
        (ease, 'text', small),
        (light, 'other', ['--model', 'LightGCN', *TRAIN]),
    ):
        data = [files.table, '--features', f'{name}={files.text}', '--out', str(out)]
        assert main(['train', *data, *words]) == 0
    words = ['--teachers', str(ease), str(light), *DISTILL]
    assert main(['distill', str(run), *words]) == 0
    return run


@pytest.fixture
def run(taught, tmp_path):
    """Moved, with known weights."""
    run = Run.open(shutil.copytree(taught, tmp_path / 'moved'))
    file = run.student_dir / 'teachers.json'
    content = read_json(file)
    assert list(content) == list(WEIGHTS)
    assert [x['run'] for x in content.values()][:2] == ['.', 'members/EASE']
    for name, weight in WEIGHTS.items():
        content[name]['weight'] = weight
    write_json(file, content)
    return run


def scores(x_dict):
    return (x_dict['user'] @ x_dict['item'].t()).double()


def standardized(x_dict):
    values = scores(x_dict)
    return values / values.var(1, unbiased=False).mean().sqrt()


def all_interactions(run):
    parts = [run.data.train[INTERACTS].edge_index]
    parts += [graph[INTERACTS].edge_label_index for graph in run.data.split[1:]]
    graph = build_graph(torch.cat(parts, 1), num_users=40, num_items=60)
    return Split(graph, graph, graph)


def ease_by_hand(run):
    split = all_interactions(run)
    return EASE.from_data(split).fit(split.train[INTERACTS].edge_index).as_output(8)[0]


def refitted_by_hand(run):
    """The embeddings of the teachers, trained on all interactions."""
    split = all_interactions(run)
    torch.manual_seed(0)
    light = LightGCN.from_data(split, embedding_dim=8)
    config = TrainingConfig(
        epochs=run.final['epochs']['LightGCN'],
        batch_size=128,
        validate_every=0,
        progress=False,
    )
    train(light, split, config=config)
    # That it is trained on everything is tested in test_final.py.
    merged = merge_all(run.read_split(), [])
    data = prepare(Split(merged, merged, merged), run.config['prompt'])
    prompt = build_model(run.config, 'teacher', data.train)
    folder = run.final_dir / 'teachers' / 'PromptMM' / 'teacher'
    prompt.load_state_dict(load_file(folder / 'model.safetensors'))
    return {
        'PromptMM': get_embeddings(prompt.eval(), data.inputs),
        'EASE': ease_by_hand(run),
        'LightGCN': get_embeddings(light, split.train),
    }


def test_all_teachers_learn_all_interactions_and_teach_with_their_weights(run):
    run.refit(progress=False)
    targets = load_file(run.final_dir / 'student' / 'targets.safetensors')
    x_dicts = refitted_by_hand(run)
    expected = sum(3 * w * standardized(x_dicts[name]) for name, w in WEIGHTS.items())
    torch.testing.assert_close(scores(targets), expected, atol=1e-4, rtol=1e-4)
    assert run.final['teachers'] == WEIGHTS
    epochs = run.final['epochs']
    assert list(epochs) == [*WEIGHTS, 'student']
    assert epochs['PromptMM'] == run.metrics('teacher')['best_epoch']
    assert seen_pairs(run.recommender()) == all_pairs(run)
    assert run.recommender().user_x.size(1) == 4


def test_an_interrupted_refit_continues_to_the_same_student(run, tmp_path, monkeypatch):
    other = Run(shutil.copytree(run.path, tmp_path / 'other'))
    run.refit(progress=False)
    epochs, number = run.final['epochs'], [0]

    def interrupt(*_):  # In the first epoch of the last teacher.
        number[0] += 1
        if number[0] == epochs['PromptMM'] + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, '_show', interrupt)
        with pytest.raises(KeyboardInterrupt):
            other.refit(progress=False)
    assert other.final == {}
    with monkeypatch.context() as patch:
        patch.setattr(loop, '_show', lambda *_: number.append(0))
        other.refit(progress=False, resume=True)
    # The first teacher, and an epoch of the last one, are not trained again.
    assert len(number) - 1 == epochs['LightGCN'] - 1 + epochs['student']
    assert torch.equal(other.recommender().item_x, run.recommender().item_x)


def test_one_model_alone_teaches_with_standardized_scores(run):
    """As ``auto`` records it if a sum is no better."""
    file = run.student_dir / 'teachers.json'
    write_json(file, {'EASE': {'run': 'members/EASE', 'weight': 1.0}})
    write_json(file.with_name('config.json'), {**run.student_config, 'teachers': []})
    run.refit(progress=False)
    targets = load_file(run.final_dir / 'student' / 'targets.safetensors')
    expected = 3 * standardized(ease_by_hand(run))
    torch.testing.assert_close(scores(targets), expected, atol=1e-4, rtol=1e-4)


def test_mistakes_are_found_before_training(run, files, tmp_path):
    member = Run(run.path / 'members' / 'EASE')
    before = files_of(run.path)

    def refused(match):
        with pytest.raises(RunError, match=match):
            run.refit(progress=False)

    write_json(member.config_file, {**member.config, 'data_sha256': '0'})
    refused('the data have changed since .*EASE')
    table = tmp_path / 'less.csv'  # Trained again, without the last interaction.
    table.write_text(Path(files.table).read_text().rpartition('u')[0])
    words = ['--model', 'EASE', '--quiet', '--features', f'text={files.text}']
    out = ['--out', str(member.path), '--overwrite']
    assert main(['train', str(table), *words, *out]) == 0
    refused('must be runs on the interactions of .*EASE')
    shutil.rmtree(member.path)
    refused("EASE' is not a run")
    after = files_of(run.path)
    assert all('members' in name or after[name] == before[name] for name in after)
