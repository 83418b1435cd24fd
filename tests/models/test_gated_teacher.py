import pytest
import torch
import torch.nn.functional as F

from promptmm_pyg.models import _gated_teacher
from promptmm_pyg.models._gated_teacher import GatedTeacher, content_trust
from promptmm_pyg.nn import CSRPair, PromptMMTeacher
from tests.models.setting import NUM_NODES, edges, make_features, weights
from tests.nn.graphs import EDGE_INDEX, features


def operator(index=EDGE_INDEX, weight=None, size=(5, 7)):
    return CSRPair.from_edge_index(index, weight, size=size)


def naive_trust(x, A, num_rounds=2):
    """Item by item; A is the dense user-item matrix."""
    trust = torch.ones(len(x))
    for _ in range(num_rounds):
        found = {}
        for i in range(len(x)):
            others = torch.zeros(x.size(1))
            for j in range(len(x)):
                if j != i:
                    share = (A[:, i] * A[:, j]).sum()
                    others += share * trust[j] * F.normalize(x[j], dim=0)
            if others.abs().sum() > 0 and x[i].abs().sum() > 0:
                cosine = F.cosine_similarity(x[i], others, dim=0)
                found[i] = cosine.clamp(min=0)
        rest = sum(found.values()) / len(found) if found else torch.tensor(1.0)
        trust = torch.stack([found.get(i, rest) for i in range(len(x))])
    return trust


@pytest.mark.parametrize('num_rounds', [1, 2, 3])
@pytest.mark.parametrize('seed', [0, 1])
def test_trust_agrees_with_a_loop(num_rounds, seed):
    g = torch.Generator().manual_seed(seed)
    index = (torch.rand(5, 7, generator=g) < 0.5).nonzero().t()
    weight = torch.rand(index.size(1), generator=g)
    A = torch.zeros(5, 7)
    A[index[0], index[1]] = weight
    x = features(3, seed=seed) + torch.tensor([2.0, 0.0, 0.0])
    trust = content_trust(x, operator(index, weight), num_rounds)
    torch.testing.assert_close(trust, naive_trust(x, A, num_rounds))
    assert trust.unique().numel() > 3


def test_trust_of_three_items_by_hand():
    # One user took all three; the first two look alike, the third is their contrary.
    adj = operator(torch.tensor([[0, 0, 0], [0, 1, 2]]), size=(1, 3))
    x = torch.tensor([[3.0, 0.0], [5.0, 0.0], [-1.0, 0.0]])
    # First round: the first sees one of each kind and has nothing to compare with.
    torch.testing.assert_close(content_trust(x, adj, 1), torch.zeros(3))
    x = torch.tensor([[3.0, 0.0], [5.0, 0.0], [0.0, 2.0]])
    half = 0.5**0.5
    torch.testing.assert_close(content_trust(x, adj, 1), torch.tensor([half, half, 0]))
    torch.testing.assert_close(content_trust(x, adj, 2), torch.tensor([1.0, 1.0, 0]))


def test_items_without_anything_to_compare_get_the_mean_of_the_others():
    x = features(9, seed=3)
    x[5] = 0.0  # No content; items 2, 4 and 6 have no users.
    trust = content_trust(x, operator())
    # Item 1 shares its only user with item 5, which has nothing to show.
    mean = trust[[0, 3]].mean()
    torch.testing.assert_close(trust[[1, 2, 4, 5, 6]], mean.expand(5))


def test_an_item_that_is_alone_is_no_evidence_also_after_rounding():
    index = torch.tensor([[0, 1, 2, 2], [0, 0, 1, 2]])
    x = features(300, seed=4, num=3)
    weight = torch.tensor([0.3, 0.7, 0.1, 0.1])
    trust = content_trust(x, operator(index, weight, (3, 3)), 1)
    torch.testing.assert_close(trust[0], trust[1:].mean())


def test_without_any_evidence_all_is_trusted():
    nothing = torch.empty(2, 0, dtype=torch.long)
    for adj in (operator(nothing), operator(torch.tensor([[0], [3]]))):
        assert torch.equal(content_trust(features(9), adj), torch.ones(7))


def test_blocks_of_channels_make_no_difference(monkeypatch):
    x = features(9, seed=1)
    expected = content_trust(x, operator())
    monkeypatch.setattr(_gated_teacher, '_CHANNELS', 4)
    torch.testing.assert_close(content_trust(x, operator()), expected)


def make(cls):
    torch.manual_seed(0)
    return cls(NUM_NODES, make_features(), embedding_dim=4, self_weight=0.5).eval()


def test_without_gates_it_is_the_teacher_bit_for_bit():
    expected = make(PromptMMTeacher)(edges(), weights())
    out = make(GatedTeacher)(edges(), weights())
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_a_gate_of_zero_is_the_same_as_no_content():
    gate = torch.ones(7)
    gate[3] = 0.0
    teacher = make(GatedTeacher)
    out = teacher(edges(), weights(), gate_dict={'text__item': gate})
    mask = {'text': {'item': gate.bool()}}
    torch.manual_seed(0)
    without = PromptMMTeacher(
        NUM_NODES,
        make_features(),
        embedding_dim=4,
        self_weight=0.5,
        modality_mask_dict=mask,
    ).eval()
    torch.testing.assert_close(out, without(edges(), weights()))
    # A gate holds for one forward.
    plain = make(PromptMMTeacher)(edges(), weights())
    torch.testing.assert_close(teacher(edges(), weights()), plain, rtol=0, atol=0)


def test_gates_are_gone_after_an_error():
    teacher = make(GatedTeacher)
    with pytest.raises(RuntimeError):
        teacher(edges(), weights(), gate_dict={'text__item': torch.ones(3)})
    plain = make(PromptMMTeacher)(edges(), weights())
    torch.testing.assert_close(teacher(edges(), weights()), plain, rtol=0, atol=0)


def test_gates_of_a_part_are_those_of_its_nodes():
    gate_dict = {'text__item': torch.arange(7.0)}
    teacher = make(GatedTeacher).eval()
    whole = teacher(edges(), weights(), gate_dict=gate_dict).x_dict
    # All nodes, items the other way round.
    n_id_dict = {'user': torch.arange(5), 'item': torch.arange(7).flip(0)}
    turned = {
        (src, name, dst): torch.stack(
            [6 - x if key == 'item' else x for key, x in ((src, a), (dst, b))]
        )
        for (src, name, dst), (a, b) in edges().items()
    }
    part = teacher(turned, weights(), n_id_dict, gate_dict).x_dict
    torch.testing.assert_close(part['item'].flip(0), whole['item'])
    torch.testing.assert_close(part['user'], whole['user'])
