"""The sections of a report on what models are worth."""

from collections.abc import Mapping

from promptmm_pyg.report.charts import PLAIN, bar_chart
from promptmm_pyg.report.content import Bar, Comparison, Report
from promptmm_pyg.report.pieces import figure, table
from promptmm_pyg.report.text import number, safe

Colors = Mapping[str, int]
"""Color by name of the model."""
_INTERVALS = (
    'Whiskers are 95% intervals from resampling users, where there are 20 or more.'
)
_CLEAR = {True: 'clear', False: 'not clear: zero is inside'}


def comparisons(report: Report, colors: Colors) -> str:
    """Models against each other, on validation and where test was read."""
    return ''.join(_one_comparison(one, colors) for one in report.comparisons)


def _one_comparison(one: Comparison, colors: Colors) -> str:
    drawn = ''
    if one.bars:
        about = f'{one.metric} of each model on {one.part}'
        chart = bar_chart([('', one.bars)], colors, one.metric, about)
        whiskers = any(bar.low is not None for bar in one.bars.values())
        caption = f'{one.metric} on {one.part}, the mean over {one.num_users:,} users.'
        drawn += figure(chart, f'{caption} {_INTERVALS if whiskers else ""}'.strip())
    drawn += _difference_figure(one)
    keys = dict.fromkeys(key for values in one.metrics.values() for key in values)
    rows = [['width', *(str(one.widths.get(name, '–')) for name in one.metrics)]]
    rows += [
        [key, *(number(values.get(key)) for values in one.metrics.values())]
        for key in keys
    ]
    caption = f'All metrics on {one.part}, from 0 to 1; width in numbers a row.'
    times = 'once' if one.num_readings == 1 else f'{one.num_readings} times'
    reading = ''
    if one.part == 'test':
        reading = (
            f'<p>Test was read {times}, last on {safe(one.last_reading)}; '
            'this report did not read it.</p>'
        )
    return (
        f'<h3>On {one.part}</h3>{reading}<div class="charts">{drawn}</div>'
        f'{_difference_table(one)}{table(caption, ["", *one.metrics], rows)}'
    )


def _difference_figure(one: Comparison) -> str:
    groups: dict[str, dict[str, Bar]] = {}
    for pair, metric, bar in one.differences:
        if metric == one.metric:
            groups[pair] = {metric: bar}
    if not groups:
        return ''
    about = f'differences of {one.metric} between models on {one.part}'
    label = f'difference of {one.metric}'
    chart = bar_chart(
        list(groups.items()), {one.metric: PLAIN}, label, about, signed=True
    )
    caption = (
        f'Differences of {one.metric} on {one.part}, user by user. Whiskers '
        'are 95% intervals from resampling users. One around zero tells no difference.'
    )
    return figure(chart, caption)


def _difference_table(one: Comparison) -> str:
    rows = []
    for pair, metric, (value, low, high) in one.differences:
        clear = low is not None and high is not None and not low <= 0 <= high
        interval = f'{number(low)} to {number(high)}'
        rows.append([pair, metric, f'{value:+.4f}', interval, _CLEAR[clear]])
    head = ['pair', 'metric', 'difference', '95% interval', '']
    caption = f'Differences on {one.part}, in units of the metric.'
    return table(caption, head, rows) if rows else ''


def slices(report: Report, colors: Colors) -> str:
    """Validation taken apart."""
    drawn = ''
    for part in report.slices:
        groups = [
            (f'{row.name} ({row.num_users:,} users)', row.bars)
            for row in part.rows
            if row.bars
        ]
        if not groups:
            continue
        metric = report.slice_metric
        chart = bar_chart(groups, colors, metric, f'{metric}: {part.title}')
        bars = [bar for _, group in groups for bar in group.values()]
        whiskers = _INTERVALS if any(bar.low is not None for bar in bars) else ''
        empty = [row.name for row in part.rows if not row.bars]
        none = f'Nothing is held out for: {", ".join(empty)}.' if empty else ''
        caption = ' '.join(x for x in (part.caption, whiskers, none) if x)
        drawn += f'<div><h3>{safe(part.title)}</h3>'
        drawn += figure(chart, caption) + '</div>'
    head = f'<p>{safe(report.slice_metric)} on validation, taken apart.</p>'
    return f'{head}<div class="charts">{drawn}</div>' if drawn else ''
