from promptmm_pyg.cli.evaluate import format_table, interval_text
from promptmm_pyg.evaluation import PairedTest


def test_text_is_left_aligned_and_numbers_right_aligned():
    rows = [['a', 1, 'long text'], ['bbb', 100, 'x']]
    assert format_table(['n', 'count', 'what'], rows) == (
        'n    count  what\na        1  long text\nbbb    100  x'
    )


def test_numbers_have_four_places_and_unknown_ones_a_dash():
    rows = [['a', 0.12345], ['b', float('nan')], ['c', None]]
    assert format_table(['', 'x'], rows) == '        x\na  0.1235\nb       -\nc       -'


def test_an_interval_beside_zero_is_clear():
    text = interval_text(PairedTest(0.1, 0.05, 0.15, 0.95, 0.01, (1, 1)))
    assert text == '+0.1000  [+0.0500, +0.1500]  significant'


def test_an_interval_around_zero_is_not():
    text = interval_text(PairedTest(-0.01, -0.05, 0.02, 0.95, 0.5, (1, 1)))
    assert text == '-0.0100  [-0.0500, +0.0200]  no significant difference'


def test_control_characters_do_not_reach_the_terminal():
    table = format_table(['\x1b[2J'], [['a\nb'], ['\x9b']])
    assert table == '\\x1b[2J\na\\nb\n\\x9b'
