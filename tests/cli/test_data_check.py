import json
import shutil

import numpy as np

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
    assert main(['data', 'check', str(folder), '--duplicates', 'drop']) == 0
    out = capsys.readouterr().out
    assert 'warning: test: edge_label_index: holds no positives\n  what to do: ' in out


def test_an_error_sets_the_status(files, capsys, monkeypatch):
    from promptmm_pyg.data import Finding

    leak = Finding('error', 'val', 'leaks', 'Take it out')
    monkeypatch.setattr('promptmm_pyg.cli.data_source.validate', lambda split: [leak])
    assert main(['data', 'check', files.layout]) == 1
    out = capsys.readouterr().out
    assert out.endswith(
        '\nerror: val: leaks\n  what to do: Take it out\n\n1 errors, 0 warnings\n'
    )


def test_data_without_features_are_described(files, capsys):
    assert main(['data', 'check', files.table]) == 0
    assert 'no modalities' in capsys.readouterr().out


def test_a_modality_can_be_left_out(files, capsys):
    assert main(['data', 'check', files.layout, '--features', 'text=']) == 0
    assert 'no modalities' in capsys.readouterr().out
