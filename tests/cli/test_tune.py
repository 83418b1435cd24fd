import json

import pytest

from promptmm_pyg.cli import main

from .conftest import TRAIN


def argv(files, run, *more):
    data = [files.table, '--features', f'text={files.text}']
    return ['tune', *data, '--out', str(run), *TRAIN, *more]


def test_a_tuned_run_is_a_run(files, tmp_path, capsys):
    run = tmp_path / 'run'
    more = ['--model', 'FREEDOM', '--prune-ratio', '0.3', '--trials', '3']
    assert main(argv(files, run, *more)) == 0
    out, err = capsys.readouterr()
    assert 'FREEDOM: validation Recall@20 0.' in out
    assert 'best of 3 settings: learning rate 0.0' in out
    assert 'trial' not in err  # --quiet
    config = json.loads((run / 'config.json').read_text())
    metrics = json.loads((run / 'teacher' / 'metrics.json').read_text())
    assert config['teacher']['prune_ratio'] == 0.3
    best = metrics['best_params']
    assert set(best) == {'learning_rate', 'num_layers', 'l2', 'modality_bpr'}
    assert config['train']['learning_rate'] == best['learning_rate']
    assert config['loss_weights']['modality_bpr'] == best['modality_bpr']
    assert (run / 'tuning' / 'trials.png').stat().st_size > 10_000
    assert main(['recommend', str(run), '--users', 'u0']) == 0
    assert main(['report', str(run)]) == 0
    page = (run / 'report.html').read_text()
    assert '<h2>Trials</h2>' in page
    assert 'of 3 trials' in page


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        ((), '--trials N or --minutes X is required (got neither)'),
        (('--track', 'wandb=x'), "--track must be left out of 'tune' (got 'wandb')"),
        (('--trials', '0'), "'trials' must be positive (got 0)"),
        (('--trials', '2', '--resume'), 'has no search to continue'),
    ],
)
def test_mistakes(files, tmp_path, capsys, more, message):
    assert main(argv(files, tmp_path / 'run', '--model', 'EASE', *more)) == 2
    assert message in capsys.readouterr().err
