import torch

from promptmm_pyg.models import PromptMM
from tests.models.setting import (
    make_features,
)
from tests.nn.graphs import (
    NUM_NODES,
    edges,
    weights,
)


def make(cls):
    torch.manual_seed(0)
    return cls(NUM_NODES, make_features(), embedding_dim=4, self_loop_weight=0.5).eval()


def test_a_gate_of_zero_is_the_same_as_no_content():
    gate = torch.ones(7)
    gate[3] = 0.0
    teacher = make(PromptMM)
    out = teacher(edges(), weights(), gate_dict={'text__item': gate})
    mask = {'text': {'item': gate.bool()}}
    torch.manual_seed(0)
    without = PromptMM(
        NUM_NODES,
        make_features(),
        embedding_dim=4,
        self_loop_weight=0.5,
        modality_mask_dict=mask,
    ).eval()
    torch.testing.assert_close(out, without(edges(), weights()))
    # A gate is used in one forward only.
    plain = make(PromptMM)(edges(), weights())
    torch.testing.assert_close(teacher(edges(), weights()), plain, rtol=0, atol=0)


def test_gates_of_a_part_are_those_of_its_nodes():
    gate_dict = {'text__item': torch.arange(7.0)}
    teacher = make(PromptMM)
    full = teacher(edges(), weights(), gate_dict=gate_dict).x_dict
    # All nodes, items the other way round.
    n_id_dict = {'user': torch.arange(5), 'item': torch.arange(7).flip(0)}
    turned = {
        (src, name, dst): torch.stack(
            [6 - x if key == 'item' else x for key, x in ((src, a), (dst, b))]
        )
        for (src, name, dst), (a, b) in edges().items()
    }
    part = teacher(turned, weights(), n_id_dict, gate_dict).x_dict
    torch.testing.assert_close(part['item'].flip(0), full['item'])
    torch.testing.assert_close(part['user'], full['user'])
