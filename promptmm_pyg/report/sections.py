"""The sections of a report, each a function that is empty where the run is."""

from collections.abc import Callable

from promptmm_pyg.report.charts import PLAIN, bar_chart, line_chart
from promptmm_pyg.report.content import Bar, Item, Report
from promptmm_pyg.report.evaluations import Colors, comparisons, slices
from promptmm_pyg.report.pieces import figure, legend, table
from promptmm_pyg.report.text import number, safe, size


def _learning(report: Report, colors: Colors) -> str:
    if not report.curves:
        return ''
    names = legend(report.curves, colors)
    about = 'the validation metric of each model over the epochs'
    chart = line_chart(report.curves, colors, report.monitor, about)
    ring = 'The ring marks the epoch that was kept.'
    caption = f'{report.monitor} on validation, from 0 to 1. {ring}'
    drawn = figure(chart, caption, names)
    if report.losses:
        about = 'the training loss of each model over the epochs'
        chart = line_chart(
            report.losses, colors, 'loss / first', about, from_zero=False
        )
        caption = (
            "Training loss as a multiple of the first epoch's: the losses of different "
            'models add up different terms.'
        )
        drawn += figure(chart, caption, legend(report.losses, colors))
    rows = [
        [
            name,
            str(one.epochs),
            '–' if one.kept is None else str(one.kept),
            f'{one.seconds:.2g}',
        ]
        for name, one in report.trainings.items()
    ]
    head = ['model', 'epochs', 'kept', 'seconds an epoch']
    times = table('Training; the median of the epochs, in seconds.', head, rows)
    return f'<div class="charts">{drawn}</div>{times if rows else ""}'


def _modalities(report: Report, colors: Colors) -> str:  # noqa: ARG001
    drawn = ''
    sources = dict.fromkeys(name for one in report.shares.values() for name in one)
    palette = dict.fromkeys(sources, PLAIN)
    if report.shares:
        groups = [
            (f'in embeddings of {node_type}s', {k: Bar(v) for k, v in parts.items()})
            for node_type, parts in report.shares.items()
        ]
        about = 'the share of each source in the embeddings of the teacher'
        chart = bar_chart(groups, palette, 'share', about, digits=3)
        caption = (
            "What the teacher's embeddings are made of: the mean length of each part, "
            'relative to the sum over parts. Parts may point in different directions.'
        )
        drawn += figure(chart, caption)
    rows = [[name, f'{value:g}'] for name, value in report.weights.items()]
    if rows:
        caption = "Weights that the teacher's settings fix; they were not learned."
        drawn += '<div>' + table(caption, ['what', 'weight'], rows) + '</div>'
    return f'<div class="charts">{drawn}</div>' if drawn else ''


def _cost(report: Report, colors: Colors) -> str:  # noqa: ARG001
    drawn = ''
    if report.sizes:
        rows = [
            [
                name,
                '–' if one.parameters is None else f'{one.parameters:,}',
                size(one.stored),
                size(one.served),
            ]
            for name, one in report.sizes.items()
        ]
        head = ['model', 'trainable parameters', 'file', 'embeddings']
        drawn += table(
            'Size: trainable parameters (count), file of the model and embeddings of '
            'users and items in memory (bytes; 1 KiB = 1,024 B).',
            head,
            rows,
        )
    if report.recommender_bytes is not None:
        drawn += (
            f'<p>The recommender takes {size(report.recommender_bytes)} on disk: '
            'embeddings, ids, titles, seen items and what predicts new items.</p>'
        )
    if report.latencies:
        rows = [
            [
                one.model,
                f'{one.num_users:,}',
                number(one.median, 2),
                f'{one.low:.2f} to {one.high:.2f}',
                str(one.repeats),
            ]
            for one in report.latencies
        ]
        head = ['model', 'users at once', 'median, ms', 'middle half, ms', 'repeats']
        threads = f'{report.num_threads} thread{"s" * (report.num_threads != 1)}'
        drawn += table(
            f'Time of exact top-{report.latency_k} lists without seen items, in '
            'milliseconds for all users at once. Measured when this report was made, '
            f'on its machine with {threads}; the calls took turns.',
            head,
            rows,
        )
    return drawn


def _examples(report: Report, colors: Colors) -> str:  # noqa: ARG001
    drawn = ''
    for one in report.examples:
        taken = ', '.join(_name(item) for item in one.history)
        more = one.history_length - len(one.history)
        taken += f' and {more:,} more' if more > 0 else ''
        rows = [
            [
                str(rank),
                item.raw_id,
                item.title or '–',
                number(item.score, 3),
                'yes' if item.held_out else '',
            ]
            for rank, item in enumerate(one.items, start=1)
        ]
        caption = "The student's best items that the user did not take in training."
        head = ['rank', 'item', 'title', 'score', 'held out']
        listed = table(caption, head, rows, text=(1, 2))
        drawn += (
            f'<h3>User <bdi>{safe(one.user)}</bdi>, {safe(one.why)}</h3>'
            f'<p class="soft">Took {taken}.</p>{listed}'
        )
    if not drawn:
        return ''
    return (
        '<p>Users chosen by the length of their history, not by how well it went. '
        'Scores have no unit and are comparable within a list; items that validation '
        f'asks for are marked as held out.</p>{drawn}'
    )


def _name(item: Item) -> str:
    return f'<bdi>{safe(item.title or item.raw_id)}</bdi>'


def _settings(report: Report, colors: Colors) -> str:  # noqa: ARG001
    if not report.settings:
        return ''
    rows = [[name, value] for name, value in report.settings.items()]
    inside = table('As they were given or by default.', ['', 'value'], rows, text=(1,))
    return f'<details><summary>{len(rows)} settings</summary>{inside}</details>'


SECTIONS: list[tuple[str, str, Callable[[Report, Colors], str]]] = [
    ('learning', 'Learning curves', _learning),
    ('comparison', 'Teacher, student and control', comparisons),
    ('slices', 'Slices', slices),
    ('modalities', 'Modality weights', _modalities),
    ('cost', 'Size and latency', _cost),
    ('examples', 'Example recommendations', _examples),
    ('settings', 'Settings', _settings),
]
"""Anchor, heading and content, in the order of the page."""
