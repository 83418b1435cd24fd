"""A report as one page of HTML that loads nothing and runs no script."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from promptmm_pyg.report import charts, tables
from promptmm_pyg.report.content import Bar, Comparison, Report, Slice
from promptmm_pyg.report.headline import MINOR, definitions, headline

GENERATOR = '<meta name="generator" content="promptmm_pyg report">'
"""Part of every report; marks a file as one."""
# A second protection beside escaping: nothing is loaded or run.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
# Characters that HTML does not allow; UTF-8 has no code for lone surrogates.
_INVALID = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')
_Groups = list[tuple[str, dict[str, Bar]]]


def render(report: Report) -> str:
    """Returns the page: inline style, inline SVG, no script, no external address; all
    text of the data is escaped.

    Args:
        report: The content. Empty parts are left out.

    Example:
        >>> page = render(Report('<b>', '2026-01-01'))
        >>> '<h1>&lt;b&gt;</h1>' in page
        True
    """
    page = (
        _environment()
        .get_template('page.html.jinja')
        .render(
            report=report,
            sections=_sections(report),
            headline=headline(report),
            definitions=definitions(report),
            colors=_colors(report),
            policy=_POLICY,
            generator=GENERATOR,
        )
    )
    return _INVALID.sub('\ufffd', page)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=tables.number, file_size=tables.file_size, interval=tables.interval
    )
    environment.globals.update(
        bar_chart=charts.bar_chart,
        line_chart=charts.line_chart,
        neutral=charts.NEUTRAL,
        difference_groups=_difference_groups,
        slice_groups=_slice_groups,
        share_groups=_share_groups,
        has_intervals=_has_intervals,
        minor=MINOR,
        tables=tables,
    )
    return environment


def _sections(report: Report) -> dict[str, str]:
    """Title by anchor of the sections that have content, in the order of the page."""
    served = report.recommender_bytes is not None
    content = {
        'comparison': ('Teacher, student and baseline', report.comparisons),
        'examples': ('Example recommendations', report.examples),
        'slices': ('Slices', any(map(_slice_groups, report.slices))),
        'modalities': ('Modality weights', report.shares or report.weights),
        'cost': ('Size and latency', report.sizes or report.latencies or served),
        'learning': ('Learning curves', report.curves),
        'trials': ('Trials', report.trials),
        'search': ('Search', report.leaderboard),
        'settings': ('Settings', report.settings),
    }
    return {key: title for key, (title, present) in content.items() if present}


def _colors(report: Report) -> dict[str, int]:
    """One color per model in all charts."""
    names = [*report.curves]
    for comparison in report.comparisons:
        names += comparison.metrics
    names += [name for part in report.slices for row in part.rows for name in row.bars]
    return {name: n % charts.NUM_COLORS for n, name in enumerate(dict.fromkeys(names))}


def _difference_groups(comparison: Comparison) -> _Groups:
    return [
        (pair, {'': bar})
        for pair, metric, bar in comparison.differences
        if metric == comparison.metric
    ]


def _slice_groups(part: Slice) -> _Groups:
    return [
        (f'{row.name} ({row.num_users:,} user{"s" * (row.num_users != 1)})', row.bars)
        for row in part.rows
        if row.bars
    ]


def _share_groups(report: Report) -> _Groups:
    return [
        (f'{node_type} embeddings', {name: Bar(x) for name, x in shares.items()})
        for node_type, shares in report.shares.items()
    ]


def _has_intervals(groups: _Groups) -> bool:
    return any(bar.low is not None for _, bars in groups for bar in bars.values())
