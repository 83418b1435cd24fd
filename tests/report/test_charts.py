import re

import pytest

from promptmm_pyg.report import charts
from promptmm_pyg.report.charts import WIDTH, _Scale, nice_ticks, shorten
from promptmm_pyg.report.content import Bar, Curve, Report
from promptmm_pyg.report.page import _environment
from tests.report.conftest import Page


def draw(chart):
    template = _environment().get_template('page.html.jinja')
    return template.make_module(CONTEXT).svg(chart)


def line_chart(*args, **kwargs):
    return draw(charts.line_chart(*args, **kwargs))


def bar_chart(*args, **kwargs):
    return draw(charts.bar_chart(*args, **kwargs))


CONTEXT = {
    'report': Report('n', 'm'),
    'sections': {},
    'colors': {},
    'policy': '',
    'generator': '',
    'headline': [],
    'definitions': [],
}


@pytest.mark.parametrize(
    ('low', 'high', 'ticks'),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0.37, [0, 0.1, 0.2, 0.3]),
        (-0.24, 0.24, [-0.2, -0.1, 0, 0.1, 0.2]),
        (1, 25, [5, 10, 15, 20, 25]),
    ],
)
def test_ticks_are_round_and_inside_the_range(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize('value', [0.0, 3.0, -2.0, 1e-9])
def test_one_value_has_ticks_too(value):
    scale = _Scale([value, value], 0, 100)
    assert len(scale.ticks) > 1
    assert scale(value) == 0


def points(chart):
    pairs = re.search('points="([^"]*)"', chart)[1].split()
    return [tuple(map(float, pair.split(','))) for pair in pairs]


def test_a_line_goes_right_and_higher_values_are_higher():
    curve = Curve((1, 2, 4), (0.1, 0.3, 0.2), 2)
    (x1, y1), (x2, y2), (x3, y3) = points(line_chart({'m': curve}, {'m': 0}, 'y', ''))
    assert x3 - x2 == pytest.approx(2 * (x2 - x1), abs=0.2)
    assert y2 < y3 < y1
    assert (y1 - y2) == pytest.approx(2 * (y1 - y3), abs=0.2)


def test_the_ring_is_at_the_best_epoch():
    chart = line_chart({'m': Curve((1, 2, 4), (0.1, 0.3, 0.2), 4)}, {'m': 3}, 'y', '')
    ring = re.search('class="ring c3" cx="([^"]*)" cy="([^"]*)"', chart)
    assert (float(ring[1]), float(ring[2])) == points(chart)[2]


def test_a_single_epoch_is_visible():
    chart = line_chart({'m': Curve((1,), (0.5,))}, {'m': 0}, 'y', '')
    assert 'class="dot c0"' in chart
    assert 'ring' not in chart


def test_axes_fit_the_values():
    chart = line_chart({'m': Curve((5, 10), (0.8, 0.9))}, {'m': 0}, 'y', '')
    (x1, y1), (x2, y2) = points(chart)
    assert x2 - x1 > 0.8 * WIDTH
    assert y1 - y2 > 180


def bars(chart):
    found = re.findall(
        'class="bar c[0-9]" x="([^"]*)" y="[^"]*" width="([^"]*)"', chart
    )
    return [(float(x), float(width)) for x, width in found]


def test_bars_are_as_long_as_their_values():
    group = {'a': Bar(0.1), 'b': Bar(0.3)}
    (x1, w1), (x2, w2) = bars(bar_chart([('', group)], {'a': 0, 'b': 1}, 'x', ''))
    assert x1 == x2
    assert w2 == pytest.approx(3 * w1, abs=0.5)


def test_negative_bars_end_where_positive_ones_start():
    group = {'a': Bar(-0.2, -0.3, -0.1), 'b': Bar(0.2, 0.1, 0.3)}
    chart = bar_chart([('', group)], {'a': 0, 'b': 0}, 'x', '', signed=True)
    (x1, w1), (x2, w2) = bars(chart)
    assert x1 + w1 == pytest.approx(x2, abs=0.2)
    assert w1 == pytest.approx(w2, abs=0.2)
    assert '>+0.2000</text>' in chart
    assert '>-0.2000</text>' in chart


def test_only_known_intervals_have_whiskers():
    group = {'a': Bar(0.1), 'b': Bar(0.3, 0.2, 0.4)}
    chart = bar_chart([('', group)], {'a': 0, 'b': 1}, 'x', '')
    assert chart.count('class="whisker"') == 3  # The line and its two ends.


def test_all_shapes_are_inside_the_picture():
    group = {'a' * 40: Bar(0.7, -0.5, 1.9), 'b': Bar(-0.3)}
    chart = bar_chart([('h' * 90, group)], dict.fromkeys(group, 0), 'x', '')
    values = re.findall(' (?:x|x1|x2)="([^"]*)"', chart)
    assert all(0 <= float(value) <= WIDTH for value in values)
    assert 'a' * 19 not in chart.replace(f'<title>{"a" * 40}</title>', '')


@pytest.mark.parametrize('value', [0.0, 1e-12, 1e9])
def test_extreme_values_can_be_drawn(value):
    Page(bar_chart([('', {'a': Bar(value)})], {'a': 0}, 'x', ''))


def test_names_are_escaped():
    name = '<b onload="x">'
    Page(bar_chart([(name, {name: Bar(1.0)})], {name: 0}, name, name))
    chart = line_chart({name: Curve((1,), (1.0,))}, {name: 0}, name, name)
    assert '<b' not in chart
    assert Page(chart).tags[0][1]['aria-label'] == name


def test_only_long_text_is_shortened():
    assert shorten('abcde', 5) == 'abcde'
    assert shorten('abcdef', 5) == 'abcd…'
