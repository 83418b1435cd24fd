"""The first sentences of a report: how good, against what, and how sure."""

from promptmm_pyg.report.content import Comparison, Difference, Report
from promptmm_pyg.report.tables import interval

_DEFINITIONS = {
    'baseline': 'the model of the student, trained without a teacher',
    'truncated teacher': "the teacher's embeddings, by SVD of the student's width",
    'low-rank teacher': "embeddings by SVD of the teacher's scores",
    'ensemble': 'the weighted scores of several models, which the student imitates',
    'served': 'the saved recommender, which ranks cold items by their features',
}
MINOR = ('truncated teacher', 'low-rank teacher', 'served')
"""Models that are in tables, but not in the headline."""


def definitions(report: Report) -> list[str]:
    """What the compared models are, where the name alone is not clear."""
    names = {name for one in report.comparisons for name in one.metrics}
    known = [(name, text) for name, text in _DEFINITIONS.items() if name in names]
    return [f'{name.capitalize()}: {text}.' for name, text in known]


def headline(report: Report) -> list[str]:
    """Sentences about the student, or about the teacher where there is no student,
    from the last comparison: that on test, if there is one.
    """
    one = report.comparisons[-1] if report.comparisons else None
    if one is None or not one.bars:
        return []
    name = 'student' if 'student' in one.bars else next(iter(one.bars))
    bar = one.bars[name]
    certain = '' if bar.low is None else f', 95% interval {interval(bar)}'
    return [
        f'The {name} has {one.metric} {bar.value:.4f} on {one.split} (mean over '
        f'{one.num_users:,} users{certain}).',
        *_against(one, name),
        _reliability(one),
    ]


def _against(one: Comparison, name: str) -> list[str]:
    """The model against each other model of the headline."""
    sentences = []
    for difference in one.differences:
        first, _, second = difference.pair.partition(' - ')
        is_main = difference.metric == one.metric and not {first, second} & set(MINOR)
        if is_main and first == name:
            sentences.append(_difference(one, difference, second))
    teacher = one.bars.get('teacher')
    if name == 'student' and teacher is not None and teacher.value > 0:
        ratio = one.bars[name].value / teacher.value
        own, wide = (one.widths.get(model) for model in ('student', 'teacher'))
        width = '' if own == wide else f', at width {own} instead of {wide}'
        sentences.append(f"It has {ratio:.0%} of the teacher's value{width}.")
    return sentences


def _difference(one: Comparison, difference: Difference, other: str) -> str:
    bar, base = difference.bar, one.bars.get(other)
    relative = f' ({bar.value / base.value:+.1%})' if base and base.value > 0 else ''
    who = 'the baseline without a teacher' if other == 'baseline' else other
    text = f'Against {who}: {bar.value:+.4f}{relative}'
    if bar.low is None:
        return f'{text}, too few users for an interval.'
    certain = 'significant' if difference.significant else 'no significant difference'
    return f'{text}, 95% interval {interval(bar, "+")}: {certain}.'


def _reliability(one: Comparison) -> str:
    noise = 'Intervals are over users of one training; training noise is not included.'
    if one.split == 'test':
        times = one.num_test_reads
        count = 'once' if times == 1 else f'{times} times, so the values are optimistic'
        return f'{noise} Test was read {count}.'
    return (
        f'{noise} Epochs were chosen on validation, so its values are optimistic; test '
        'was not read.'
    )
