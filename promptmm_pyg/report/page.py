"""A report as one page of HTML that loads nothing and runs nothing."""

from collections.abc import Mapping

from promptmm_pyg.report.charts import NUM_COLORS
from promptmm_pyg.report.content import Missing, Report
from promptmm_pyg.report.pieces import table
from promptmm_pyg.report.sections import SECTIONS
from promptmm_pyg.report.style import STYLE
from promptmm_pyg.report.text import safe

GENERATOR = '<meta name="generator" content="promptmm_pyg report">'
"""Stands in every report, and tells it from files that are none."""
# Markup that slipped through would still find nothing to load or to run.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


def render(report: Report) -> str:
    """Returns the page: inline style, inline SVG, no script, no address to load from;
    everything that came with the data is text.

    Args:
        report: What to show. Parts that are empty are left out.

    Example:
        >>> page = render(Report('<b>', '2026-01-01'))
        >>> '<h1>&lt;b&gt;</h1>' in page
        True
    """
    colors = _colors(report)
    found = [(key, title, draw(report, colors)) for key, title, draw in SECTIONS]
    there = [(key, title, body) for key, title, body in found if body]
    links = ''.join(f'<li><a href="#{key}">{safe(t)}</a></li>' for key, t, _ in there)
    sections = ''.join(
        f'<section id="{key}"><h2>{safe(title)}</h2>{body}</section>\n'
        for key, title, body in there
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{safe(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'{GENERATOR}\n<title>{safe(report.name)} – promptmm report</title>\n'
        f'<style>{STYLE}</style>\n</head>\n<body>\n'
        f'<header><h1>{safe(report.name)}</h1>'
        f'<p class="soft">Made {safe(report.made)} by <code>promptmm report</code>.</p>'
        f'</header>\n{_missing(report.missing)}'
        f'{f"<nav><ul>{links}</ul></nav>" if links else ""}\n'
        f'<main>\n{_facts(report.facts)}{sections}</main>\n</body>\n</html>\n'
    )


def _colors(report: Report) -> Mapping[str, int]:
    """The same color for a model wherever it is drawn."""
    names = [*report.curves]
    for one in report.comparisons:
        names += one.metrics
    names += [name for part in report.slices for row in part.rows for name in row.bars]
    order = dict.fromkeys(names)
    return {name: place % NUM_COLORS for place, name in enumerate(order)}


def _missing(missing: list[Missing]) -> str:
    if not missing:
        return ''
    lines = []
    for what, command in missing:
        how = f'. Get it with <code>{safe(command)}</code>' if command else ''
        lines.append(f'<li>{safe(what)}{how}</li>')
    head = '<p><strong>What is not on this page</strong></p>'
    return f'<div class="missing">{head}<ul>{"".join(lines)}</ul></div>\n'


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ''
    rows = [[name, value] for name, value in facts.items()]
    return table('The data.', ['', 'size'], rows, text=(1,))
