import argparse
import inspect
import json

import pytest

from promptmm_pyg.cli import build_parser, distill, train
from promptmm_pyg.cli.parsing import (
    LENGTH,
    Parser,
    UserError,
    add_flags,
    add_loss_weights,
    add_options,
    loss_weights,
    named,
    print_json,
    printable,
    selected_options,
)
from promptmm_pyg.data import (
    load_dataset,
    split_by_time,
    split_cold_items,
    split_per_user,
)
from promptmm_pyg.distillation import CandidateSampling, promptmm_losses
from promptmm_pyg.distillation import distill as distill_function
from promptmm_pyg.models import LightGCN, PromptMM
from promptmm_pyg.training import TrainingConfig
from promptmm_pyg.transforms import AddModalityPCA

NEIGHBORHOODS = {'num_neighbors', 'drop_targets', 'rescale', 'block_size'}


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters}


def options(function, helps):
    parser = Parser()
    add_options(parser, function, helps)
    return parser


@pytest.mark.parametrize(
    ('argv', 'function', 'names'),
    [
        (['train', 'x', '--out', 'r'], TrainingConfig, train.TRAIN),
        (['train', 'x', '--out', 'r'], TrainingConfig, LENGTH),
        (['distill', 'r'], distill_function, distill.DISTILL),
        (['distill', 'r'], TrainingConfig, distill.TRAIN),
        (['distill', 'r'], promptmm_losses, distill.LOSSES),
        (['distill', 'r'], CandidateSampling, distill.CANDIDATES),
        (['distill', 'r'], TrainingConfig, LENGTH),
    ],
)
def test_defaults_are_those_of_the_signatures(argv, function, names):
    args = build_parser().parse_args(argv)
    expected = defaults(function)
    assert selected_options(args, names) == {name: expected[name] for name in names}


def test_renamed_options_keep_their_defaults():
    args = build_parser().parse_args(['train', 'x', '--out', 'r'])
    prompt = defaults(AddModalityPCA)
    assert args.prompt_dim == prompt['out_channels']
    assert args.prompt_combine == prompt['combine']
    assert args.user_column == defaults(load_dataset)['user']
    assert args.duplicates == defaults(load_dataset)['duplicates']
    student = build_parser().parse_args(['distill', 'r'])
    assert student.embedding_dim == defaults(LightGCN)['embedding_dim']


@pytest.mark.parametrize('splitter', [split_per_user, split_by_time, split_cold_items])
def test_one_set_of_ratios_is_the_default_of_all_splits(splitter):
    args = build_parser().parse_args(['train', 'x', '--out', 'r'])
    found = defaults(splitter)
    assert (args.val_ratio, args.test_ratio) == (
        found['val_ratio'],
        found['test_ratio'],
    )


def test_no_number_of_the_training_is_out_of_reach():
    others = {
        'run_dir',
        'resume',
        'progress',
        'callbacks',
        'checkpoint_seconds',
        *LENGTH,
        *NEIGHBORHOODS,
    }
    assert (
        set(defaults(TrainingConfig))
        == set(train.TRAIN) | set(train.PROPAGATE) | others
    )


def test_types_and_choices_are_those_of_the_signature():
    helps = {'combine': 'how', 'out_channels': 'many'}
    parser = options(AddModalityPCA, helps)
    args = parser.parse_args(['--combine', 'mean', '--out-channels', '8'])
    assert (args.combine, args.out_channels) == ('mean', 8)
    with pytest.raises(UserError, match="invalid choice: 'sum'"):
        parser.parse_args(['--combine', 'sum'])
    with pytest.raises(UserError, match=r"invalid int value: '1\.5'"):
        parser.parse_args(['--out-channels', '1.5'])


def test_a_switch_can_be_turned_off():
    parser = options(distill_function, {'baseline': 'too'})
    assert parser.parse_args([]).baseline
    assert not parser.parse_args(['--no-baseline']).baseline


def test_a_weight_that_is_given_replaces_its_default_only():
    parser = Parser()
    add_loss_weights(parser, PromptMM.loss_weights)
    args = parser.parse_args(
        ['--loss-weight', 'l2=0.5', '--loss-weight', 'prompt_bpr=0']
    )
    assert loss_weights(args, PromptMM.loss_weights) == {
        **PromptMM.loss_weights,
        'l2': 0.5,
        'prompt_bpr': 0.0,
    }


@pytest.mark.parametrize(
    ('text', 'match'),
    [('speed=1', "requires one of .*'l2'.* \\(got 'speed'\\)"), ('l2=x', "got 'x'")],
)
def test_a_weight_that_does_not_fit_is_a_mistake(text, match):
    parser = Parser()
    add_loss_weights(parser, distill.student_weights(LightGCN))
    args = parser.parse_args(['--loss-weight', text])
    with pytest.raises(UserError, match=match):
        loss_weights(args, distill.student_weights(LightGCN))


def test_a_name_and_a_value_are_parted_at_the_first_sign():
    assert named('text=a=b.npy') == ('text', 'a=b.npy')
    assert named('text=') == ('text', '')


@pytest.mark.parametrize('text', ['text', '=file', ''])
def test_a_pair_without_both_parts_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match='NAME=VALUE'):
        named(text)


@pytest.mark.parametrize(
    ('words', 'close'),
    [
        (['distill', 'r', '--weight', 'l2=1'], '--loss-weight'),
        (['train', 'x', '--out', 'r', '--std', '1'], '--init-std'),
        (['recommend', 'r', '--users', '1', '--memory', '1GiB'], '--memory-limit'),
        (['train', 'x', '--out', 'r', '--self-weight=1'], '--self-loop-weight'),
    ],
)
def test_an_unknown_option_suggests_the_closest_one(words, close):
    with pytest.raises(UserError, match=rf"unrecognized.*Did you mean '{close}'\?"):
        build_parser().parse_args(words)


@pytest.mark.parametrize('flag', ['--width', '--control', '--sides', '--reweight'])
def test_options_of_old_are_unknown(flag):
    with pytest.raises(UserError, match=f'unrecognized arguments: {flag}'):
        build_parser().parse_args(['distill', 'r', flag, '4'])


def test_flags_are_read_as_they_are_printed():
    parser = Parser()
    text = '-k N [10]  items\n--ids ID...  raw ids,\n  several\n--lr X [1]  x\n--all  x'
    add_flags(parser, text)
    args = parser.parse_args(['--ids', 'a', 'b', '--lr', '2'])
    assert vars(args) == {'k': 10, 'ids': ['a', 'b'], 'lr': 2.0, 'all': False}
    assert 'items (default: 10)' in parser.format_help()
    assert 'raw ids, several' in parser.format_help()
    with pytest.raises(ValueError, match="must contain lines '--flag METAVAR  help'"):
        add_flags(parser, 'no flag')


def test_json_has_no_numbers_that_are_not_finite(capsys):
    print_json({'a': [float('nan'), 1.5], 'b': (float('inf'), True, None, 'x')})
    out = capsys.readouterr().out
    assert json.loads(out) == {'a': [None, 1.5], 'b': [None, True, None, 'x']}


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('plain Ünïcode 漢字 🎬', 'plain Ünïcode 漢字 🎬'),
        ('\x1b]0;title\x07', '\\x1b]0;title\\x07'),
        ('a\r\nb\tc\x00', 'a\\r\\nb\\tc\\x00'),
        ('\x9b31m\u2028\u202e', '\\x9b31m\\u2028\\u202e'),
        ('क्\u200dष\xa0x', 'क्\u200dष\xa0x'),
        ('\ud800', '\\ud800'),
    ],
)
def test_control_characters_are_escaped(text, expected):
    assert printable(text) == expected
