"""Progress where there is no terminal."""

import io
import sys

from promptmm_pyg import _progress
from promptmm_pyg._progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_have_counts_values_and_time(monkeypatch, capsys):
    monkeypatch.setattr(_progress, 'SECONDS', 0.0)
    with Progress(4, 'student', unit='epoch', initial=1) as progress:
        progress.update(values={'loss': '0.5000'})
    line = capsys.readouterr().err
    assert line.startswith('student: 2 of 4 epochs, loss 0.5000, 0 s, at most ')
    assert line.count('\n') == 1
    assert '\r' not in line


def test_short_work_prints_nothing(capsys):
    with Progress(2) as progress:
        progress.update(2)
    assert capsys.readouterr().err == ''


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', Terminal())
    with Progress(2, 'teacher', unit='epoch') as progress:
        progress.update(values={'loss': '0.1'})
        progress.update(values={'loss': '0.1'})
    assert 'teacher: 100%' in sys.stderr.getvalue()


def test_nothing_is_printed_where_it_is_disabled(monkeypatch, capsys):
    monkeypatch.setattr(_progress, 'SECONDS', 0.0)
    with Progress(2, disable=True) as progress:
        progress.update()
    assert capsys.readouterr().err == ''
