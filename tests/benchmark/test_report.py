import sys

import pytest

from benchmarks import report as page
from promptmm_pyg.benchmark import Experiment, report
from promptmm_pyg.benchmark.experiments import Suite
from promptmm_pyg.benchmark.result import load_result

RESULTS = page.RESULTS


def test_the_page_is_that_of_the_result_files():
    text = page.PAGE.read_text()
    assert page.updated(text) == text
    for path in RESULTS.glob('*.json'):
        assert text.count(f'<!-- table: {path.stem} -->') == 1, path.stem
    assert text.count('<!-- table: ') == text.count('<!-- end -->')


def test_only_what_is_between_the_comments_is_replaced():
    name = 'noise-synthetic'
    text = f'a\n<!-- table: {name} -->old<!-- end -->\nb <!-- end -->'
    new = page.updated(text)
    table = page.render(RESULTS / f'{name}.json')
    start = f'a\n<!-- table: {name} -->\n\n{table}\n\n<!-- end -->'
    assert new == f'{start}\nb <!-- end -->'


def test_a_suite_is_sorted_by_validation():
    result = load_result(RESULTS / 'suite-tiktok.json')
    rows = Suite.table(result).splitlines()[4:]
    names = [row.split(' | ')[0].removeprefix('| ') for row in rows]
    by_test = sorted(result['rows'], key=lambda row: -row['test']['Recall@20']['mean'])
    by_validation = sorted(result['rows'], key=lambda row: -row['validation']['mean'])
    assert names == [row['name'] for row in by_validation]
    assert names != [row['name'] for row in by_test]


def test_without_lightgcn_the_best_is_the_reference():
    result = load_result(RESULTS / 'suite-tiktok.json')
    result['rows'] = [row for row in result['rows'] if row['name'] != 'LightGCN']
    assert f'| vs. {result["best"]} (95 %) |' in Suite.table(result)


def test_cells():
    assert report.mean_std({'mean': 0.12345, 'std': 0.1}) == '0.1235 ± 0.1000'
    gain = {'difference': 0.1, 'low': -0.2, 'high': 0.3}
    assert report.interval(gain) == '+0.1000 [-0.2000, +0.3000]'
    assert report.mean_std(None) == report.interval(None) == ''


def test_rows_that_end_at_the_last_epoch_are_marked():
    row = {'name': 'a', 'epochs': [9, 10, 8], 'max_epochs': 10}
    assert report.mean_epochs(row) == '9 †'
    lines = report.convergence({'rows': [row, {'name': 'b'}], 'teachers': [row]})
    assert lines[1].endswith('more epochs may be better: a (1 of 3 seeds)')
    converged = {**row, 'max_epochs': 11}
    assert report.mean_epochs(converged) == '9'
    assert report.convergence({'rows': [converged]}) == []


def test_one_seed_is_announced():
    assert 'do not include training noise' in report.seeds_of({'seeds': [3]})


def test_the_script_prints_tables_or_writes_the_page(monkeypatch, capsys, tmp_path):
    path = RESULTS / 'speed.json'
    monkeypatch.setattr(sys, 'argv', ['report', str(path)])
    page.main()
    assert capsys.readouterr().out.strip() == page.render(path)
    copy = tmp_path / 'page.md'
    copy.write_text('<!-- table: scale --><!-- end -->')
    monkeypatch.setattr(page, 'PAGE', copy)
    monkeypatch.setattr(sys, 'argv', ['report'])
    page.main()
    assert page.render(RESULTS / 'scale.json') in copy.read_text()


def test_a_figure_requires_its_kind_and_matplotlib(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"'plot' requires .* \(got 'main'\)"):
        page.plot({'kind': 'main', 'rows': []}, tmp_path / 'x.png')
    result = load_result(RESULTS / 'cold-synthetic.json')
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(ImportError, match="'plot' requires 'matplotlib'"):
        page.plot(result, tmp_path / 'x.png')


@pytest.mark.parametrize('path', sorted(RESULTS.glob('*-*.json')), ids=lambda p: p.stem)
def test_a_result_of_any_kind_has_a_table_of_its_rows(path):
    result = load_result(path)
    text = Experiment.table(result)
    assert all(f'| {row["name"]} |' in text for row in result['rows'])
    assert len({line.count('|') for line in text.split('\n\n')[-1].splitlines()}) == 1
