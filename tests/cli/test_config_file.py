import argparse
import json

import pytest

from promptmm_pyg.cli import build_parser, main
from promptmm_pyg.cli.distill import student_config
from promptmm_pyg.cli.parsing import UserError, config_text, read_settings
from promptmm_pyg.cli.train import run_config


@pytest.fixture
def written(tmp_path):
    """Writes a file of settings and returns its path."""

    def write(content, name='run.json'):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def parse(*words):
    return build_parser().parse_args(list(words))


def test_a_file_replaces_defaults(written):
    path = written({'path': 'x', 'out': 'r', 'epochs': 7, 'dropout': 0.25})
    args = parse('train', '--config', path)
    assert (args.path, args.out, args.epochs, args.dropout) == ('x', 'r', 7, 0.25)


def test_typed_options_win(written):
    path = written({'path': 'x', 'out': 'r', 'epochs': 7, 'split': 'time'})
    args = parse('train', 'y', f'--config={path}', '--out', 's', '--epochs', '8')
    assert (args.path, args.out, args.epochs, args.split) == ('y', 's', 8, 'time')


def test_toml_is_read_and_underscores_are_dashes(written):
    text = 'path = "x"\nout = "r"\nembedding_dim = 8\n[loss-weight]\nl2 = 0.5\n'
    args = parse('train', '--config', written(text, 'run.toml'))
    assert args.embedding_dim == 8
    assert float(dict(args.loss_weight)['l2']) == 0.5


def test_weights_and_features_are_completed_not_replaced(written):
    path = written(
        {'loss-weight': {'l2': 1, 'bpr': 2}, 'features': ['a=1.npy', 'b=2.npy']}
    )
    words = ['--loss-weight', 'l2=3', '--features', 'b=9.npy', '--config', path]
    args = parse('train', 'x', '--out', 'r', *words)
    assert float(dict(args.loss_weight)['l2']) == 3
    assert float(dict(args.loss_weight)['bpr']) == 2
    assert dict(args.features) == {'a': '1.npy', 'b': '9.npy'}


def test_switches_are_true_or_false(written):
    path = written({'folder': 'r', 'baseline': False, 'quiet': True})
    args = parse('distill', '--config', path)
    assert args.baseline is False
    assert args.quiet is True
    assert parse('distill', '--config', path, '--baseline').baseline is True


def test_lists_and_negative_numbers_are_values(written):
    path = written({'folder': 'r', 'list-views': ['fused', 'text'], 'seed': -3})
    args = parse('distill', '--config', path)
    assert args.list_views == ['fused', 'text']
    assert args.seed == -3


def test_null_is_the_default(written):
    path = written({'folder': 'r', 'epochs': None})
    assert parse('distill', '--config', path).epochs == parse('distill', 'r').epochs


def test_required_options_may_come_from_either(written, fails):
    path = written({'epochs': 3})
    assert 'required: PATH, --out' in fails('train', '--config', path)
    assert 'required: PATH' in fails('train', '--config', path, '--out', 'r')


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        (
            {'epoch': 3},
            "contains 'epoch', which is not an option. Did you mean 'epochs'?",
        ),
        ({'zzzz': 3}, "contains 'zzzz', which is not an option. See '--help' for all"),
        ({'resume': True}, "must not contain 'resume' (got one). Type it"),
        ({'dry_run': True}, "must not contain 'dry_run' (got one). Type it"),
        ({'config': 'x'}, "must not contain 'config'"),
        ({'epochs': 'many'}, "invalid int value: 'many'"),
        ({'epochs': True}, "'epochs' must be a text or a number (got True)"),
        ({'epochs': [1]}, "'epochs' must be a text or a number (got [1])"),
        ({'quiet': 1}, "'quiet' must be true or false (got 1)"),
        ({'missing': 'maybe'}, "invalid choice: 'maybe'"),
        ({'loss-weight': 'l2'}, 'must have the form NAME=VALUE'),
        ([1], 'must contain options by name'),
        ('{', 'is not a .json file'),
    ],
)
def test_an_entry_that_does_not_fit_names_the_file(written, fails, content, match):
    path = written(content)
    message = fails('train', 'x', '--out', 'r', '--config', path)
    assert match in message
    assert f"'{path}'" in message


def test_a_file_that_is_not_there_is_a_mistake(fails):
    words = ['x', '--out', 'r', '--config', 'nowhere.json']
    assert "there is no file 'nowhere.json'" in fails('train', *words)


def test_another_ending_is_a_mistake(written):
    with pytest.raises(UserError, match=r'requires a \.json or \.toml file'):
        read_settings(written('a: 1', 'run.yaml'))


@pytest.mark.parametrize('split', ['per-user', 'leave-one-out', 'cold-items'])
def test_the_configuration_of_a_run_gives_that_run_again(files, tmp_path, split):
    words = ['train', files.table, '--features', f'text={files.text}', '--out', 'r']
    words += ['--titles', files.titles, '--split', split, '--split-seed', '3']
    words += [
        '--prompt-start',
        'random',
        '--prompt-dim',
        '4',
        '--loss-weight',
        'l2=0.5',
    ]
    words += ['--features', f'other={files.text}', '--time-column', 'when']
    config = run_config(parse(*words))
    path = tmp_path / 'config.json'
    path.write_text(json.dumps({**config, 'data_sha256': 'x', 'versions': {}}))
    assert run_config(parse('train', '--config', str(path), '--out', 'r')) == config


def test_the_configuration_of_a_folder_gives_that_run_again(files, tmp_path):
    words = ['train', files.layout, '--out', 'r', '--no-prompt', '--masks', 'none']
    words += ['--features', 'text=', '--text', f'{files.titles}:title']
    config = run_config(parse(*words))
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(config))
    assert run_config(parse('train', '--config', str(path), '--out', 'r')) == config


def test_the_configuration_of_a_student_gives_that_student_again(tmp_path):
    words = [
        'distill',
        'r',
        '--student',
        'SMORE',
        '--embedding-dim',
        '5',
        '--no-baseline',
    ]
    words += ['--model-temperature', '0.3', '--temperature', '2']
    words += ['--list-views', 'fused', '--loss-weight', 'listwise=0', '--top-k', '9']
    config = student_config(parse(*words))
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(config))
    assert student_config(parse('distill', 's', '--config', str(path))) == config


def test_synthetic_data_have_no_options(written, fails):
    config = {'data': {'format': 'synthetic'}, 'teacher': {}, 'weights': {}}
    message = fails('train', '--config', written({**config, 'prompt': None}))
    assert 'synthetic data' in message


def test_what_is_printed_gives_the_same_settings(files, written, capsys):
    words = ['train', files.table, '--out', 'r', '--epochs', '3', '--no-prompt']
    words += [
        '--loss-weight',
        'l2=0.5',
        '--features',
        f'text={files.text}',
        '--seed',
        '-1',
    ]
    assert main([*words, '--print-config']) == 0
    out = capsys.readouterr().out
    again = parse('train', '--config', written(out))
    assert config_text(again) + '\n' == out
    assert run_config(again) == run_config(parse(*words))
    assert json.loads(out)['loss-weight']['l2'] == 0.5


def test_print_config_writes_nothing(distilled, capsys):
    before = {path: path.stat().st_mtime_ns for path in distilled.rglob('*')}
    assert main(['distill', str(distilled), '--overwrite', '--print-config']) == 0
    assert json.loads(capsys.readouterr().out)['folder'] == str(distilled)
    assert {path: path.stat().st_mtime_ns for path in distilled.rglob('*')} == before


def test_a_file_may_hold_every_setting_of_its_command():
    for words in (['train', 'x', '--out', 'r'], ['distill', 'r']):
        args = parse(*words)
        dests = {action.dest for action in args.parser._actions}
        actions = {'help', 'config', 'print_config', 'dry_run', 'resume', 'overwrite'}
        names = json.loads(config_text(argparse.Namespace(**vars(args))))
        assert {key.replace('-', '_') for key in names} == dests - actions
