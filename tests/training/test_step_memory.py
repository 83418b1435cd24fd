"""What one training step of the teacher makes, besides the features it is given."""

import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.data import open_features, save_features
from promptmm_pyg.loader import Triplets
from promptmm_pyg.models import PromptMM
from promptmm_pyg.nn import ChunkedFeatures, csr_pair_dict
from promptmm_pyg.training import TrainingConfig
from promptmm_pyg.training.loop import amortized, step_output, train_step
from promptmm_pyg.training.optim import make_optimizer
from tests.training.setting import Watch

USERS, ITEMS, WIDTH = 40, 60, 300  # Wider than all else: no other product reaches it.
FULL = ITEMS * WIDTH


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
    optimizer = make_optimizer(teacher.parameters(), TrainingConfig(learning_rate=0.01))
    losses, weights = teacher.losses, teacher.loss_weights
    step = amortized(
        lambda: teacher(operators), losses, weights, teacher.parameters(), 4
    )
    if not shared:

        def step(batch, _):
            return step_output(losses(teacher(operators), batch), weights)

    for _ in range(2):
        with watch:
            train_step(optimizer, step, batch)
    return watch.largest


def features(seed=2):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(ITEMS, WIDTH, generator=g)


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('tokens', [1, 3])
def test_a_step_makes_nothing_of_the_size_of_the_features(tokens, masked, shared):
    # [D, F], the weight of the reduction and its moments, is the largest there is.
    result = largest(features(), tokens=tokens, masked=masked, shared=shared)
    assert result <= max(4 * WIDTH, ITEMS * 12)
    assert result < FULL / 10


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
    result = largest(x, tokens=tokens, masked=masked, build=True)
    assert result <= max(8, 4) * WIDTH


def test_saving_holds_one_block_at_a_time(tmp_path):
    x = features()
    watch = Watch(x)
    with watch:
        save_features(tmp_path / 'x', x, block_rows=8)
    assert 0 < watch.largest <= 8 * WIDTH * 2  # Bytes of float16.
