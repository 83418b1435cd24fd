"""What one training step of the teacher makes, besides the features it is given."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from promptmm_pyg.data import open_features, save_features
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models import PromptMM
from promptmm_pyg.nn import ChunkedFeatures, csr_pair_dict
from promptmm_pyg.training import AmortizedTerms, promptmm_terms
from promptmm_pyg.training.loop import train_step
from promptmm_pyg.training.optimizer import make_optimizer
from promptmm_pyg.training.teacher import TEACHER_WEIGHTS

USERS, ITEMS, WIDTH = 40, 60, 300  # Wider than all else: no other product reaches it.
FULL = ITEMS * WIDTH


class Watch(TorchDispatchMode):
    """Notes the largest tensor that is not a view of memory known before."""

    def __init__(self, *known):
        self.known = {x.untyped_storage().data_ptr() for x in known}
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(out):
            dense = isinstance(x, torch.Tensor) and x.layout == torch.strided
            if dense and x.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, x.numel())
        return out


def make_graph():
    g = torch.Generator().manual_seed(0)
    nodes = {'user': USERS, 'item': ITEMS}
    edge_index = torch.stack([torch.randint(n, (90,), generator=g) for n in (40, 60)])
    index = {
        ('user', 'interacts', 'item'): edge_index,
        ('item', 'rev_interacts', 'user'): edge_index.flip([0]),
    }
    batch = Triplets(
        *[torch.randint(n, (16,), generator=g) for n in (USERS, ITEMS, ITEMS)]
    )
    return nodes, csr_pair_dict(index, num_nodes_dict=nodes), batch


def make_teacher(nodes, x, tokens, masked):
    g = torch.Generator().manual_seed(1)
    start = {key: torch.randn(n, 2, generator=g) for key, n in nodes.items()}
    mask = {'image': {'item': torch.arange(ITEMS) % 7 > 0}}
    return PromptMM(
        nodes,
        {'image': {'item': x}},
        prompt_start_dict=start,
        embedding_dim=4,
        num_prompt_tokens=tokens,
        modality_mask_dict=mask if masked else None,
    ).train()


def largest(x, *, tokens=1, masked=False, shared=False, build=False):
    """Of the second step (the first makes the moments), or of building it as well."""
    nodes, operators, batch = make_graph()
    source = x.x if isinstance(x, ChunkedFeatures) else x
    watch = Watch(source)
    if build:
        with watch:
            teacher = make_teacher(nodes, x, tokens, masked)
    else:
        teacher = make_teacher(nodes, x, tokens, masked)
    watch.known |= {b.untyped_storage().data_ptr() for b in teacher.buffers()}
    optimizer = make_optimizer(teacher.parameters(), 0.01, 0.0)

    def forward():
        return teacher(operators)

    terms = AmortizedTerms(
        forward, promptmm_terms, TEACHER_WEIGHTS, teacher.parameters(), 4
    )
    for _ in range(2):
        with watch:
            values = terms(batch) if shared else promptmm_terms(forward(), batch)
            train_step(optimizer, values, TEACHER_WEIGHTS)
    return watch.largest


def features(seed=2):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(ITEMS, WIDTH, generator=g)


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('tokens', [1, 3])
def test_a_step_makes_nothing_of_the_size_of_the_features(tokens, masked, shared):
    # [D, F], the weight of the reduction and its moments, is the largest there is.
    found = largest(features(), tokens=tokens, masked=masked, shared=shared)
    assert found <= max(4 * WIDTH, ITEMS * 12)
    assert found < FULL / 10


def test_the_watch_sees_the_prompted_features_of_the_naive_form():
    x, prompt = features(), torch.randn(ITEMS, 4, requires_grad=True)
    watch = Watch(x)
    with watch:
        (x + F.normalize(prompt @ (prompt.t() @ x), dim=-1)).sum().backward()
    assert watch.largest >= FULL


@pytest.mark.parametrize('precision', ['float16', 'bfloat16', 'float32'])
@pytest.mark.parametrize('tokens', [1, 3])
@pytest.mark.parametrize('masked', [False, True])
def test_features_on_disk_are_read_in_blocks_from_the_start(
    tmp_path, precision, tokens, masked
):
    save_features(tmp_path / 'x', features(), precision=precision, block_rows=8)
    x = ChunkedFeatures(open_features(tmp_path / 'x'), block_rows=8)
    found = largest(x, tokens=tokens, masked=masked, build=True)
    assert found <= max(8, 4) * WIDTH


def test_saving_holds_one_block_at_a_time(tmp_path):
    x = features()
    watch = Watch(x)
    with watch:
        save_features(tmp_path / 'x', x, block_rows=8)
    assert 0 < watch.largest <= 8 * WIDTH * 2  # Bytes of float16.
