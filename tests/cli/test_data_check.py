import json
import re
import shutil

import numpy as np
import pytest

from promptmm_pyg.cli import main


def test_a_sound_folder_is_described(files, capsys):
    assert main(['data', 'check', files.layout]) == 0
    out = capsys.readouterr().out
    counts = ', '.join(f'{x.size(1)} {name}' for name, x in files.edges.items())
    assert f"'{files.layout}' read as mmssl\n40 users\n60 items\n" in out
    assert f'interactions: {counts}\n' in out
    assert '\n0 errors, ' in out


def test_modalities_come_with_width_and_missing_share(files, tmp_path, capsys):
    folder = shutil.copytree(files.layout, tmp_path / 'data')
    x = np.ones((60, 5), dtype=np.float32) * np.arange(60)[:, None]
    x[:15] = 0
    np.save(folder / 'image_feat.npy', x)
    main(['data', 'check', str(folder)])
    row = next(line for line in capsys.readouterr().out.splitlines() if 'image' in line)
    assert row.split() == ['image', 'items', '5', '25.0%']


def test_each_finding_has_its_fix_and_an_error_sets_the_status(files, tmp_path, capsys):
    folder = shutil.copytree(files.layout, tmp_path / 'data')
    lists = json.loads((folder / 'val.json').read_text())
    (folder / 'test.json').write_text(json.dumps(lists))
    # A repeated pair is refused when read, unless told which mention to keep.
    assert main(['data', 'check', str(folder)]) == 2
    capsys.readouterr()
    assert main(['data', 'check', str(folder), '--duplicates', 'first']) == 0
    out = capsys.readouterr().out
    assert 'warning: test: edge_label_index: contains no positives\n  fix: ' in out


def test_an_error_sets_the_status(files, capsys, monkeypatch):
    from promptmm_pyg.data import Issue

    leak = Issue('error', 'val', 'leaks', 'Take it out')
    monkeypatch.setattr('promptmm_pyg.runs.data.validate', lambda split, **_: [leak])
    assert main(['data', 'check', files.layout]) == 1
    out = capsys.readouterr().out
    assert out.endswith(
        '\nerror: val: leaks\n  fix: Take it out\n\n1 error, 0 warnings\n'
    )


def test_data_without_features_are_described(files, capsys):
    for words in ([files.table], [files.layout, '--features', 'text=']):
        assert main(['data', 'check', *words]) == 0
        assert 'no modalities' in capsys.readouterr().out


def test_a_graph_among_items_is_checked_for_leaks(files, tmp_path, capsys):
    run_on_all = set()
    every = np.concatenate([x.numpy() for x in files.edges.values()], axis=1)
    for user in np.unique(every[0]):
        items = every[1][every[0] == user].tolist()
        run_on_all |= {(a, b) for a in items for b in items if a != b}
    np.save(tmp_path / 'graph.npy', np.array(sorted(run_on_all)).T)
    words = ['data', 'check', files.layout, '--item-graph', str(tmp_path / 'graph.npy')]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "error: train['item', 'given', 'item']: joins " in out
    assert main(words[:3]) == 0


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        (np.ones((3, 2), dtype=np.int64), r'must contain integers of shape \[2, E\]'),
        (np.ones((2, 2)), r'got float64 \[2, 2\]'),
        (np.array([[{}], [{}]]), 'must be a whole .npy file of numbers'),
        (None, r"--item-graph names a file that does not exist: '.*graph\.npy'"),
    ],
)
def test_what_is_no_graph_among_items_is_a_mistake(
    files, tmp_path, fails, content, match
):
    if content is not None:
        np.save(tmp_path / 'graph.npy', content, allow_pickle=True)
    words = ['data', 'check', files.layout, '--item-graph', tmp_path / 'graph.npy']
    assert re.search(match, fails(*words))
