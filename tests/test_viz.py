import random
import sys

import matplotlib as mpl
import pytest
import torch

from promptmm_pyg.explain import pca_map
from promptmm_pyg.viz import (
    Bar,
    plot_embedding_map,
    plot_explanation,
    plot_learning_curves,
    plot_metric_bars,
    plot_run,
    plot_trials,
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
    with pytest.raises(ValueError, match='must contain at least one model'):
        plot({})


def test_a_curve_without_the_metric_is_an_error():
    with pytest.raises(
        ValueError, match=r"must have 'MRR@5' among the .* of 'teacher'"
    ):
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
        ('plot_explanation', lambda: plot_explanation(PANELS)),
        ('plot_embedding_map', lambda: plot_embedding_map(TABLES)),
    ],
)
def test_without_matplotlib_the_extra_is_named(name, plot, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    match = rf"'{name}' requires 'matplotlib'. Install it with 'pip install .*viz.*'"
    with pytest.raises(ImportError, match=match):
        plot()


PANELS = {
    'by part': [('id', 0.5), ('text', -0.2), ('prompt', 0.1)],
    'by neighbor': [('a', 0.4), ('a', 0.0)],
}


def test_parts_are_bars_with_their_sum_below():
    ax, other = plot_explanation(PANELS, 'why').axes
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(
        [0.5, -0.2, 0.1, 0.4]
    )
    names = [x.get_text() for x in ax.get_yticklabels()]
    assert names == ['id', 'text', 'prompt', 'sum']
    assert [x.get_text() for x in ax.texts] == ['+0.500', '-0.200', '+0.100', '+0.400']
    low, high = ax.get_ylim()
    assert low > high  # The first part is the uppermost.
    assert len(other.patches) == 3


def test_what_lowers_a_score_has_another_color():
    ax = plot_explanation(PANELS).axes[0]
    up, down, again, total = (bar.get_facecolor() for bar in ax.patches)
    assert up == again
    assert len({up, down, total}) == 3


def test_all_panels_have_one_scale_with_room_for_every_number():
    figure = plot_explanation(PANELS)
    figure.draw_without_rendering()
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim()
    for ax in figure.axes:
        frame = ax.get_window_extent()
        for number in ax.texts:
            box = number.get_window_extent()
            assert frame.x0 <= box.x0
            assert box.x1 <= frame.x1


def test_long_names_are_cut_and_small_numbers_are_not_zero():
    ax = plot_explanation({'x': [('n' * 80, 0.00012)]}).axes[0]
    assert len(ax.get_yticklabels()[0].get_text()) == 34
    assert ax.texts[0].get_text() == '+0.00012'


def test_a_score_of_zero_can_be_drawn():
    assert plot_explanation({'x': [('a', 0.0)]}).axes[0].get_xlim() == (0.0, 1.0)


@pytest.mark.parametrize('panels', [{}, {'by part': []}])
def test_no_parts_are_an_error(panels):
    with pytest.raises(ValueError, match="'panels' must have at least one part each"):
        plot_explanation(panels)


def table(width, seed=0):
    return torch.randn(9, width, generator=torch.Generator().manual_seed(seed))


TABLES = {'image': table(5), 'text': table(3, seed=1)}


def points(ax):
    return torch.tensor(ax.collections[0].get_offsets().tolist())


def test_a_map_shows_every_row_of_every_table_where_the_axes_put_it():
    figure = plot_embedding_map(TABLES)
    assert len(figure.axes) == 2
    for ax, (name, x) in zip(figure.axes, TABLES.items(), strict=True):
        found = pca_map(x)
        expected = found.points[torch.tensor(random.Random(0).sample(range(9), 9))]
        torch.testing.assert_close(points(ax), expected.float(), check_dtype=False)
        assert ax.get_title() == f'{name} (9 rows)'
        assert f'{found.share[0]:.0%}' in ax.get_xlabel()


def test_absent_rows_are_neither_drawn_nor_do_they_move_others():
    mask = torch.tensor([True, False, True, True, False, True, True, True, True])
    x = TABLES['text'].masked_fill(~mask[:, None], 1000.0)
    ax = plot_embedding_map({'text': x}, mask_dict={'text': mask}).axes[0]
    assert ax.get_title() == 'text (7 rows)'
    expected = pca_map(TABLES['text'][mask]).points.sort(dim=0).values
    torch.testing.assert_close(points(ax).sort(dim=0).values, expected)


def test_of_many_points_some_are_drawn():
    ax = plot_embedding_map(TABLES, max_points=4).axes[0]
    assert len(points(ax)) == 4
    assert ax.get_title() == 'image (9 rows)'


def test_the_five_most_frequent_words_are_told_apart():
    labels = list('aabbccdde') + list('fghij')
    x = torch.cat([TABLES['text'], TABLES['text'][:5]])
    figure = plot_embedding_map({'text': x}, labels, label_name='kind')
    legend = figure.legends[0]
    words = [entry.get_text() for entry in legend.get_texts()]
    assert words == ['a', 'b', 'c', 'd', 'e', 'other']
    assert legend.get_title().get_text() == 'kind'
    order = random.Random(0).sample(range(14), 14)
    colors = figure.axes[0].collections[0].get_facecolors()[:, :3].tolist()
    by_label = {}
    for node, color in zip(order, colors, strict=True):
        by_label.setdefault(labels[node], set()).add(tuple(color))
    assert all(len(found) == 1 for found in by_label.values())
    assert by_label['f'] == by_label['j'] != by_label['e']


def test_numbers_are_a_scale_of_color_with_a_name():
    figure = plot_embedding_map(TABLES, [0, 1, 5, 9, 0, 2, 100, 3, 3], label_name='n')
    assert figure.axes[-1].get_ylabel() == 'n'
    assert set(figure.axes[0].collections[0].get_array().tolist()) >= {0, 100}


def test_equal_numbers_can_be_drawn():
    plot_embedding_map(TABLES, [2.0] * 9).draw_without_rendering()


def test_places_without_a_table_are_empty():
    figure = plot_embedding_map(dict.fromkeys('abcde', TABLES['text']))
    assert len(figure.axes) == 5


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'x_dict': {}}, "'x_dict' must have one or more tables of the same nodes"),
        ({'x_dict': {'a': table(2), 'b': table(2)[:3]}}, "'b': 3"),
        ({'x_dict': {'a': table(2)[:0]}}, "'x_dict' must have one or more"),
        (
            {'labels': ['a']},
            r"'labels' must have one entry per row \(got 1 for 9 rows\)",
        ),
        ({'max_points': 0}, r"'max_points' must be positive \(got 0\)"),
        (
            {'mask_dict': {'text': torch.zeros(9, dtype=torch.bool)}},
            r"'mask_dict' must have 9 entries, .* for 'text' \(got 9 with 0\)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_a_map_of_what_does_not_fit_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        plot_embedding_map(**{'x_dict': TABLES, **options})


def trial(number, value, state='complete', **params):
    return {'number': number, 'value': value, 'state': state, 'params': params}


def test_trials_are_drawn_with_the_best_so_far_and_by_parameter():
    trials = [
        trial(0, 0.2, rate=0.001, fusion='sum'),
        trial(1, None, 'failed', rate=0.1, fusion='mean'),
        trial(2, 0.1, 'pruned', rate=0.1, fusion='mean'),
        trial(3, 0.3, rate=0.01, fusion='mean'),
    ]
    top, rate, fusion = sorted(
        plot_trials(trials).axes,
        key=lambda ax: ['trial', 'rate', 'fusion'].index(ax.get_xlabel()),
    )
    assert line(top, 'best so far').get_ydata().tolist() == [0.2, 0.2, 0.3]
    marks = [mark.get_xydata().tolist()[0] for mark in rate.get_lines()]
    assert marks == [[0.001, 0.2], [0.1, 0.1], [0.01, 0.3]]
    assert rate.get_xscale() == 'log'
    assert [mark.get_markerfacecolor() == 'white' for mark in rate.get_lines()] == [
        False,
        True,
        False,
    ]
    assert [text.get_text() for text in fusion.get_xticklabels()] == ['mean', 'sum']
    assert [mark.get_xdata()[0] for mark in fusion.get_lines()] == [1, 0, 0]
    with pytest.raises(ValueError, match="'trials' must contain a trial with a value"):
        plot_trials(trials[1:2])
