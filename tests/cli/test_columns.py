"""A small data set with categories, numbers and lists on items and users."""

import json
import random

import pytest

from promptmm_pyg.cli import main
from promptmm_pyg.data import INTERACTS, load_dataset
from promptmm_pyg.runs import Run
from promptmm_pyg.serving import Recommender
from tests.cli.conftest import DISTILL, TRAIN, write_csv

GENRES = ['Comedy', 'Drama', 'Family', 'SciFi', 'War']
WIDTHS = {'genre': 5, 'brand': 256, 'price': 1}


@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    """Users like items of one genre; brands are many, some cells are empty."""
    folder, draw = tmp_path_factory.mktemp('shop'), random.Random(0)
    items, users = [f'i{n:02}' for n in range(90)], [f'u{n:02}' for n in range(50)]
    genres = {
        item: [GENRES[n % 5], GENRES[(n + 1) % 5]][: 1 + n % 2]
        for n, item in enumerate(items)
    }
    rows = [
        (item, '|'.join(genres[item]), f'brand {n % 70}', n % 7)
        for n, item in enumerate(items)
    ]
    rows[7], rows[9] = ('i07', '', 'brand 7', 1), ('i09', 'War', 'brand 9', '')
    write_csv(folder / 'items.csv', ['item_id', 'genre', 'brand', 'price'], rows)
    rows = [
        (user, 20 + n % 30, 'fm'[n % 2], f'I like {GENRES[n % 5]} and tea {n}')
        for n, user in enumerate(users)
    ]
    write_csv(folder / 'users.csv', ['user_id', 'age', 'gender', 'bio'], rows)
    rows = []
    for n, user in enumerate(users):
        liked = [item for item in items if GENRES[n % 5] in genres[item]]
        chosen = sorted(set(draw.sample(liked, 9) + draw.sample(items, 3)))
        parts = ['test', 'valid', *['train'] * len(chosen)]
        rows += [(user, *pair) for pair in zip(chosen, parts, strict=False)]
    draw.shuffle(rows)
    write_csv(folder / 'clicks.csv', ['user_id', 'item_id', 'part'], rows)
    return folder


def words(shop):
    return [
        *(str(shop / 'clicks.csv'), '--split-column', 'part'),
        *('--item-table', 'items.csv', '--item-columns', 'genre', 'brand', 'price'),
        *('--user-table', 'users.csv', '--user-columns', 'age', 'gender'),
        *('--list-separator', '|'),
    ]


@pytest.fixture(scope='module')
def run(shop, tmp_path_factory):
    path = tmp_path_factory.mktemp('runs') / 'shop'
    texts = ['--user-text', f'{shop / "users.csv"}:bio']
    assert main(['train', *words(shop), *texts, '--out', str(path), *TRAIN]) == 0
    assert main(['distill', str(path), *DISTILL]) == 0
    return path


def test_columns_are_described_without_false_alarms(shop, capsys):
    assert main(['data', 'check', *words(shop), '--json']) == 0
    report = json.loads(capsys.readouterr().out)
    widths = {x['name']: x['width'] for x in report['modalities'] if x['of'] == 'item'}
    assert widths == WIDTHS
    assert [x['name'] for x in report['modalities'] if x['of'] == 'user'] == [
        'age',
        'gender',
    ]
    assert report['parts']['val'] == report['parts']['test'] == 50
    assert report['counts'] == {'users': 50, 'items': 90}
    assert all('x_' not in issue['where'] for issue in report['issues'])


def test_the_python_call_reads_the_same(shop):
    data = load_dataset(
        shop / 'clicks.csv',
        split_column='part',
        item_table='items.csv',
        item_columns=list(WIDTHS),
        user_table=shop / 'users.csv',
        user_columns=['age', 'gender'],
        list_separator='|',
    )
    item, user = data.train['item'], data.train['user']
    assert {name: item[f'x_{name}'].size(1) for name in WIDTHS} == WIDTHS
    assert item.x_genre[1].tolist() == [0, 1, 1, 0, 0]
    assert item.mask_genre.sum() == item.mask_price.sum() == 89
    assert user.x_age.tolist()[:2] == [[20.0], [21.0]]
    assert user.x_gender[:2].tolist() == [[1, 0], [0, 1]]


def test_the_run_uses_users_and_items(run):
    data = Run.open(run).data.train
    assert {'x_age', 'x_gender', 'x_user_text'} <= set(data['user'].keys())
    assert 'x_user_text' not in data['item']
    assert main(['evaluate', str(run)]) == 0
    assert main(['recommend', str(run), '--users', 'u03', '-k', '2']) == 0


def test_the_settings_of_a_run_give_the_same_settings(run, tmp_path, capsys):
    config = run / 'config.json'
    argv = ['train', '--config', str(config), '--out', str(tmp_path), '--print-config']
    capsys.readouterr()
    assert main(argv) == 0
    settings = json.loads(capsys.readouterr().out)
    assert settings['item-columns'] == ['genre', 'brand', 'price']
    assert settings['user-text'].endswith('users.csv:bio')
    assert settings['split-column'] == 'part'
    assert settings['list-separator'] == '|'


def test_new_items_are_encoded_as_those_of_training(run, tmp_path, capsys):
    rows = [(0, 'n1', 'brand 3', 'War|Drama'), (3, 'i01', 'brand 1', 'War')]
    rows += [('', 'n2', 'brand 8', 'Opera')]
    write_csv(tmp_path / 'new.csv', ['price', 'item_id', 'brand', 'genre'], rows)
    out = tmp_path / 'served'
    argv = ['add-items', str(run), '--item-table', str(tmp_path / 'new.csv')]
    assert main([*argv, '--out', str(out)]) == 0
    output, errors = capsys.readouterr()
    assert '2 items added, 92 in total' in output
    assert "1 new items have no value in the column 'genre'" in errors
    served = Recommender.load(out)
    mapper = served.feature_mapper
    assert mapper.channels == WIDTHS
    data = Run.open(run).read_split().train['item']
    x = {name: data[f'x_{name}'][:1].clone() for name in WIDTHS}
    x['genre'][0] = 0
    x['genre'][0, [1, 4]] = 1  # Drama and War.
    x['price'][0] = 0
    x['brand'] = data.x_brand[3:4]
    place = served.item_ids.index('n1')
    assert served.item_x[place].tolist() == pytest.approx(
        mapper(x)[0].tolist(), abs=1e-5
    )


def test_a_recommender_alone_has_no_encodings(run, tmp_path, fails):
    write_csv(tmp_path / 'new.csv', ['item_id', 'price'], [('n1', 1)])
    argv = ['add-items', str(run / 'recommender'), '--item-table', tmp_path / 'new.csv']
    assert 'requires the folder of a run' in fails(*argv)


def pairs(split):
    users, items = split.train['user'].raw_id, split.train['item'].raw_id
    return [
        {(users[u], items[i]) for u, i in x[INTERACTS].edge_label_index.t().tolist()}
        for x in split
    ]


@pytest.mark.parametrize('split', ['per-user', 'leave-one-out', 'cold-items'])
@pytest.mark.filterwarnings('ignore:split=:UserWarning')
def test_shuffled_rows_give_the_same_split(shop, tmp_path, split):
    head, *rows = [x.split(',') for x in (shop / 'clicks.csv').read_text().splitlines()]
    random.Random(5).shuffle(rows)
    write_csv(tmp_path / 'shuffled.csv', head, rows)
    expected = pairs(load_dataset(shop / 'clicks.csv', split=split))
    assert pairs(load_dataset(tmp_path / 'shuffled.csv', split=split)) == expected


def features(tmp_path, shop, columns):
    """A feature table with the ids of the shop."""
    rows = [
        (f'i{n:02}', *(column(n) for column in columns.values())) for n in range(90)
    ]
    write_csv(tmp_path / 'f.csv', ['item_id', *columns], rows)
    return [str(shop / 'clicks.csv'), '--features', f'text={tmp_path / "f.csv"}']


GOOD = {name: random.Random(name).gauss for name in 'ab'}
GOOD = {
    name: (lambda n, draw=draw: round(draw(0, 1), 3)) for name, draw in GOOD.items()
}


def test_useless_columns_are_left_out_by_the_option_that_is_named(
    shop, tmp_path, capsys
):
    useless = {'Unnamed: 0': lambda n: n, 'stock': lambda n: -1, 'note': lambda n: ''}
    argv = features(tmp_path, shop, {**useless, **GOOD})
    assert main(['data', 'check', *argv]) == 2
    out = capsys.readouterr().out
    for name in useless:
        assert f"(--drop-columns '{name}')" in out
    assert main(['data', 'check', *argv, '--drop-columns', *useless]) == 0
    assert 'drop-columns' not in capsys.readouterr().out


def test_all_errors_are_listed_at_once_by_raw_id(shop, tmp_path, capsys):
    gap = {'gap': lambda n: '' if n in (4, 5) else n * n}
    argv = features(tmp_path, shop, {**GOOD, **gap})
    with (tmp_path / 'f.csv').open('a') as file:
        file.write('i03,1,2,3\n')
    rows = [x.split(',') for x in (shop / 'clicks.csv').read_text().splitlines()[1:]]
    rows += [('ann', f'i{n:02}', 'train') for n in range(90)]
    rows += [(rows[0][0], rows[0][1], 'train' if rows[0][2] != 'train' else 'test')]
    path = tmp_path / 'clicks.csv'
    write_csv(path, ['user_id', 'item_id', 'part'], rows)
    argv = ['data', 'check', str(path), '--split-column', 'part', *argv[1:]]
    assert main([*argv, '--json']) == 2
    issues = json.loads(capsys.readouterr().out)['issues']
    errors = [issue['problem'] for issue in issues if issue['level'] == 'error']
    expected = [
        "each id once (got 'i03' again in line 92)",
        "gaps in ['gap'] of 2 items, the first is 'i04'",
        "1 in both 'train' and",
        "user 'ann' has every item (90)",
    ]
    assert len(errors) == len(expected)
    for text in expected:
        assert any(text in error for error in errors)
    assert all(issue['fix'] for issue in issues)


def test_data_that_are_not_read_are_an_issue_in_json(shop, capsys):
    argv = ['data', 'check', str(shop / 'clicks.csv'), '--split-column', 'item_id']
    assert main([*argv, '--json']) == 2
    (issue,) = json.loads(capsys.readouterr().out)['issues']
    assert issue['level'] == 'error'
    assert "must contain 'train', 'val'" in issue['problem']


def test_a_small_catalogue_and_no_features_are_reported(tmp_path, capsys):
    rows = [(f'u{n % 6}', f'i{(n * 5 + n // 6) % 11}') for n in range(30)]
    write_csv(tmp_path / 'small.csv', ['user_id', 'item_id'], sorted(set(rows)))
    assert main(['data', 'check', str(tmp_path / 'small.csv')]) == 0
    out = capsys.readouterr().out
    assert '--monitor Recall@' in out
    assert '--no-prompt' in out
