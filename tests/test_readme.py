"""README and result pages agree with the result files and with the code."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from torch_geometric.nn import HeteroConv, SAGEConv

import promptmm_pyg.losses
import promptmm_pyg.models
from benchmarks import report
from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.nn import NodeEmbeddings

ROOT = Path(__file__).parents[1]
README = ROOT / 'README.md'
GUIDES = ROOT / 'docs' / 'guides'
RESULTS = sorted((ROOT / 'benchmarks' / 'results').glob('*.json'))


def anchors(path):
    titles = re.findall(r'^#+ (.*)$', path.read_text(), flags=re.MULTILINE)
    return {re.sub(r'[^\w -]', '', t.lower()).replace(' ', '-') for t in titles}


def test_there_are_results():
    assert RESULTS


@pytest.mark.parametrize('path', RESULTS, ids=lambda path: path.stem)
def test_a_table_equals_its_result_file(path):
    assert (ROOT / 'RESULTS.md').read_text().count(report.render(path)) == 1


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 10_000


def test_the_page_of_the_package_index_has_no_link_into_the_repository():
    links = re.findall(r'\]\(([^)]*)\)', (ROOT / 'PYPI.md').read_text())
    assert links
    assert all(link.startswith('https://') for link in links)


def test_the_results_table_equals_the_result_files():
    pictures = runpy.run_path(str(ROOT / 'docs' / 'make_pictures.py'))
    assert pictures['table']() in README.read_text()


@pytest.mark.parametrize(
    'page', [README, ROOT / 'RESULTS.md', ROOT / 'CONTRIBUTING.md']
)
def test_links_lead_to_files_and_sections(page):
    for target in re.findall(r'\]\(([^)]+)\)', page.read_text()):
        if not target.startswith('http'):
            name, _, anchor = target.partition('#')
            path = ROOT / name if name else page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target


def test_every_section_of_the_results_has_a_short_answer():
    text = (ROOT / 'RESULTS.md').read_text()
    titles = anchors(ROOT / 'RESULTS.md') & {
        re.sub(r'[^\w -]', '', t.lower()).replace(' ', '-')
        for t in re.findall(r'^## (.*)$', text, flags=re.MULTILINE)
    }
    answered = set(re.findall(r'\]\(#([^)]*)\) \|', text))
    first = {'how-it-is-measured', 'short-answers'}
    first |= {'all-models-on-one-budget'}
    assert answered == titles - first


def test_every_loss_has_a_row_in_its_guide():
    text = (GUIDES / 'losses.md').read_text()
    names = [n for n in promptmm_pyg.losses.__all__ if n[0].isupper()]
    missing = [n for n in names if not n.endswith('Terms') and f'| `{n}` |' not in text]
    assert missing == []


def test_every_model_has_a_row_in_its_guide():
    text = (GUIDES / 'models.md').read_text()
    assert [n for n in promptmm_pyg.models.MODELS if f'`{n}`' not in text] == []


def test_the_loop_of_the_readme_trains_a_pyg_model():
    block = re.findall(r'```python\n(.*?)```', README.read_text(), flags=re.DOTALL)[1]
    assert len([line for line in block.splitlines() if line.strip()]) <= 8
    split = split_per_user(make_synthetic_dataset(40, 30, 4, seed=0))
    model = _PyGModel(split.train)
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(30, (8, 5), generator=generator)
    names = {
        'model': model,
        'data': split.train,
        'user': torch.arange(8),
        'items': items,
        'teacher_scores': torch.randn(8, 5, generator=generator),
    }
    exec(block, names)
    assert names['loss'].item() > 0
    gradients = [x.grad for x in model.parameters()]
    assert all(x is not None and x.abs().sum() > 0 for x in gradients)


class _PyGModel(torch.nn.Module):
    def __init__(self, data):
        super().__init__()
        counts = {key: int(data[key].num_nodes) for key in ('user', 'item')}
        self.embeddings = NodeEmbeddings(counts, 4)
        layers = {key: SAGEConv(4, 4, bias=False) for key in data.edge_types}
        self.conv = HeteroConv(layers)

    def forward(self, edge_index_dict):
        return self.conv(self.embeddings(), edge_index_dict)


def test_the_gallery_shows_every_example():
    text = (ROOT / 'docs' / 'examples.md').read_text()
    for path in (ROOT / 'examples').glob('*.py'):
        assert f'../examples/{path.name}' in text
