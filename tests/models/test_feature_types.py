"""Features come in the numbers of their source: NumPy's doubles, counts, half."""

import pytest
import torch

from promptmm_pyg import models
from promptmm_pyg.losses import weighted_sum
from promptmm_pyg.models import PromptMM
from tests.models.setting import BATCH, CONTENT, operators
from tests.nn.graphs import NUM_NODES, USER_ITEM

OWN_LOSSES = [*CONTENT, models.PromptMMPlus]
DTYPES = [torch.double, torch.half, torch.bfloat16, torch.long]
OPTIONS = {
    models.PromptMMPlus: {
        'denoise': True,
        'item_graph_weight': 0.1,
        'alignment_weight': 0.1,
    }
}


def item_features(dtype):
    """Whole numbers up to eight, which every type holds exactly."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 9, (NUM_NODES['item'], 5), generator=g)
    return {'text': {'item': x.to(dtype)}}


def loss_and_gradients(cls, dtype):
    torch.manual_seed(0)
    options = OPTIONS.get(cls, {})
    model = cls(
        NUM_NODES, item_features(dtype), edge_type=USER_ITEM, embedding_dim=4, **options
    ).train()
    torch.manual_seed(1)
    terms = model.losses(model(operators()), BATCH)
    loss = weighted_sum(terms, model.loss_weights)
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return [loss.detach(), *grads]


@pytest.mark.parametrize(
    'dtype', [torch.double, torch.half, torch.bfloat16, torch.long]
)
@pytest.mark.parametrize('cls', OWN_LOSSES)
def test_a_step_is_that_of_the_same_numbers_in_single_precision(cls, dtype):
    result, expected = (loss_and_gradients(cls, x) for x in (dtype, torch.float))
    assert len(expected) > 1
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    'dtype', [torch.double, torch.half, torch.bfloat16, torch.long]
)
def test_so_is_a_prompts_start(dtype):
    outs = []
    for kind in (dtype, torch.float):
        g = torch.Generator().manual_seed(1)
        start = {
            key: torch.randint(-8, 9, (num, 3), generator=g).to(kind)
            for key, num in NUM_NODES.items()
            if key in ('user', 'item')
        }
        torch.manual_seed(0)
        teacher = PromptMM(
            NUM_NODES, item_features(kind), prompt_start_dict=start, embedding_dim=4
        ).eval()
        outs.append(teacher(operators()))
    torch.testing.assert_close(*outs, atol=1e-4, rtol=1e-3)


def test_complex_numbers_are_an_error():
    with pytest.raises(TypeError, match='features must be real numbers'):
        models.VBPR(NUM_NODES, item_features(torch.cfloat), edge_type=USER_ITEM)


@pytest.mark.parametrize('dtype', [torch.float, torch.double, torch.half])
@pytest.mark.parametrize('cls', OWN_LOSSES)
def test_features_that_are_not_finite_are_an_error_before_training(cls, dtype):
    features = item_features(dtype)
    features['text']['item'][2, 1] = float('nan')
    features['text']['item'][3, 0] = float('inf')
    messages = (
        r"'modality_x_dict\['text'\]\['item'\]' requires finite .*got 2 of 35 values"
    )
    with pytest.raises(ValueError, match=messages):
        cls(NUM_NODES, features, edge_type=USER_ITEM, embedding_dim=4)


@pytest.mark.parametrize('dtype', [torch.float, torch.half])
def test_absent_rows_may_hold_anything(dtype):
    features, mask = item_features(dtype), torch.arange(NUM_NODES['item']) != 2
    features['text']['item'][2, 1] = float('nan')
    teacher = PromptMM(NUM_NODES, features, modality_mask_dict={'text': {'item': mask}})
    assert teacher(operators()).x_dict['item'].isfinite().all()
