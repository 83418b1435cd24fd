"""Every table of numbers in the README is the one its result file gives."""

from pathlib import Path

import pytest

from benchmarks import report

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / 'benchmarks' / 'results').glob('*.json'))


def test_there_are_results():
    assert RESULTS


@pytest.mark.parametrize('path', RESULTS, ids=lambda path: path.stem)
def test_readme_shows_what_the_result_file_says(path):
    assert report.render(path) in (ROOT / 'README.md').read_text()
