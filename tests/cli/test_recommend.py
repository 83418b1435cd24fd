import json
import shutil

import pytest
import torch

from promptmm_pyg.cli import main
from promptmm_pyg.serving import Recommender

RAY = ['--all-users', '--engine', 'ray', '--out']


def recommend(run, capsys, *words):
    capsys.readouterr()
    assert main(['recommend', str(run), *words, '--json']) == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_the_lists_of_the_recommender(distilled, capsys):
    results = recommend(distilled, capsys, '--users', 'u3', 'u0', '-k', '4')
    lists = Recommender.load(distilled / 'recommender').recommend(['u3', 'u0'], 4)
    assert [row['user'] for row in results] == ['u3', 'u0']
    for row, ids, scores in zip(results, lists.ids, lists.scores, strict=True):
        assert [x['item'] for x in row['items']] == ids.tolist()
        assert [x['score'] for x in row['items']] == scores.tolist()
        assert [x['rank'] for x in row['items']] == [1, 2, 3, 4]
        assert [x['title'] for x in row['items']] == [f'The {x}' for x in ids]


def test_ten_items_are_the_default(distilled, capsys):
    assert len(recommend(distilled, capsys, '--users', 'u1')[0]['items']) == 10


def test_the_table_shows_user_rank_item_score_and_title(distilled, capsys):
    ids, scores = Recommender.load(distilled / 'recommender').recommend('u1', 2)
    capsys.readouterr()
    assert main(['recommend', str(distilled), '--users', 'u1', '-k', '2']) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ['user', 'rank', 'item', 'score', 'title']
    first = ['u1', '1', ids[0], f'{scores[0]:.4f}', 'The', ids[0]]
    assert lines[1] == first
    assert len(lines) == 3


def test_without_titles_there_is_no_column(tmp_path, capsys):
    x = torch.eye(3)
    Recommender(x, x, user_ids=[7, 8, 9], item_ids=[70, 80, 90], seen=None).save(
        tmp_path
    )
    assert main(['recommend', str(tmp_path), '--users', '8', '-k', '1']) == 0
    out = capsys.readouterr().out
    assert out == 'user  rank  item   score\n8        1  80    1.0000\n'


def test_integer_ids_stay_integers(tmp_path, capsys):
    x = torch.eye(3)
    Recommender(x, x, user_ids=[7, 8, 9], item_ids=[70, 80, 90], seen=None).save(
        tmp_path
    )
    (tmp_path / 'deny.txt').write_text('90\n')
    words = ['--users', '9', '-k', '3', '--deny', str(tmp_path / 'deny.txt')]
    results = recommend(tmp_path, capsys, *words)
    assert results[0]['user'] == 9
    assert [x['item'] for x in results[0]['items']] == [70, 80]


def test_seen_items_are_left_out_by_default(distilled, capsys):
    served = Recommender.load(distilled / 'recommender')
    row = served.user_ids.index('u2')
    start, end = served.seen.rowptr[row : row + 2].tolist()
    seen = {served.item_ids[i] for i in served.seen.col[start:end].tolist()}
    unseen = recommend(distilled, capsys, '--users', 'u2', '-k', '60')
    every = recommend(distilled, capsys, '--users', 'u2', '-k', '60', '--include-seen')
    assert len(every[0]['items']) == served.num_items
    left = {x['item'] for x in every[0]['items']} - {
        x['item'] for x in unseen[0]['items']
    }
    assert left == seen


def test_allowed_and_denied_items_come_from_files(distilled, tmp_path, capsys):
    file = tmp_path / 'ids.txt'
    file.write_text('i1\ni2\n')
    base = ['--users', 'u0', '-k', '60', '--include-seen']
    allowed = recommend(distilled, capsys, *base, '--allow', str(file))
    denied = recommend(distilled, capsys, *base, '--deny', str(file))
    assert {x['item'] for x in allowed[0]['items']} == {'i1', 'i2'}
    assert len(denied[0]['items']) == 58
    assert not {'i1', 'i2'} & {x['item'] for x in denied[0]['items']}


@pytest.mark.parametrize(
    ('words', 'match'),
    [
        (
            ['--users', 'nobody'],
            "--users must contain a known id (got 'nobody'",
        ),
        (
            ['--users', 'u0', '-k', '61'],
            'between 1 and 60, the number of items (got 61)',
        ),
        (['--users', 'u0', '-k', '0'], 'between 1 and 60, the number of items (got 0)'),
        (['--users', 'u0', '--allow', 'no.txt'], "there is no file 'no.txt' of ids"),
        (['--users', 'u0', '--allow', 'a', '--deny', 'b'], 'not allowed with argument'),
        (
            ['--users', 'u0', '--engine', 'ray'],
            'ray requires --all-users and --out FOLDER',
        ),
        (
            ['--users', 'u0', '--num-workers', '2'],
            '--num-workers requires --engine ray',
        ),
        (
            [*RAY, 'x.parquet'],
            'must be a folder that is new or empty with --engine ray',
        ),
        ([*RAY, 'x', '--json'], '--json and --engine ray exclude each other'),
        ([*RAY, 'x', '--num-workers', '0'], '--num-workers must be positive (got 0)'),
        ([], 'one of --users, --users-file, --all-users, --history, --candidates and'),
        (['--users', 'u0', '--history', 'i1'], 'not allowed with argument'),
        (['--history'], '--history: expected at least one argument'),
        (
            ['--history', 'u0'],
            "--history must contain a known id (got 'u0'",
        ),
    ],
)
def test_what_does_not_fit_is_a_mistake(distilled, fails, words, match):
    assert match in fails('recommend', distilled, *words)


def test_new_users_get_the_lists_of_their_histories(distilled, capsys):
    words = ['--history', 'i3', 'i5', '--history', 'i0', '-k', '4']
    results = recommend(distilled, capsys, *words)
    lists = Recommender.load(distilled / 'recommender').recommend_from_history(
        [['i3', 'i5'], ['i0']], 4
    )
    assert [row['user'] for row in results] == ['new 1', 'new 2']
    assert [row['history'] for row in results] == [['i3', 'i5'], ['i0']]
    for row, ids, scores in zip(results, lists.ids, lists.scores, strict=True):
        assert [x['item'] for x in row['items']] == ids.tolist()
        assert [x['score'] for x in row['items']] == scores.tolist()


def test_lists_and_seen_items_concern_new_users_too(distilled, tmp_path, capsys):
    (tmp_path / 'ids.txt').write_text('i1\ni2\n')
    words = ['--history', 'i1', '-k', '60', '--allow', str(tmp_path / 'ids.txt')]
    assert [x['item'] for x in recommend(distilled, capsys, *words)[0]['items']] == [
        'i2'
    ]
    results = recommend(distilled, capsys, *words, '--include-seen')
    assert {x['item'] for x in results[0]['items']} == {'i1', 'i2'}


def test_the_table_names_new_users_by_number(distilled, capsys):
    capsys.readouterr()
    words = ['recommend', str(distilled), '--history', 'i3', '-k', '1']
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ['new', '1', '1']


def test_integer_histories_stay_integers(tmp_path, capsys):
    x = torch.eye(3)
    Recommender(x, x, user_ids=[7, 8, 9], item_ids=[70, 80, 90], seen=None).save(
        tmp_path
    )
    results = recommend(tmp_path, capsys, '--history', '70', '-k', '3')
    assert results[0]['history'] == [70]
    assert [x['item'] for x in results[0]['items']] == [80, 90]


def test_a_run_without_a_student_serves_its_teacher(trained, capsys):
    (found,) = recommend(trained, capsys, '--users', 'u0', '-k', '3')
    lists = Recommender.load(trained / 'teacher' / 'recommender').recommend(['u0'], 3)
    assert [x['item'] for x in found['items']] == list(lists.ids[0])


def test_a_run_that_is_not_trained_names_the_next_step(trained, copy_of, fails):
    run = copy_of(trained)
    shutil.rmtree(run / 'teacher' / 'recommender')
    assert f"'promptmm distill {run}'" in fails('recommend', run, '--users', 'u0')


def test_what_is_not_a_run_is_a_mistake(tmp_path, fails):
    assert 'is not a run' in fails('recommend', tmp_path, '--users', 'u0')


def test_a_damaged_recommender_is_a_mistake(distilled, copy_of, fails):
    run = copy_of(distilled)
    (run / 'recommender' / 'card.json').write_text('{}')
    assert 'its size differs' in fails('recommend', run, '--users', 'u0')


def test_a_bound_on_memory_gives_the_same_lists(distilled, capsys):
    words = ['--users', 'u3', 'u0', '-k', '4']
    exact = recommend(distilled, capsys, *words)
    bound = recommend(distilled, capsys, *words, '--memory-limit', '200KB')
    items = [[[x['item'] for x in row['items']] for row in y] for y in (exact, bound)]
    assert items[0] == items[1]


def test_an_index_finds_the_items_and_recall_is_printed(distilled, capsys):
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    words = ['--users', 'u3', 'u0', '-k', '4']
    exact = recommend(distilled, capsys, *words)
    more = ['--approximate', '--nprobe', '60', '--recall', '--json']
    assert main(['recommend', str(distilled), *words, *more]) == 0
    out, err = capsys.readouterr()
    results = json.loads(out)
    items = [[[x['item'] for x in row['items']] for row in y] for y in (exact, results)]
    assert items[0] == items[1]
    assert 'clusters compared: 100.00% of the exact items found' in err


def test_a_saved_index_is_used_until_the_items_change(
    distilled, tmp_path, capsys, fails, monkeypatch
):
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    model = Recommender.load(distilled / 'recommender')
    model.save(tmp_path / 'served')
    words = ['--users', 'u3', 'u0', '-k', '4', '--approximate']
    first = recommend(tmp_path / 'served', capsys, *words, '--save-index')
    with monkeypatch.context() as patch:
        patch.setattr(Recommender, 'index_items', None)
        assert recommend(tmp_path / 'served', capsys, *words) == first
    Recommender(
        model.user_x,
        model.item_x * 2,
        user_ids=model.user_ids,
        item_ids=model.item_ids,
        seen=model.seen,
    ).save(tmp_path / 'served')
    assert 'index of these items' in fails('recommend', tmp_path / 'served', *words)


def test_an_index_serves_new_users_too(distilled, capsys):
    pytest.importorskip('faiss', reason="requires the extra 'ann'")
    results = recommend(distilled, capsys, '--history', 'i1', 'i2', '--approximate')
    assert len(results[0]['items']) == 10


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--memory-limit', '1GiB', '--approximate'], 'exclude each other'),
        (['--memory-limit', 'much'], "'memory_limit' must be a positive number"),
        (['--memory-limit', '9B'], "'memory_limit' must be at least"),
        (['--approximate', '--nprobe', '0'], '--nprobe must be positive (got 0)'),
        (['--nprobe', '4'], '--nprobe requires --approximate'),
        (['--recall'], '--recall requires --approximate'),
        (['--save-index'], '--save-index requires --approximate'),
    ],
)
def test_options_of_large_rankings_that_do_not_fit_are_refused(
    distilled, fails, words, message
):
    assert message in fails('recommend', distilled, '--users', 'u1', *words)


def test_recall_is_that_of_known_users(distilled, fails):
    words = ['--history', 'i1', '--approximate', '--recall']
    assert '--recall requires --users' in fails('recommend', distilled, *words)
