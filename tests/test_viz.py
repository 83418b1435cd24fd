import subprocess
import sys

import matplotlib as mpl
import pytest

from promptmm_pyg.viz import (
    Bar,
    plot_learning_curves,
    plot_metric_bars,
    plot_run,
    save_figure,
)


def records(*values):
    return [
        {'epoch': 2 * n, 'validation': {'Recall@20': value}}
        for n, value in enumerate(values, start=1)
    ]


CURVES = {'teacher': records(0.1, 0.3, 0.2), 'student': records(0.2, 0.1)}
BARS = {'teacher': Bar(0.3, 0.2, 0.4), 'student': Bar(0.1, 0.05, 0.2)}


def line(ax, name):
    return next(x for x in ax.get_lines() if x.get_label() == name)


def test_a_curve_goes_through_the_validated_epochs():
    curves = {'a': [{'epoch': 1, 'loss': 3.0}, *records(0.1, 0.2)]}
    ax = plot_learning_curves(curves)
    assert line(ax, 'a').get_xydata().tolist() == [[2, 0.1], [4, 0.2]]


def test_a_mark_stands_at_the_best_epoch_of_each_curve():
    ax = plot_learning_curves(CURVES)
    marks = [x.get_xydata().tolist() for x in ax.get_lines() if len(x.get_xdata()) == 1]
    assert marks == [[[4, 0.3]], [[2, 0.2]]]


def test_of_equal_epochs_the_first_is_marked():
    ax = plot_learning_curves({'a': records(0.1, 0.3, 0.3)})
    assert ax.get_lines()[1].get_xdata().tolist() == [4]


def test_curves_are_named_with_axes_labelled():
    ax = plot_learning_curves(CURVES)
    assert [x.get_text() for x in ax.get_legend().get_texts()] == ['teacher', 'student']
    assert ax.get_xlabel() == 'epoch'
    assert ax.get_ylabel() == 'validation Recall@20'


def test_another_metric_is_drawn():
    curve = [{'epoch': 1, 'validation': {'Recall@20': 0.1, 'NDCG@20': 0.7}}]
    ax = plot_learning_curves({'a': curve}, 'NDCG@20')
    assert line(ax, 'a').get_ydata().tolist() == [0.7]


def test_bars_have_their_heights_and_intervals():
    ax = plot_metric_bars(BARS)
    assert [bar.get_height() for bar in ax.patches] == [0.3, 0.1]
    whiskers = ax.containers[1].lines[2][0].get_segments()
    ends = [[point[1] for point in segment] for segment in whiskers]
    assert ends == [pytest.approx([0.2, 0.4]), pytest.approx([0.05, 0.2])]


def test_bars_are_named_and_numbered():
    ax = plot_metric_bars(BARS, 'NDCG@10')
    assert [x.get_text() for x in ax.get_xticklabels()] == ['teacher', 'student']
    assert [x.get_text() for x in ax.texts] == ['0.300', '0.100']
    assert ax.get_ylabel() == 'NDCG@10'


def test_a_bar_of_zero_can_be_drawn():
    ax = plot_metric_bars({'a': Bar(0.0, 0.0, 0.0)})
    assert ax.get_ylim() == (0, 1)


def test_a_model_has_one_color_in_both_parts():
    figure = plot_run(CURVES, {'control': Bar(0.1, 0.1, 0.1), **BARS})
    left, right = figure.axes
    bars = [mpl.colors.to_hex(bar.get_facecolor()).upper() for bar in right.patches]
    assert bars[1:] == [line(left, name).get_color() for name in CURVES]
    assert len(set(bars)) == 3


def test_nothing_overlaps_in_a_run():
    figure = plot_run(CURVES, BARS)
    figure.draw_without_rendering()
    left, right = (ax.get_tightbbox() for ax in figure.axes)
    assert left.x1 <= right.x0
    labels = [x.get_window_extent() for x in figure.axes[1].get_xticklabels()]
    assert labels[0].x1 < labels[1].x0


def test_given_axes_are_drawn_into():
    ax = plot_run(CURVES, BARS).axes[0]
    assert plot_learning_curves(CURVES, ax=ax) is ax
    assert plot_metric_bars(BARS, ax=ax) is ax


def test_a_figure_is_written_whole_and_leaves_nothing_else(tmp_path):
    save_figure(plot_run(CURVES, BARS), tmp_path / 'new' / 'x.png')
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['x.png']
    assert (tmp_path / 'new' / 'x.png').read_bytes().endswith(b'IEND\xaeB`\x82')


@pytest.mark.parametrize('plot', [plot_learning_curves, plot_metric_bars])
def test_nothing_to_draw_is_an_error(plot):
    with pytest.raises(ValueError, match='needs to hold at least one model'):
        plot({})


def test_a_curve_without_the_metric_is_an_error():
    with pytest.raises(ValueError, match=r"needs 'MRR@5' among the .* of 'teacher'"):
        plot_learning_curves(CURVES, 'MRR@5')


@pytest.mark.parametrize('bar', [Bar(0.1, 0.2, 0.3), Bar(0.4, 0.2, 0.3)])
def test_a_value_outside_its_interval_is_an_error(bar):
    with pytest.raises(ValueError, match=r"inside its interval .* for 'a'"):
        plot_metric_bars({'a': bar})


@pytest.mark.parametrize(
    ('name', 'plot'),
    [
        ('plot_learning_curves', lambda: plot_learning_curves(CURVES)),
        ('plot_metric_bars', lambda: plot_metric_bars(BARS)),
        ('plot_run', lambda: plot_run(CURVES, BARS)),
    ],
)
def test_without_matplotlib_the_extra_is_named(name, plot, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    match = rf"'{name}' needs 'matplotlib'. Install it with 'pip install .*\[viz\]'"
    with pytest.raises(ImportError, match=match):
        plot()


def test_neither_the_import_nor_pyplot_comes_along():
    code = (
        'import sys, promptmm_pyg.viz as viz\n'
        "before = 'matplotlib' in sys.modules\n"
        "viz.plot_metric_bars({'a': viz.Bar(1, 1, 1)})\n"
        "print(before, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ['False', 'False']
