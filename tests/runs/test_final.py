import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from promptmm_pyg.cli import main
from promptmm_pyg.data import INTERACTS, build_graph
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.runs import Run, RunError
from promptmm_pyg.runs.update import update_recommender
from promptmm_pyg.serving import Recommender
from promptmm_pyg.training import loop
from tests.cli.conftest import DISTILL, write_csv
from tests.runs.test_mistakes import files_of


@pytest.fixture
def run(distilled, copy_of):
    return Run.open(copy_of(distilled))


@pytest.fixture
def refitted(run):
    run.refit(progress=False)
    return run


def all_pairs(run):
    data = run.data
    users, items = (data.train[key].raw_id.tolist() for key in ('user', 'item'))
    parts = [data.train[INTERACTS].edge_index]
    parts += [graph[INTERACTS].edge_label_index for graph in (data.val, data.test)]
    edges = torch.cat(parts, 1).t().tolist()
    return {(users[user], items[item]) for user, item in edges}


def seen_pairs(recommender):
    counts = recommender.seen.rowptr.diff().tolist()
    users = [
        raw
        for raw, n in zip(recommender.user_ids, counts, strict=True)
        for _ in range(n)
    ]
    items = [recommender.item_ids[row] for row in recommender.seen.col.tolist()]
    return set(zip(users, items, strict=True))


def test_refit_trains_on_everything_and_is_served(run):
    before = files_of(run.path)
    evaluated = run.recommender()
    run.refit(progress=False)
    after = files_of(run.path)
    assert {name: after[name] for name in before} == before
    final = run.recommender()
    assert seen_pairs(final) == all_pairs(run)
    assert not torch.equal(final.item_x, evaluated.item_x)
    assert torch.equal(run.recommender(final=False).item_x, evaluated.item_x)
    assert final.titles == evaluated.titles
    assert final.feature_mapper is not None
    names = ('teacher', 'student')
    epochs = {name: max(1, run.metrics(name)['best_epoch']) for name in names}
    assert run.final['epochs'] == epochs
    for name, number in epochs.items():
        log = (run.final_dir / name / 'log.jsonl').read_text().splitlines()
        assert len(log) == number
        assert all('validation' not in json.loads(line) for line in log)


def test_a_refit_is_that_of_the_library(run, refitted):
    """The student of the final folder, rebuilt by hand, on the merged graph."""
    final = Run(run.final_dir)
    model = run.new_student()
    model.load_state_dict(load_file(final.student_dir / 'model.safetensors'))
    parts = [run.data.train[INTERACTS].edge_index]
    parts += [graph[INTERACTS].edge_label_index for graph in run.data.split[1:]]
    graph = build_graph(torch.cat(parts, 1), num_users=40, num_items=60)
    expected = get_embeddings(model, graph)
    clicked = graph[INTERACTS].edge_index[1].unique()  # Others have features only.
    served = run.recommender().item_x[clicked]
    torch.testing.assert_close(served, expected['item'][clicked])


def test_an_interrupted_refit_continues_to_the_same_model(
    run, refitted, tmp_path, distilled, monkeypatch
):
    other = Run(shutil.copytree(distilled, tmp_path / 'other'))
    shown = []

    def interrupt(*_):
        shown.append(None)
        if len(shown) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, '_show', interrupt)
        with pytest.raises(KeyboardInterrupt):
            other.refit(progress=False)
    assert other.final == {}
    other.refit(progress=False, resume=True)
    assert torch.equal(other.recommender().item_x, run.recommender().item_x)
    with pytest.raises(RunError, match='no interrupted refit'):
        other.refit(resume=True)


def new_rows(run):
    """A known pair; new ones of a known user, a new user and a new item."""
    known = next(iter(sorted(all_pairs(run))))
    user = known[0]
    free = sorted(
        set(run.recommender().item_ids) - {i for u, i in all_pairs(run) if u == user}
    )
    rows = [known, (user, free[0]), ('newcomer', free[0]), ('newcomer', free[1])]
    return [*rows, *((f'u{n}', 'novelty') for n in range(10))]


def test_update_continues_with_new_interactions_users_and_items(refitted, tmp_path):
    before = refitted.recommender()
    rows = new_rows(refitted)
    write_csv(tmp_path / 'new.csv', ['user_id', 'item_id'], rows)
    counts = refitted.update(tmp_path / 'new.csv')
    assert counts == (13, 1, 1, 1, 0)
    after = refitted.recommender()
    assert seen_pairs(after) == seen_pairs(before) | set(rows)
    assert after.user_ids == [*before.user_ids, 'newcomer']
    assert after.item_ids == [*before.item_ids, 'novelty']
    assert not torch.equal(after.item_x[:60], before.item_x)
    assert after.titles == before.titles
    assert refitted.final['updates'] == 1
    listed = after.recommend('newcomer', 5).ids.tolist()
    assert len(listed) == 5
    assert not {item for user, item in rows if user == 'newcomer'} & set(listed)


def test_update_works_without_refit_and_from_a_frame(run):
    frame = pd.DataFrame(new_rows(run), columns=['user_id', 'item_id'])
    counts = run.update(frame)
    assert (counts.interactions, counts.users, counts.items) == (13, 1, 1)
    assert run.recommender().num_users == 41
    assert run.recommender(final=False).num_users == 40


def test_update_does_not_read_the_data(run, monkeypatch):
    frame = pd.DataFrame(new_rows(run), columns=['user_id', 'item_id'])
    fresh = Run.open(run.path)
    monkeypatch.setattr('promptmm_pyg.runs.run.load_split', lambda _: 1 / 0)
    assert fresh.update(frame).interactions == 13


def test_new_items_have_features_after_an_update_and_a_refit(refitted):
    x = refitted.data.val['item'].x_text[:2].numpy() + 1.0
    frame = pd.DataFrame(new_rows(refitted), columns=['user_id', 'item_id'])
    counts = refitted.update(
        frame,
        item_ids=['novelty', 'unclicked'],
        features={'text': x},
        titles={'novelty': 'The novelty'},
    )
    assert counts == (13, 1, 1, 2, 2)
    assert refitted.recommender().titles['novelty'] == 'The novelty'
    refitted.refit(progress=False)
    final = refitted.recommender()
    assert final.item_ids[60:] == ['novelty', 'unclicked']
    assert final.titles['novelty'] == 'The novelty'
    assert seen_pairs(final) == all_pairs(refitted) | set(new_rows(refitted))
    assert refitted.final['updates'] == 1


def test_added_items_are_part_of_the_next_refit(run):
    x = run.data.val['item'].x_text[:1].numpy() + 1.0
    run.add_items(['added'], {'text': x}, titles={'added': 'An item'})
    assert run.recommender().item_ids[-1] == 'added'
    run.refit(progress=False)
    final = run.recommender()
    assert final.item_ids[-1] == 'added'
    assert final.titles['added'] == 'An item'
    assert seen_pairs(final) == all_pairs(run)


def test_a_second_update_adds_to_the_first(run):
    rows = new_rows(run)
    run.update(pd.DataFrame(rows[:2], columns=['user_id', 'item_id']))
    counts = run.update(pd.DataFrame(rows, columns=['user_id', 'item_id']))
    assert counts == (12, 2, 1, 1, 0)
    assert seen_pairs(run.recommender()) == all_pairs(run) | set(rows)
    assert run.final['updates'] == 2


def test_a_failed_update_changes_nothing(run, monkeypatch):
    before = files_of(run.path)
    frame = pd.DataFrame(new_rows(run), columns=['user_id', 'item_id'])
    with pytest.raises(RunError, match=r'not known \(got 1, all known\)'):
        run.update(frame.head(1))
    with pytest.raises(ValueError, match="'epochs' must be positive"):
        run.update(frame, epochs=0)
    assert files_of(run.path) == before


def test_distilling_again_replaces_the_final_model(refitted, capsys):
    assert main(['distill', str(refitted.path), *DISTILL, '--overwrite']) == 0
    assert refitted.final == {}
    assert refitted.served_dir == refitted.recommender_dir


def test_the_settings_of_a_search_are_those_of_the_refit(trained, copy_of):
    path = copy_of(trained)
    assert main(['distill', str(path), *DISTILL, '--tune', '3']) == 0
    run = Run.open(path)
    run.refit(progress=False)
    best = run.metrics('student')['best_params']
    card = run.recommender().card['training']
    assert card['train']['learning_rate'] == best['learning_rate']
    assert card['loss_weights']['l2'] == best['l2']


def made(seed=0):
    generator = torch.Generator().manual_seed(seed)
    user_x, item_x = (torch.randn(n, 8, generator=generator) for n in (30, 20))
    user_x[:15, 0], user_x[15:, 0] = 3, -3  # Two tastes.
    item_x[:10, 0], item_x[10:, 0] = 1, -1
    pairs = [(u, i) for u in range(30) for i in range(20) if (u < 15) == (i < 10)]
    index = [pair for pair in pairs if (pair[0] + pair[1]) % 3]
    return Recommender(
        user_x,
        item_x,
        user_ids=[f'u{n}' for n in range(30)],
        item_ids=[f'i{n}' for n in range(20)],
        seen=torch.tensor(index).t(),
    )


def test_new_users_and_items_follow_their_taste():
    pairs = [('x', f'i{n}') for n in range(5)]
    pairs += [('y', f'i{n}') for n in range(10, 15)]
    pairs += [(f'u{n}', 'z') for n in range(8)]
    model = update_recommender(made(), pairs)
    rank = {user: model.recommend(user, 10).ids.tolist() for user in 'xy'}
    assert {'i5', 'i6', 'i7', 'i8', 'i9', 'z'} <= set(rank['x'])
    assert {'i15', 'i16', 'i17', 'i18', 'i19'} <= set(rank['y'])
    assert 'z' not in rank['y'][:5]


def test_an_update_is_deterministic_and_leaves_its_input():
    before = made()
    x = before.item_x.clone()
    pairs = [('u0', 'i15'), ('new', 'i3')]
    first, second = (update_recommender(before, pairs) for _ in range(2))
    assert torch.equal(first.item_x, second.item_x)
    assert torch.equal(before.item_x, x)
    other = update_recommender(before, pairs, seed=1)
    assert not torch.equal(first.item_x, other.item_x)


def test_users_who_have_everything_are_no_error():
    pairs = [('u0', f'i{n}') for n in range(20)]
    model = update_recommender(made(), pairs)
    assert int(model.seen.num_seen[0]) == 20


def test_a_new_item_of_new_users_alone_starts_at_zero_and_is_trained():
    model = update_recommender(made(), [('a', 'z'), ('b', 'z')])
    assert model.item_x[-1].isfinite().all()
    assert np.isfinite(model.recommend('a', 3).scores).all()


def test_a_run_on_a_folder_is_updated_from_a_table(files, tmp_path):
    run = tmp_path / 'run'
    words = ['--no-prompt', '--epochs', '1', '--quiet', '--out', str(run)]
    assert main(['train', files.layout, *words]) == 0
    assert main(['distill', str(run), '--epochs', '1', '--quiet']) == 0
    write_csv(tmp_path / 'new.csv', ['userId', 'itemId'], [('40', '3'), ('1', '59')])
    assert main(['update', str(run), str(tmp_path / 'new.csv')]) == 0
    assert Run(run).recommender().user_ids[-2:] == ['39', '40']
    assert (
        Run(run).update(pd.DataFrame({'user_id': ['1'], 'item_id': [58]})) is not None
    )


def test_integers_stay_integers_and_text_is_refused(files, tmp_path, fails):
    edges = torch.cat(list(files.edges.values()), 1).t().numpy()
    columns = ['user_id', 'item_id']
    table = tmp_path / 'typed.parquet'
    pd.DataFrame(edges, columns=columns).to_parquet(table)
    run = tmp_path / 'run'
    words = ['--no-prompt', '--epochs', '1', '--quiet', '--out', str(run)]
    assert main(['train', str(table), *words]) == 0
    assert main(['distill', str(run), '--epochs', '1', '--quiet']) == 0
    write_csv(tmp_path / 'new.csv', columns, [(40, 3), (40, 5)])
    assert main(['update', str(run), str(tmp_path / 'new.csv')]) == 0
    assert Run(run).recommender().user_ids[-2:] == [39, 40]
    write_csv(tmp_path / 'bad.csv', columns, [('ann', 3)])
    assert "(got 'ann')" in fails('update', run, tmp_path / 'bad.csv')


def test_a_refit_without_settings_of_the_student_is_an_error(run):
    file = run.student_dir / 'config.json'
    file.write_text('{}')
    with pytest.raises(RunError, match='is damaged'):
        run.refit(progress=False)
