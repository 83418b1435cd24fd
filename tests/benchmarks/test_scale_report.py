import json
import sys

import pytest

from benchmarks import report
from benchmarks.speed.scale import measured, scale_plot, scale_table


def cost(seconds, share=1.0, **more):
    return {'seconds': seconds, 'share': share, 'peak_mib': 7.0, **more}


def row(interactions, seconds, **costs):
    return {
        'interactions': interactions,
        'edges': interactions - 10,
        'users': 20,
        'items': 5,
        'costs': {
            'propagation': cost(seconds),
            'triplets of an epoch': cost(2.0, triplets_per_second=45.6),
            'evaluation': cost(3.0, 0.25, estimate=12.0, users=5, users_per_second=1.5),
            **costs,
        },
        'features_bytes': 2**20,
        'tables_bytes': 2**21,
        'student_peak_mib': 1000.0,
        'peak_mib': 2000.0,
        'estimated_mib': 3000.0,
    }


@pytest.fixture
def result():
    whole = {'teacher step, whole graph': cost(4.0)}
    return {
        'scale': [row(110, 1.0, **whole), row(1010, 10.0)],
        'exponents': {'propagation': {'exponent': 1.0, 'last_two': 1.25}},
        'setting': {
            'width': 64,
            'features': 256,
            'threads': 1,
            'repeats': 3,
            'memory': 16 * 2**30,
        },
    }


def cells(text, name):
    (line,) = (line for line in text.splitlines() if line.startswith(f'| {name} |'))
    return [cell.strip() for cell in line.split('|')[2:-1]]


def test_measured_and_estimated_seconds_stand_in_columns_of_their_own(result):
    text = scale_table(result)
    assert cells(text, 'propagation') == ['1', '', '10', '', '1.00', '1.25']
    sampled = ['3 (25.00%)', '12']
    assert cells(text, 'evaluation') == [*sampled, *sampled, '', '']


def test_a_step_that_was_left_out_says_so(result):
    found = cells(scale_table(result), 'teacher step, whole graph')
    assert found == ['4', '', 'does not fit', '', '', '']


def test_every_row_of_the_table_has_the_columns_of_its_head(result):
    blocks = [b for b in scale_table(result).split('\n\n') if b.startswith('|')]
    for block in blocks:
        assert len({line.count('|') for line in block.splitlines()}) == 1
    assert len(blocks) == 2


def test_sizes_and_memory_are_told_with_the_budget(result):
    text = scale_table(result)
    assert '| 110 | 20 | 5 | 100 | 46 | 2 (5 users) | 2.0 | 1.0 |' in text
    assert '| 1,000 | 2,000 | 3,000 |' in text
    assert text.endswith('The budget of 16 GiB was kept.')
    result['scale'][1]['peak_mib'] = 16 * 1024 + 1.0
    assert scale_table(result).endswith('The budget of 16 GiB was EXCEEDED.')


def test_what_was_done_in_part_is_not_among_the_measured(result):
    rows = result['scale']
    assert measured(rows, 'propagation') == ([100, 1000], [1.0, 10.0])
    assert measured(rows, 'evaluation') == ([], [])
    assert measured(rows, 'teacher step, whole graph') == ([100], [4.0])


def test_the_figure_has_logarithmic_axes_and_names_exponents(
    result, monkeypatch, tmp_path
):
    figures = []
    monkeypatch.setattr(
        'benchmarks.speed.scale.save_plot', lambda ax, _: figures.append(ax.figure)
    )
    scale_plot(result, tmp_path / 'x.png')
    (ax,) = figures[0].axes
    assert (ax.get_xscale(), ax.get_yscale()) == ('log', 'log')
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines['propagation: 1.00'].get_ydata()) == [1.0, 10.0]
    assert list(lines['exponent 1'].get_xdata()) == [100, 1000]
    assert not any(name.startswith('evaluation') for name in lines)


def test_a_figure_without_matplotlib_says_what_to_install(
    result, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(ImportError, match="'scale_plot' requires 'matplotlib'"):
        scale_plot(result, tmp_path / 'x.png')


def test_the_report_prints_and_draws_the_scale(result, monkeypatch, tmp_path, capsys):
    path, plot = tmp_path / 'any.json', tmp_path / 'any.png'
    path.write_text(json.dumps({**result, 'kind': 'scale', 'versions': {}}))
    assert report.render(path) == scale_table(result)
    monkeypatch.setattr(sys, 'argv', ['report', str(path), '--plot', str(plot)])
    report.main()
    assert scale_table(result) in capsys.readouterr().out
    assert plot.read_bytes().startswith(b'\x89PNG')
