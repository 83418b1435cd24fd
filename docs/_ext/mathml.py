"""Formulas as MathML, which browsers draw without a script or a network."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def mathml(formula: str, display: str = 'inline') -> str:
    """The markup of a formula."""
    # The one operator in the docstrings that the converter does not know.
    return convert(formula.replace(r'\arg', r'\mathrm{arg}'), display=display)


def inline(translator: Any, node: nodes.Element) -> None:
    """Writes a formula within a sentence."""
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.Element) -> None:
    """Writes a formula on lines of its own; a long one is scrolled."""
    translator.body.append(translator.starttag(node, 'div', CLASS='math-block'))
    translator.body.append(mathml(node.astext(), 'block'))
    translator.body.append('</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer('mathml', (inline, None), (block, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
