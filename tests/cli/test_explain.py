import json
import shutil

import pytest
import torch

from promptmm_pyg.cli import main
from promptmm_pyg.cli.explain import _Names
from promptmm_pyg.data import INTERACTS
from promptmm_pyg.runs.run import Run
from promptmm_pyg.serving import Recommender


def explain(run, capsys, *words):
    capsys.readouterr()
    assert main(['explain', str(run), *words, '--json']) == 0
    return json.loads(capsys.readouterr().out)


def text(run, capsys, *words):
    capsys.readouterr()
    assert main(['explain', str(run), *words]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope='module')
def loaded(distilled):
    run = Run(distilled)
    return run.data.train, run.embeddings()


def position(graph, node_type, raw):
    return graph[node_type].raw_id.tolist().index(raw)


def history(graph, user):
    index = graph[INTERACTS].edge_index
    return index[1][index[0] == position(graph, 'user', user)].tolist()


@pytest.mark.parametrize('model', ['teacher', 'student', 'baseline'])
def test_the_parts_add_up_to_the_score_of_the_model(distilled, loaded, capsys, model):
    graph, tables = loaded
    found = explain(distilled, capsys, '--user', 'u3', '--item', 'i5', '--model', model)
    user = tables[model]['user'][position(graph, 'user', 'u3')]
    item = tables[model]['item'][position(graph, 'item', 'i5')]
    score = pytest.approx(float(user @ item), abs=1e-5)
    assert found['score'] == score
    assert sum(found['parts'].values()) == score
    assert sum(sum(row.values()) for row in found['pairs'].values()) == score
    expected = ['id', 'text', 'prompt'] if model == 'teacher' else ['id']
    assert list(found['parts']) == expected


def test_all_neighbors_and_the_node_itself_add_up(distilled, loaded, capsys):
    found = explain(distilled, capsys, '--user', 'u3', '--item', 'i5', '-k', '1000')
    graph, _ = loaded
    taken = {graph['item'].raw_id[item] for item in history(graph, 'u3')}
    assert {one['id'] for one in found['user_side']['neighbors']} == taken
    for side in (found['user_side'], found['item_side']):
        total = sum(one['score'] for one in side['neighbors'])
        total += sum(side['itself'].values())
        assert total == pytest.approx(found['score'], abs=1e-5)
        assert side['num_neighbors'] == len(side['neighbors'])
        assert side['covered'] == pytest.approx(1.0)


def test_the_rank_is_among_what_the_user_has_not_seen(distilled, loaded, capsys):
    graph, tables = loaded
    scores = (
        tables['teacher']['item']
        @ tables['teacher']['user'][position(graph, 'user', 'u3')]
    )
    seen = history(graph, 'u3')
    scores[seen] = -torch.inf
    order = scores.argsort(descending=True)
    third = graph['item'].raw_id[int(order[2])]
    found = explain(distilled, capsys, '--user', 'u3', '--item', third)
    assert found['rank'] == 3
    assert found['seen'] is False
    best = explain(distilled, capsys, '--user', 'u3')
    assert best['item'] == graph['item'].raw_id[int(order[0])]
    assert best['rank'] == 1


def test_without_an_item_the_first_recommendation_is_explained(distilled, capsys):
    ids, scores = Recommender.load(distilled / 'recommender').recommend('u7', 1)
    found = explain(distilled, capsys, '--user', 'u7', '--model', 'student')
    assert found['item'] == ids[0]
    assert found['score'] == pytest.approx(float(scores[0]), abs=1e-5)


def test_an_item_of_the_history_is_marked(trained, loaded, capsys):
    graph, _ = loaded
    item = graph['item'].raw_id[history(graph, 'u3')[0]]
    out = text(trained, capsys, '--user', 'u3', '--item', item)
    assert '(a known interaction)' in out
    assert explain(trained, capsys, '--user', 'u3', '--item', item)['seen'] is True


def test_a_held_out_interaction_is_known(trained, capsys):
    data = Run(trained).data
    user, item = data.val[INTERACTS].edge_label_index[:, 0].tolist()
    raw = [data.train[key].raw_id[row] for key, row in (('user', user), ('item', item))]
    result = explain(trained, capsys, '--user', raw[0], '--item', raw[1])
    assert result['seen'] is True


def test_tables_have_ids_titles_and_the_rank(trained, loaded, capsys):
    graph, _ = loaded
    busiest = int(graph[INTERACTS].edge_index[0].bincount().argmax())
    user = graph['user'].raw_id[busiest]
    out = text(trained, capsys, '--user', user, '--item', 'i5', '-k', '1')
    lines = out.splitlines()
    assert lines[:2] == [f'user   {user}', 'item   i5  The i5']
    assert lines[2].startswith('score  ')
    assert ' by the teacher, rank ' in lines[2]
    head = next(n for n, line in enumerate(lines) if line.startswith('the user'))
    columns = ['the', "user's", 'items', 'score', 'id', 'text', 'prompt']
    assert lines[head].split() == columns
    assert '  The i' in lines[head + 1]
    assert lines[head + 2].split()[1].startswith('other')


def test_titles_also_come_from_the_recommender(distilled, copy_of, capsys):
    run = copy_of(distilled)
    config = json.loads((run / 'config.json').read_text())
    config['titles'] = None
    (run / 'config.json').write_text(json.dumps(config))
    assert 'item   i5  The i5' in text(run, capsys, '--user', 'u3', '--item', 'i5')
    shutil.rmtree(run / 'recommender')
    out = text(run, capsys, '--user', 'u3', '--item', 'i5')
    assert 'item   i5\n' in out


def test_a_picture_is_written(trained, capsys, tmp_path):
    file = tmp_path / 'why.png'
    out = text(trained, capsys, '--user', 'u3', '--item', 'i5', '--out', str(file))
    assert out.endswith(f'\nwritten to {file}\n')
    assert file.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('model', ['teacher', 'student'])
def test_a_map_needs_no_user(distilled, capsys, tmp_path, model):
    file = tmp_path / 'map.png'
    out = text(distilled, capsys, '--map', str(file), '--model', model)
    assert out == f'\nwritten to {file}\n'
    assert file.read_bytes().startswith(b'\x89PNG')


def test_json_stays_json_beside_a_map(trained, capsys, tmp_path):
    words = ['--user', 'u3', '--map', str(tmp_path / 'map.png')]
    assert explain(trained, capsys, *words)['user'] == 'u3'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], '--user or --map is required'),
        (['--map', 'x.png', '--item', 'i1'], '--item requires --user'),
        (['--map', 'x.png', '--out', 'y.png'], '--out requires --user'),
        (['--user', 'u3', '-k', '-1'], r'-k must be zero or more (got -1)'),
        (['--user', 'u3', '--out', 'x.pdf'], '--out must end in .png'),
        (
            ['--user', 'nobody'],
            "--user must contain a known id (got 'nobody'",
        ),
        (
            ['--user', 'u3', '--item', 'none'],
            '--item must contain a known id',
        ),
    ],
    ids=str,
)
def test_a_mistake_is_named(trained, fails, words, message):
    assert message in fails('explain', trained, *words)


def test_a_student_that_is_not_there_is_named(trained, fails):
    message = fails('explain', trained, '--user', 'u3', '--model', 'student')
    assert "Train it with 'promptmm distill" in message


def test_a_folder_that_is_no_run_is_named(tmp_path, fails):
    assert 'is not a run' in fails('explain', tmp_path, '--user', 'u3')


def test_a_long_title_is_cut_in_tables_only(trained, copy_of, capsys, tmp_path):
    run = copy_of(trained)
    config = json.loads((run / 'config.json').read_text())
    titles = tmp_path / 'long.csv'
    long = 'x' * 70
    rows = [f'i{number},{long}' for number in range(60)]
    titles.write_text('\n'.join(['item_id,title', *rows]))
    config['titles']['path'] = str(titles)
    (run / 'config.json').write_text(json.dumps(config))
    lines = text(run, capsys, '--user', 'u3', '--item', 'i5').splitlines()
    assert lines[1] == f'item   i5  {long}'
    cut = [line for line in lines if 'xxx...' in line]
    assert cut
    assert all(line.split('  ')[1].endswith('...') for line in cut)


def test_control_characters_of_ids_and_titles_are_shown_escaped():
    ids = {'user': ['\x1b[31mu'], 'item': ['i\n']}
    names = _Names(ids, {'i\n': 'T\x07'})
    assert [names('user', 0), names('item', 0)] == ['\\x1b[31mu', 'i\\n  T\\x07']
    assert names.short('item', 0) == 'T\\x07'
