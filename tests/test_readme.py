"""What the README says is so: its numbers, its tables, its code."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

import promptmm_pyg.losses
from benchmarks import report
from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.training import TrainingConfig

ROOT = Path(__file__).parents[1]
README = ROOT / 'README.md'
RESULTS = sorted((ROOT / 'benchmarks' / 'results').glob('*.json'))


def test_there_are_results():
    assert RESULTS


@pytest.mark.parametrize('path', RESULTS, ids=lambda path: path.stem)
def test_a_table_shows_what_the_result_file_says(path):
    pages = README.read_text(), (ROOT / 'RESULTS.md').read_text()
    assert sum(report.render(path) in page for page in pages) == 1


def test_sections_that_the_readme_points_to_are_there():
    titles = re.findall(r'^## (.*)$', (ROOT / 'RESULTS.md').read_text(), flags=re.M)
    anchors = {re.sub(r'[^\w -]', '', t.lower()).replace(' ', '-') for t in titles}
    named = re.findall(r'\(RESULTS\.md#([^)]*)\)', README.read_text())
    assert set(named) == anchors


def test_every_loss_has_a_row_in_the_table():
    text = README.read_text()
    named = [n for n in promptmm_pyg.losses.__all__ if n[0].isupper()]
    missing = [n for n in named if not n.endswith('Terms') and f'| `{n}` |' not in text]
    assert missing == []


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_the_python_of_the_readme_runs(monkeypatch, tmp_path, capsys):
    split = split_per_user(make_synthetic_dataset(80, 120, 4, seed=0))
    monkeypatch.setattr(promptmm_pyg, 'read_dataset', lambda _: split, raising=False)
    quick = TrainingConfig(epochs=1, progress=False)
    for name in ('training.train', 'distillation.distill'):
        module = import_module(f'promptmm_pyg.{name}')
        monkeypatch.setattr(module, 'TrainingConfig', lambda: quick)
    monkeypatch.chdir(tmp_path)
    _recommender().save('runs/first/recommender')
    names = {'encoder': torch.nn.Linear(768, 4), 'x': torch.rand(1, 3)}
    blocks = re.findall(r'```python\n(.*?)```', README.read_text(), flags=re.DOTALL)
    for block in blocks:
        exec(block, names)
    assert 'Recall ' in capsys.readouterr().out
    assert len(blocks) == 7


def _recommender():
    generator = torch.Generator().manual_seed(0)
    user_x, item_x = (torch.randn(20, 4, generator=generator) for _ in range(2))
    recommender = promptmm_pyg.Recommender(
        user_x,
        item_x,
        user_ids=[f'u{row}' for row in range(20)],
        item_ids=[f'i{row}' for row in range(20)],
        seen=torch.arange(20).repeat(2, 1),
    )
    recommender.fit_feature_mapper({'text': torch.randn(20, 3, generator=generator)})
    return recommender


def test_the_readme_names_every_example():
    text = README.read_text()
    for path in (ROOT / 'examples').glob('*.py'):
        assert f'(examples/{path.name})' in text
