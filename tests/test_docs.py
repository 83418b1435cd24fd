"""The documentation builds, is complete, and its code prints its output."""

import inspect
import pkgutil
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest

import promptmm_pyg
from promptmm_pyg.cli import main
from promptmm_pyg.training import TrainingConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
TUTORIALS = sorted((DOCS / 'tutorials').glob('[1-9]*.md'))
GUIDES = sorted(
    path for path in (DOCS / 'guides').glob('*.md') if '```py' in path.read_text()
)
DECISIONS = sorted(
    path for path in (DOCS / 'decisions').glob('*.md') if path.stem != 'index'
)
# Modules without an `__all__` whose functions the documentation offers.
PLAIN = ('functional', 'targets', 'viz')
# Numbers with a decimal point may differ by this much on another machine.
TOLERANCE = 0.06
NUMBER = re.compile(r'[-+]?\d+\.\d+')


class Block(NamedTuple):
    """A fenced block of a page, and its output on the page."""

    kind: str
    code: str
    line: int
    printed: str | None


def blocks(text: str) -> Iterator[Block]:
    """The blocks that run, each with the ``text`` block that follows it."""
    fenced = list(re.finditer(r'^```(\w+)\n(.*?)^```$', text, re.DOTALL | re.MULTILINE))
    for place, result in enumerate(fenced):
        if result[1] in ('python', 'bash'):
            after = fenced[place + 1] if place + 1 < len(fenced) else None
            printed = after[2] if after is not None and after[1] == 'text' else None
            yield Block(
                result[1], result[2], text[: result.start()].count('\n') + 2, printed
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


def agree(expected: str, printed: str) -> bool:
    """Whether two texts are equal but for spaces, ``...`` and close numbers."""
    words = [NUMBER.sub('#', text).split() for text in (expected, printed)]
    pattern = ' '.join(map(re.escape, words[0])).replace(re.escape('...'), '.*')
    if re.fullmatch(pattern, ' '.join(words[1]), re.DOTALL) is None:
        return False
    if '...' in expected:
        return True
    pairs = zip(NUMBER.findall(expected), NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= TOLERANCE for a, b in pairs)


def test_there_are_five_tutorials():
    assert [path.name[0] for path in TUTORIALS] == list('12345')


@pytest.mark.parametrize('path', TUTORIALS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_a_tutorial_prints_its_output(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {'__name__': '__main__'}
    shown = 0
    for block in blocks(path.read_text()):
        printed = run(block, names, str(path))
        expected = block.printed or ''
        assert agree(expected, printed), f'{path}:{block.line} prints\n{printed}'
        shown += bool(expected)
    assert shown >= 3


@pytest.mark.parametrize('path', GUIDES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_the_python_of_a_guide_runs(path, monkeypatch, tmp_path):
    """All blocks of a page in one namespace, unless one is marked ``% not run``."""
    defaults = TrainingConfig.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, 'epochs', 1)
    monkeypatch.setitem(defaults, 'progress', False)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {'__name__': '__main__'}
    text = re.sub(
        r'^% not run: .+\n+```python', '```text', path.read_text(), flags=re.M
    )
    for block in blocks(text):
        if block.kind == 'python':
            printed = run(block, names, str(path))
            if block.printed is not None:
                assert agree(block.printed, printed), f'{path}:{block.line}\n{printed}'


def test_the_page_of_runs_prints_what_it_shows(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks((DOCS / 'api' / 'runs.md').read_text())
    assert block.printed is not None
    assert agree(block.printed, run(block, {'__name__': '__main__'}, 'runs.md'))


def packages() -> dict[str, list[str]]:
    """The public names of every subpackage but the command line."""
    result = {'index': list(promptmm_pyg.__all__)}
    for module in pkgutil.iter_modules(promptmm_pyg.__path__):
        if module.ispkg and module.name != 'cli':
            result[module.name] = import_module(f'promptmm_pyg.{module.name}').__all__
    return result


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    needed = ('sphinx', 'myst_parser', 'furo', 'latex2mathml')
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        pytest.skip(f"building requires {missing} (pip install '.[docs]')")
    out = tmp_path_factory.mktemp('site')
    build, errors = import_module('sphinx.cmd.build').main, StringIO()
    # Without the names in the menu of every page, which take as long as all the rest.
    options = ['-q', '-E', '-W', '-n', '--keep-going', '-D', 'toc_object_entries=0']
    folders = [str(out / 'doctrees'), str(DOCS), str(out / 'html')]
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stderr(errors),
        warnings.catch_warnings(action='ignore'),
    ):
        # The build must not use the network.
        patch.setenv('https_proxy', 'http://0.0.0.0:9')
        patch.setattr(sys, 'path', list(sys.path))
        status = build([*options, '-d', *folders])
    assert status == 0, errors.getvalue()
    return out / 'html'


def test_the_site_builds_without_a_warning(site):
    assert (site / 'index.html').is_file()


@pytest.mark.parametrize('package', packages())
def test_no_public_name_is_missing(site, package):
    page = (site / 'api' / f'{package}.html').read_text()
    for name in packages()[package]:
        if name != '__version__':
            where = rf'(?:id|title|href)="[^"]*promptmm_pyg\.[\w.]*\b{name}"'
            assert re.search(where, page), name


@pytest.mark.parametrize('name', PLAIN)
def test_no_public_function_is_missing(site, name):
    module = import_module(f'promptmm_pyg.{name}')
    page = (site / 'api' / f'{name}.html').read_text()
    for key, value in inspect.getmembers(module, inspect.isfunction):
        if value.__module__ == module.__name__ and not key.startswith('_'):
            assert f'id="{module.__name__}.{key}"' in page


@pytest.mark.parametrize('package', packages())
def test_every_public_name_is_described(package):
    home = 'promptmm_pyg' if package == 'index' else f'promptmm_pyg.{package}'
    for name in packages()[package]:
        value = getattr(import_module(home), name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert (value.__doc__ or '').strip(), name


def test_the_page_of_commands_has_their_help(site):
    page = (site / 'api' / 'commands.html').read_text()
    for command in ('train', 'distill', 'evaluate', 'recommend', 'data check'):
        assert f'usage: promptmm {command}' in page


def test_pages_load_nothing_from_elsewhere(site):
    loads = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+"')
    for page in site.rglob('*.html'):
        assert loads.search(page.read_text()) is None, page


def test_formulas_are_drawn_without_a_script(site):
    for page in (site / 'api').glob('*.html'):
        # What the converter does not know stays as it was typed.
        assert re.findall(r'<m\w+[^>]*>\\[^<]*<', page.read_text()) == [], page
    assert (site / 'api' / 'losses.html').read_text().count('<math') > 50


def test_every_page_is_in_the_index():
    text = '\n'.join(path.read_text() for path in DOCS.rglob('index.md'))
    for path in DOCS.rglob('*.md'):
        # Guides are listed by a pattern.
        if path != DOCS / 'index.md' and path.parent.name != 'guides':
            assert f'{path.stem}' in text, path


@pytest.mark.parametrize(
    'path',
    [*DECISIONS, DOCS / 'released_code.md'],
    ids=lambda path: path.stem,
)
def test_what_a_page_names_exists(path):
    named = re.findall(
        r'`((?:promptmm_pyg|tests|benchmarks|examples)/[^`]+)`', path.read_text()
    )
    assert named
    for place in named:
        file, _, test = place.partition('::')
        assert (ROOT / file).is_file(), place
        if test:
            assert f'def {test}(' in (ROOT / file).read_text(), place


@pytest.mark.parametrize('path', DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_five_parts(path):
    text = path.read_text()
    parts = re.findall(r'^\*\*(\w+)\.\*\*', text, re.MULTILINE)
    assert parts == ['Decision', 'Why', 'Rejected', 'Consequence', 'Where']
    assert '`tests/' in text
    assert 130 <= len(text.split()) <= 300


def test_every_difference_to_the_released_code_names_a_file_and_a_test():
    rows = [
        line.strip('|').split('|')
        for line in (DOCS / 'released_code.md').read_text().splitlines()
        if line.startswith('| ') and '| test |' not in line
    ]
    assert len(rows) >= 30
    for _, here, held in rows:
        assert '`' in here
        assert '`tests/' in held or held.strip() == 'nothing to test'


@pytest.mark.parametrize(
    ('expected', 'printed', 'same'),
    [
        ('a 0.50', 'a 0.53', True),
        ('a 0.50', 'a 0.60', False),
        ('a 5', 'a 6', False),
        ('a  b\nc', 'a b c', True),
        ('a ... c', 'a 1.5 b c', True),
        ('a ... d', 'a b c', False),
        ('a 0.5', 'a', False),
        ('', 'a', False),
    ],
)
def test_texts_agree_but_for_close_numbers(expected, printed, same):
    assert agree(expected, printed) is same
