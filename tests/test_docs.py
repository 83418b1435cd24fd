"""The documentation: it builds, says everything, and what it shows is so."""

import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest

from promptmm_pyg.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
TUTORIALS = sorted((DOCS / 'tutorials').glob('[1-9]*.md'))
# Numbers with a decimal point may differ by this much on another machine.
TOLERANCE = 0.06
NUMBER = re.compile(r'[-+]?\d+\.\d+')


class Block(NamedTuple):
    """A fenced block of a page, and what the page says that it prints."""

    kind: str
    code: str
    line: int
    printed: str | None


def blocks(text: str) -> Iterator[Block]:
    """The blocks that run, each with the ``text`` block that follows it."""
    fenced = list(re.finditer(r'^```(\w+)\n(.*?)^```$', text, re.DOTALL | re.MULTILINE))
    for place, found in enumerate(fenced):
        if found[1] in ('python', 'bash'):
            after = fenced[place + 1] if place + 1 < len(fenced) else None
            printed = after[2] if after is not None and after[1] == 'text' else None
            yield Block(
                found[1], found[2], text[: found.start()].count('\n') + 2, printed
            )


def run(block: Block, names: dict[str, object], page: str) -> str:
    """What a block prints; commands are run in this process."""
    out = StringIO()
    with redirect_stdout(out):
        if block.kind == 'python':
            # Tracebacks point at the line of the page.
            code = '\n' * (block.line - 1) + block.code
            exec(compile(code, page, 'exec'), names)
        else:
            for line in block.code.replace('\\\n', ' ').splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == 'promptmm', line
                assert main(arguments) == 0, line
    return out.getvalue()


def agree(said: str, printed: str) -> bool:
    """Whether two texts are equal but for spaces, ``...`` and close numbers."""
    words = [NUMBER.sub('#', text).split() for text in (said, printed)]
    pattern = ' '.join(map(re.escape, words[0])).replace(re.escape('...'), '.*')
    if re.fullmatch(pattern, ' '.join(words[1]), re.DOTALL) is None:
        return False
    if '...' in said:
        return True
    pairs = zip(NUMBER.findall(said), NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= TOLERANCE for a, b in pairs)


@pytest.mark.parametrize('path', TUTORIALS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_a_tutorial_prints_what_it_says(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {'__name__': '__main__'}
    shown = 0
    for block in blocks(path.read_text()):
        printed = run(block, names, str(path))
        said = block.printed or ''
        assert agree(said, printed), f'{path}:{block.line} prints\n{printed}'
        shown += bool(said)
    assert shown >= 3
