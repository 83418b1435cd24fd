"""The whole way on real files, short."""

import os
from pathlib import Path

import pytest

from promptmm_pyg.cli import main

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.filterwarnings('ignore::UserWarning'),
]


@pytest.mark.parametrize(
    ('name', 'options', 'user'),
    [
        ('tiktok', [], '17'),
        (
            'ml100k',
            ['--features', 'image=derived/image_feat_effnetlite0_1280.npy'],
            '3',
        ),
    ],
)
def test_data_to_recommendations(name, options, user, tmp_path, capsys):
    folder = os.environ.get('PROMPTMM_DATA')
    if not folder or not (Path(folder) / name).is_dir():
        pytest.skip(f"PROMPTMM_DATA names no folder with '{name}/'")
    data, run = str(Path(folder) / name), str(tmp_path / 'run')
    options = [x.replace('derived', f'{data}/derived') for x in options]
    small = ['--embedding-dim', '8', '--epochs', '1', '--quiet']
    assert main(['data', 'check', data, *options]) == 0
    assert main(['train', data, '--out', run, *options, *small]) == 0
    assert (
        main(['distill', run, '--embedding-dim', '8', '--epochs', '1', '--quiet']) == 0
    )
    assert main(['evaluate', run]) == 0
    capsys.readouterr()
    assert main(['recommend', run, '--users', user, '-k', '5']) == 0
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.strip()]) >= 5
