"""All steps on real files, short."""

import pytest

from promptmm_pyg.cli import main
from tests.real_data import real_folder, sample_tiktok

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.filterwarnings('ignore::UserWarning'),
]
SMALL = ['--embedding-dim', '8', '--epochs', '1', '--quiet']


def test_all_of_tiktok_passes_the_check(capsys):
    assert main(['data', 'check', str(real_folder('tiktok'))]) == 0
    assert '9308' in capsys.readouterr().out.replace(',', '')


@pytest.mark.parametrize('name', ['tiktok', 'ml100k'])
def test_data_to_recommendations(name, tmp_path, capsys):
    run, options = str(tmp_path / 'run'), []
    if name == 'tiktok':
        data, user = str(tmp_path / 'tiktok'), '17'
        sample_tiktok(tmp_path / 'tiktok')
    else:
        data, user = str(real_folder(name)), '3'
        image = f'image={data}/derived/image_feat_effnetlite0_1280.npy'
        options = ['--features', image]
        assert main(['data', 'check', data, *options]) == 0
    assert main(['train', data, '--out', run, *options, *SMALL]) == 0
    assert main(['distill', run, *SMALL]) == 0
    assert main(['evaluate', run]) == 0
    capsys.readouterr()
    assert main(['recommend', run, '--users', user, '-k', '5']) == 0
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.strip()]) >= 5
