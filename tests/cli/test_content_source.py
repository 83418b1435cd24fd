import json
import sys
from pathlib import Path

import pytest
import torch

from promptmm_pyg.cli import build_parser, main
from promptmm_pyg.cli.data import data_config
from promptmm_pyg.content import HashingTextEncoder
from promptmm_pyg.data import INTERACTS, read_table, split_per_user
from promptmm_pyg.runs.data import load_split
from tests.content.encoders import Lengths, Sizes


def config(*argv):
    words = ['data', 'check', *map(str, argv)]
    return data_config(build_parser().parse_args(words))


def load(*argv):
    return load_split(config(*argv))


@pytest.fixture
def table(tmp_path):
    rows = [f'u{u},{i},{"" if i == 3 else f"the film {i}"}' for u in range(4)
            for i in range(6)]  # fmt: skip
    file = tmp_path / 'clicks.csv'
    file.write_text('user_id,item_id,title\n' + '\n'.join(rows) + '\n')
    return file


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / 'texts'
    folder.mkdir()
    for i in range(4):
        (folder / f'{i}.txt').write_text('' if i == 0 else f'the film {i}')
    return folder


def expected(item, present):
    rows = HashingTextEncoder().encode([f'the film {i}' for i in range(6)])
    there = torch.tensor([i in present for i in range(6)])
    assert item.raw_id.tolist() == [str(i) for i in range(6)]
    assert torch.equal(item.mask_text, there)
    torch.testing.assert_close(item.x_text, torch.from_numpy(rows) * there[:, None])


def test_texts_come_from_a_folder(table, texts, capsys):
    split = load(table, '--text', texts)
    expected(split.train['item'], {1, 2, 3})
    assert split.test['item'].x_text is split.train['item'].x_text
    err = capsys.readouterr().err
    assert err == (
        "warning: 1 of 4 contents for 'text' are treated as missing; the first: '0' is "
        'empty\n'
    )


def test_texts_come_from_a_column_of_the_table(table, capsys):
    expected(load(table, '--text', 'title').train['item'], {0, 1, 2, 4, 5})
    assert capsys.readouterr().err == ''


def test_texts_come_from_a_column_of_another_table(table, tmp_path):
    file = tmp_path / 'films.csv'
    file.write_text('plot,item_id\nthe film 2,2\nthe film 9,9\nthe film 4,4\n')
    expected(load(table, '--text', f'{file}:plot').train['item'], {2, 4})


def test_contents_leave_the_split_as_it_is(table, texts):
    plain = split_per_user(read_table(table))
    for mine, other in zip(load(table, '--text', texts), plain, strict=True):
        assert torch.equal(
            mine[INTERACTS].edge_label_index, other[INTERACTS].edge_label_index
        )


def test_contents_are_joined_to_folders_too(files, tmp_path):
    (tmp_path / '0.txt').write_text('zero')
    with pytest.raises(ValueError, match=r"new name \(got 'text'"):
        load(files.layout, '--text', tmp_path)
    split = load(files.layout, '--features', 'text=', '--text', tmp_path)
    assert split.train['item'].mask_text.nonzero().tolist() == [[0]]


@pytest.fixture
def recbole(tmp_path):
    folder = tmp_path / 'toy'
    folder.mkdir()
    head = 'user_id:token\titem_id:token\trating:float\ttimestamp:float\n'
    rows = [f'u{u}\ti{i}\t{i}\t{10 * u + i}' for u in range(3) for i in range(1, 6)]
    (folder / 'toy.inter').write_text(head + '\n'.join(rows) + '\n')
    (folder / 'toy.item').write_text('item_id:token\tname:token_seq\ni1\tA\ni9\tB\n')
    return folder


def test_a_recbole_folder_without_a_split_is_split_as_asked(recbole):
    split = load(recbole, '--split', 'leave-one-out', '--text', 'name')
    assert split.test[INTERACTS].edge_label_time.tolist() == [5, 15, 25]
    item = split.train['item']
    assert item.raw_id[item.mask_text.numpy()].tolist() == ['i1', 'i9']
    few = load(recbole, '--min-rating', '3')
    assert sum(graph[INTERACTS].edge_label_index.size(1) for graph in few) == 9


def test_a_recbole_folder_with_a_split_keeps_it(recbole):
    file = recbole / 'toy.inter'
    head, *rows = file.read_text().splitlines()
    for name, part in (('train', rows[:9]), ('valid', rows[9:12]), ('test', rows[12:])):
        (recbole / f'toy.{name}.inter').write_text('\n'.join([head, *part]) + '\n')
    split = load(recbole)
    assert [g[INTERACTS].edge_label_index.size(1) for g in split] == [9, 3, 3]
    with pytest.raises(ValueError, match='which came with a split'):
        config(recbole, '--split', 'time')


def test_without_times_one_is_left_out_by_chance(recbole):
    (recbole / 'toy.inter').write_text('user_id:token\titem_id:token\nu\ta\n')
    assert config(recbole, '--split', 'leave-one-out')['split']['by'] == 'random'
    with pytest.raises(ValueError, match='--time-column'):
        config(recbole, '--split', 'time')


def test_encoders_are_chosen_by_name(table, tmp_path, monkeypatch):
    asked = []

    def make(kind, encoder):
        monkeypatch.setattr(
            f'promptmm_pyg.runs.data.{kind}',
            lambda name: asked.append((kind, name)) or encoder,
        )

    make('SentenceTransformerEncoder', Lengths())
    make('torchvision_encoder', Sizes())
    make('timm_encoder', Sizes())
    (tmp_path / '2.png').write_bytes(b'ab')
    options = ['--text', 'title', '--images', tmp_path, '--content-cache', tmp_path]
    options += ['--text-encoder', 'sbert']
    item = load(table, *options).train['item']
    assert item.x_text[2].tolist() == [len('the film 2'), 0]
    assert item.x_image[2].tolist() == [2, 1]
    assert item.mask_image.nonzero().tolist() == [[2]]
    load(table, *options, '--image-encoder', 'timm:vit')
    assert asked[::2] == [('SentenceTransformerEncoder', 'sbert')] * 2
    assert asked[1::2] == [('torchvision_encoder', 'vgg16'), ('timm_encoder', 'vit')]
    assert len(list(tmp_path.rglob('*.safetensors'))) == 2


def test_a_model_has_a_cache_by_default_and_hashing_none(table, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', '/somewhere')
    hashed, model = (
        config(table, '--text', 'title', '--text-encoder', name)['content'][0]
        for name in ('hashing', 'sbert')
    )
    assert hashed['cache'] is None
    assert model['cache'] == str(Path('/somewhere/promptmm_pyg/content').resolve())
    monkeypatch.delenv('XDG_CACHE_HOME')
    (again,) = config(table, '--text', 'title', '--text-encoder', 'x')['content']
    assert again['cache'].startswith(str(Path.home()))


def test_the_configuration_is_plain_values(table, texts):
    found = config(table, '--text', texts, '--images', texts)
    assert json.loads(json.dumps(found)) == found
    assert config(table)['content'] == []


def test_runs_from_before_have_no_contents(table):
    before = config(table)
    del before['content']
    assert 'x_text' not in load_split(before).train['item']


@pytest.mark.parametrize(
    ('argv', 'match'),
    [
        (['{table}', '--images', 'no'], r"--images must name a folder .got 'no'"),
        (['{table}', '--text', 'no.csv:a'], '--text names a file that does not exist'),
        (['{layout}', '--text', 'title'], 'which has no columns of its own'),
        (
            ['{table}', '--min-rating', '3'],
            '--min-rating. requires a column of ratings',
        ),
        (['{layout}', '--min-rating', '3'], "must be left out for the layout 'mmssl'"),
        (
            ['{table}', '--text', 'title', '--features', 'text={table}'],
            "--features must not name 'text'",
        ),
    ],
)
def test_mistakes_are_named(table, files, argv, match):
    words = [word.format(table=table, layout=files.layout) for word in argv]
    with pytest.raises(ValueError, match=match):
        config(*words)


def test_a_missing_package_is_one_line(table, monkeypatch, fails):
    monkeypatch.setitem(sys.modules, 'sentence_transformers', None)
    argv = ['data', 'check', table, '--text', 'title', '--text-encoder', 'sbert']
    assert 'pip install ".[content]"' in fails(*argv)


def test_a_teacher_is_trained_on_a_column_of_texts(table, tmp_path, capsys):
    run = tmp_path / 'run'
    rows = [f'u{u},{u + i},film {u + i}' for u in range(9) for i in range(15)]
    table.write_text('user_id,item_id,title\n' + '\n'.join(rows) + '\n')
    argv = ['train', str(table), '--text', 'title', '--out', str(run), '--no-prompt']
    short = ['--epochs', '1', '--embedding-dim', '4', '--quiet']
    assert main([*argv, *short]) == 0
    assert 'PromptMM: validation' in capsys.readouterr().out
    saved = json.loads((run / 'config.json').read_text())
    assert saved['data']['content'][0]['column'] == 'title'
    # The same contents are encoded again to go on.
    more = ['--epochs', '2', '--embedding-dim', '4', '--quiet']
    assert main([*argv, *more, '--resume']) == 0
    table.write_text(table.read_text().replace('film 1\n', 'other\n'))
    assert main([*argv, *more, '--resume']) == 2
    assert 'data' in capsys.readouterr().err


def test_help_names_both(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(['train', '--help'])
    out = capsys.readouterr().out
    assert '--text SOURCE' in out
    assert '--images FOLDER' in out
