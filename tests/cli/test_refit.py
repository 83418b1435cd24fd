import json
import shutil

import pytest

from promptmm_pyg.cli import main
from promptmm_pyg.runs import Run

from .conftest import DISTILL, write_csv

HEAD = ['user_id', 'item_id']


@pytest.fixture
def run(distilled, copy_of):
    return copy_of(distilled)


@pytest.fixture
def new(run, tmp_path):
    """A table with interactions of a new user and of a new item."""
    items = Run(run).recommender().item_ids
    rows = [('newcomer', items[0]), ('newcomer', items[1])]
    rows += [(f'u{number}', 'novelty') for number in range(8)]
    write_csv(tmp_path / 'new.csv', HEAD, rows)
    return str(tmp_path / 'new.csv')


def recommended(run, user, capsys):
    capsys.readouterr()
    words = ['recommend', str(run), '--users', user, '-k', '3', '--json']
    assert main(words) == 0
    out, err = capsys.readouterr()
    return [entry['item'] for entry in json.loads(out)[0]['items']], err


def test_refit_then_update_then_recommend(run, new, capsys):
    assert main(['refit', str(run), '--quiet']) == 0
    out = capsys.readouterr().out
    count = Run(run).recommender().seen.col.numel()
    epochs = Run(run).final['epochs']
    assert f'on {count} interactions; {epochs["teacher"]} epochs of the' in out
    assert f'next: promptmm recommend {run} --users ID' in out
    assert 'final model: refit of ' in recommended(run, 'u1', capsys)[1]
    assert main(['update', str(run), new]) == 0
    out = capsys.readouterr().out
    assert '10 new interactions (0 known ones ignored), 1 new users, 1 new items' in out
    items, err = recommended(run, 'newcomer', capsys)
    assert len(items) == 3
    assert f'update of {Run(run).final["date"]} on {count + 10} inter' in err
    assert ', 1 update included' in err


def test_without_a_final_model_there_is_no_note(run, capsys):
    assert recommended(run, 'u1', capsys)[1] == ''


def test_new_items_have_features(run, new, files, tmp_path, capsys):
    with open(files.text, encoding='utf-8') as file:  # noqa: PTH123
        head, row = file.read().splitlines()[:2]
    values = row.split(',')[1:]
    rows = [('novelty', *values), ('unclicked', *values)]
    write_csv(tmp_path / 'text.csv', head.split(','), rows)
    write_csv(tmp_path / 'titles.csv', ['item_id', 'title'], [('novelty', 'New!')])
    words = ['--features', f'text={tmp_path / "text.csv"}']
    words += ['--titles', str(tmp_path / 'titles.csv')]
    assert main(['update', str(run), new, *words]) == 0
    assert '2 new items (2 with features)' in capsys.readouterr().out
    served = Run(run).recommender()
    assert served.item_ids[-2:] == ['novelty', 'unclicked']
    assert served.titles['novelty'] == 'New!'


def test_columns_can_be_named(run, tmp_path, capsys):
    write_csv(tmp_path / 'new.csv', ['who', 'what'], [('a', 'i1'), ('b', 'i2')])
    words = ['--user-column', 'who', '--item-column', 'what', '--epochs', '2']
    assert main(['update', str(run), str(tmp_path / 'new.csv'), *words]) == 0
    assert '2 new users' in capsys.readouterr().out


def test_added_items_are_in_the_served_recommender(run, files, tmp_path):
    assert main(['refit', str(run), '--quiet']) == 0
    with open(files.text, encoding='utf-8') as file:  # noqa: PTH123
        head, row = file.read().splitlines()[:2]
    write_csv(tmp_path / 'x.csv', head.split(','), [('added', *row.split(',')[1:])])
    words = ['--features', f'text={tmp_path / "x.csv"}']
    assert main(['add-items', str(run), *words]) == 0
    assert Run(run).recommender().item_ids[-1] == 'added'
    assert 'added' not in Run(run).recommender(final=False).item_ids


@pytest.mark.parametrize('content', ['{', '{}', '[]', '{"updates": "x"}'])
def test_a_damaged_final_model_is_an_error(run, new, fails, content):
    assert main(['update', str(run), new]) == 0
    (run / 'final' / 'config.json').write_text(content)
    words = ['recommend', run, '--users', 'u1']
    if content in ('{}', '[]'):
        assert main([str(word) for word in words]) == 0
    else:
        assert "final/config.json' is damaged" in fails(*words)


@pytest.mark.parametrize('place', [20, -1])
def test_a_damaged_update_is_an_error(run, new, fails, place):
    assert main(['update', str(run), new]) == 0
    file = run / 'updates' / '000001' / 'interactions.safetensors'
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert "interactions.safetensors' is damaged" in fails('refit', run)


def test_refit_continues_with_resume_only(run, fails):
    assert 'no interrupted refit to continue' in fails('refit', run, '--resume')


def test_refit_requires_the_data(files, tmp_path, fails):
    table = shutil.copy(files.table, tmp_path / 'clicks.csv')
    run = tmp_path / 'run'
    words = ['--out', str(run), '--no-prompt', '--epochs', '1', '--quiet']
    assert main(['train', str(table), *words]) == 0
    assert main(['distill', str(run), *DISTILL, '--epochs', '1']) == 0
    with table.open('a') as file:
        file.write('fresh,i1,3\n')
    assert 'the data have changed' in fails('refit', run)
    # The table with the new row is an update.
    assert main(['update', str(run), str(table)]) == 0


@pytest.mark.parametrize(
    ('rows', 'head', 'message'),
    [
        ([('u1', 'i1')], ['user', 'item_id'], "must have a column 'user_id'"),
        ([], HEAD, 'at least one row'),
    ],
)
def test_a_table_that_does_not_fit(run, tmp_path, fails, rows, head, message):
    write_csv(tmp_path / 'new.csv', head, rows)
    assert message in fails('update', run, tmp_path / 'new.csv')


def test_update_requires_a_table_with_something_new(run, files, tmp_path, fails):
    assert 'all known)' in fails('update', run, files.table)
    assert "got no file 'nowhere.csv'" in fails('update', run, 'nowhere.csv')


def test_a_teacher_alone_is_refitted_and_updated(trained, tmp_path, new):
    run = shutil.copytree(trained, tmp_path / 'alone')
    assert main(['refit', str(run), '--quiet']) == 0
    assert list(Run(run).final['epochs']) == ['teacher']
    before = Run(run).recommender()
    assert main(['update', str(run), str(new)]) == 0
    assert Run(run).recommender().num_users > before.num_users


def test_features_require_a_run_with_features(files, tmp_path, new, fails):
    run = tmp_path / 'run'
    words = ['--out', str(run), '--no-prompt', '--epochs', '1', '--quiet']
    assert main(['train', files.table, *words]) == 0
    assert main(['distill', str(run), *DISTILL, '--epochs', '1']) == 0
    message = fails('update', run, new, '--features', f'text={files.text}')
    assert 'cannot place items by features' in message
