"""Tables, legends and figures; cells are escaped here."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from promptmm_pyg.report.text import safe


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text: Collection[int] = (),
) -> str:
    """A table whose first column names the rows.

    Args:
        caption: What it shows, with units.
        head: Names of the columns.
        rows: Cells, not yet safe.
        text: Columns of words, which may break and stand to the left.
            (default: none)
    """
    kind = [' class="text"' if place in text else '' for place in range(len(head))]
    top = ''.join(
        f'<th scope="col"{k}>{safe(name)}</th>'
        for k, name in zip(kind, head, strict=True)
    )
    lines = []
    for first, *others in rows:
        cells = ''.join(
            f'<td{k}>{safe(cell)}</td>'
            for k, cell in zip(kind[1:], others, strict=True)
        )
        lines.append(f'<tr><th scope="row">{safe(first)}</th>{cells}</tr>')
    # The caption stands outside of what scrolls, so that it breaks on a phone.
    return (
        f'<figure><figcaption>{safe(caption)}</figcaption>'
        f'<div class="wide" role="region" aria-label="{safe(caption)}" tabindex="0">'
        f'<table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        '</div></figure>\n'
    )


def legend(names: Iterable[str], colors: Mapping[str, int]) -> str:
    """Which color is whose."""
    items = ''.join(
        f'<li><i class="c{colors[name]}"></i>{safe(name)}</li>' for name in names
    )
    return f'<ul class="legend">{items}</ul>'


def figure(chart: str, caption: str, key: str = '') -> str:
    """A chart with its caption below and its legend, if any, above."""
    return f'<figure>{key}{chart}<figcaption>{safe(caption)}</figcaption></figure>\n'
