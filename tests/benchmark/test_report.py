import json
import re
import sys

import numpy as np
import pytest
import torch

from benchmarks import report as page
from promptmm_pyg.benchmark import Experiment, report
from promptmm_pyg.benchmark.experiments import Suite
from promptmm_pyg.benchmark.result import load_result
from promptmm_pyg.benchmark.stats import spread
from promptmm_pyg.cli import main
from promptmm_pyg.evaluation import paired_test

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


def write_results(folder):
    """Two results of three rows, with values per user."""
    generator = torch.Generator().manual_seed(0)
    users = torch.rand(80, generator=generator)
    for dataset, gain in (('one', 0.2), ('two_b', 0.0)):
        noise = 0.05 * torch.randn(5, 80, generator=generator)
        values = {
            'EASE': users[None],
            'Net_2': users + gain + noise[:2],
            'MF': users - 0.1 + noise[2:4],
        }
        rows = [
            {
                'name': name,
                'validation': spread(x.mean(1).tolist()),
                'test': {
                    'Recall@20': spread(x.mean(1).tolist()),
                    'NDCG@20': spread((x.mean(1) / 2).tolist()),
                },
            }
            for name, x in values.items()
        ]
        result = dict.fromkeys(('kind', 'protocol', 'versions', 'name'), 'x')
        result |= {'dataset': dataset, 'rows': rows, 'seeds': [0, 1]}
        result['per_user'] = f'{dataset}.npz'
        (folder / f'{dataset}.json').write_text(json.dumps(result))
        np.savez(folder / f'{dataset}.npz', users=users, **values)
    return [folder / 'one.json', folder / 'two_b.json'], values


def test_a_table_for_a_paper(tmp_path):
    paths, values = write_results(tmp_path)
    lines = report.paper_table(paths).splitlines()
    assert 'to Net_2 with 95 %' in lines[0]  # The best on validation.
    assert 'of 2 training seeds' in lines[0]
    assert lines[2].startswith('| model | one Recall@20 | one NDCG@20 | one vs. Net_2')
    cells = [line.strip('| ').split(' | ') for line in lines[4:]]
    ease, net, _ = cells
    assert net[1].startswith('**')
    assert '± 0.' in net[1]
    assert ease[1] == f'<u>{values["EASE"].mean():.4f}</u>'  # No deviation.
    assert ease[3].endswith(']*')
    assert net[3] == ''
    test = paired_test(values['EASE'], values['Net_2'])
    assert ease[6] == f'{test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}]'
    with pytest.raises(ValueError, match="'reference' must be one of 'EASE'"):
        report.paper_table(paths, reference='Net')
    with pytest.raises(ValueError, match="'metrics' must be in all rows"):
        report.paper_table(paths, metrics=['MRR@20'])
    (tmp_path / 'one.npz').unlink()
    with pytest.raises(ValueError, match='values per user beside it'):
        report.paper_table(paths)


def test_the_latex_of_a_table_is_balanced(tmp_path):
    paths, _ = write_results(tmp_path)
    text = report.paper_table(paths, 'latex', reference='EASE')
    lines = text.splitlines()
    assert re.findall(r'\\begin\{(\w+)', text) == ['table', 'tabular']
    assert re.findall(r'\\end\{(\w+)', text) == ['tabular', 'table']
    bare = re.sub(r'\\[\\&%$#_{}]', '', text)
    assert bare.count('{') == bare.count('}')
    assert bare.count('$') % 2 == 0
    assert re.search(r'[#_%~^<>]', re.sub(r'\$<\$|\$-\$', '', bare)) is None
    (columns,) = re.findall(r'tabular\}\{(\w+)\}', text)
    rows = lines[lines.index(r'\midrule') + 1 : lines.index(r'\bottomrule')]
    for row in [lines[lines.index(r'\midrule') - 1], *rows]:
        assert row.endswith(r' \\')
        assert len(re.split(r'(?<!\\)&', row)) == len(columns) == 7
    assert r'\textbf{' in rows[1]
    assert r'Net\_2 & ' in rows[1]
    assert r'{c}{two\_b}' in text
    assert '$-$0.' in rows[2]


def test_the_benchmark_of_a_model_of_a_file_is_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('XDG_CONFIG_HOME', str(tmp_path / 'config'))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'net.py').write_text(
        'from promptmm_pyg.models import LightGCN\n\n\nclass Net(LightGCN):\n'
        '    def __init__(self, *args, num_layers=1, **kwargs):\n'
        '        super().__init__(*args, num_layers=num_layers, **kwargs)\n'
    )
    (tmp_path / 'paper.toml').write_text(
        'kind = "suite"\nmodels = ["EASE", "net.py:Net"]\ntrials = 1\nwidth = 4\n'
        'seeds = [0, 1]\ndatasets = ["synthetic"]\ntraining = { epochs = 1 }\n'
        '[dataset.synthetic]\n'
        'synthetic = { num_users = 60, num_items = 110, num_clusters = 4 }\n'
    )
    words = ['benchmark', 'paper.toml', '--out', '.', '--work', 'work', '--jobs', '0']
    assert main([*words, '--table', 'latex', '--reference', 'Net']) == 0
    assert 'vs. Net (95' in capsys.readouterr().out
    rows = load_result(tmp_path / 'paper-synthetic.json')['rows']
    assert [row['name'] for row in rows] == ['EASE', 'Net']
    assert len(rows[1]['model_sha256']) == 64
    trained = set((tmp_path / 'work').glob('*-Net-*'))
    assert len(trained) == 2
    with (tmp_path / 'net.py').open('a') as file:
        file.write('# Altered, so it is trained again.\n')
    words = ['benchmark', 'paper-synthetic.json', 'paper.toml']
    assert main(words) == 2
    assert 'one configuration, or results' in capsys.readouterr().err
    words = ['benchmark', 'paper.toml', '--out', '.', '--work', 'work', '--jobs', '0']
    assert main([*words, '--set', 'seeds=[0]']) == 0
    assert len(set((tmp_path / 'work').glob('*-Net-*')) - trained) == 1
