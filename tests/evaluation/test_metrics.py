import math

import pytest
import torch
from sklearn.metrics import ndcg_score
from torch_geometric.data import HeteroData
from torch_geometric.metrics import LinkPredRecall
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_precision,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.evaluation.metrics import METRICS, metrics_per_user
from promptmm_pyg.models import EASE, LightGCN
from promptmm_pyg.models.inference import normalized_adj_dict

U, I = 12, 20  # noqa: E741
KS = (1, 5, 20)


def make_graph(seen, held_out):
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = seen.size()
    data[INTERACTS].edge_index = seen.nonzero().t()
    data[INTERACTS].edge_label_index = held_out.nonzero().t()
    return data


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    kind = torch.rand(U, I, generator=generator)
    seen, held_out = kind < 0.3, kind > 0.8
    held_out[3] = False  # Nothing to find.
    seen[4] = False  # No history.
    held_out[5] = ~seen[5]  # Everything that can be recommended is right.
    seen[6], held_out[6] = True, False
    seen[6, 7] = False
    held_out[6, 7] = True  # A list of one, mostly padding.
    x_dict = {
        'user': torch.randn(U, 4, generator=generator),
        'item': torch.randn(I, 4, generator=generator),
    }
    scores = x_dict['user'] @ x_dict['item'].t()
    assert (scores < 0).float().mean() > 0.3
    return seen, held_out, x_dict, scores


def textbook(order, relevant, k):
    """The definitions, in a loop over the ranks."""
    hits = [item in relevant for item in order[:k]]
    dcg = sum(1 / math.log2(j + 2) for j, hit in enumerate(hits) if hit)
    ideal = sum(1 / math.log2(j + 2) for j in range(min(len(relevant), k)))
    precisions = [sum(hits[: j + 1]) / (j + 1) for j, hit in enumerate(hits) if hit]
    return {
        'Recall': sum(hits) / len(relevant),
        'NDCG': dcg / ideal,
        'Precision': sum(hits) / k,
        'HitRatio': float(any(hits)),
        'MRR': 1 / (hits.index(True) + 1) if any(hits) else 0.0,
        'MAP': sum(precisions) / min(len(relevant), k),
    }


def test_metrics_equal_the_textbook_user_by_user(problem):
    seen, held_out, x_dict, scores = problem
    out = evaluate(x_dict, make_graph(seen, held_out), ks=KS, batch_size=5)
    users = [user for user in range(U) if held_out[user].any()]
    assert out.users.tolist() == users
    assert 3 not in users
    for row, user in enumerate(users):
        order = [i for i in scores[user].argsort(descending=True) if not seen[user, i]]
        order = [int(item) for item in order]
        relevant = set(held_out[user].nonzero().view(-1).tolist())
        for k in KS:
            for name, value in textbook(order, relevant, k).items():
                got = float(out.per_user[f'{name}@{k}'][row])
                assert got == pytest.approx(value, abs=1e-6), (user, name, k)


def test_averages_are_means_over_the_users_with_positives(problem):
    seen, held_out, x_dict, _ = problem
    out = evaluate(x_dict, make_graph(seen, held_out), ks=KS)
    assert set(out.metrics) == {f'{name}@{k}' for name in METRICS for k in KS}
    for key, values in out.per_user.items():
        assert values.size() == (U - 1,)
        assert out.metrics[key] == pytest.approx(sum(values.tolist()) / (U - 1))


def test_ndcg_equals_scikit_learn(problem):
    seen, held_out, x_dict, scores = problem
    out = evaluate(x_dict, make_graph(seen, held_out), ks=KS)
    # Below every other score, but a number: scikit-learn refuses infinities.
    masked = scores.masked_fill(seen, -1e3)[out.users]
    for k in KS:
        for row, user in enumerate(out.users):
            expected = ndcg_score(
                held_out[user].float().view(1, -1), masked[row].view(1, -1), k=k
            )
            assert float(out.per_user[f'NDCG@{k}'][row]) == pytest.approx(expected)


def test_other_metrics_equal_torchmetrics(problem):
    seen, held_out, x_dict, scores = problem
    out = evaluate(x_dict, make_graph(seen, held_out), ks=KS)
    # torchmetrics ignores items with a score of zero or less.
    shifted = (scores - scores.min() + 1).masked_fill(seen, 0.0)
    oracles = {
        'Recall': retrieval_recall,
        'Precision': retrieval_precision,
        'HitRatio': retrieval_hit_rate,
        'MRR': retrieval_reciprocal_rank,
    }
    for k in KS:
        for name, oracle in oracles.items():
            expected = [oracle(shifted[u], held_out[u], top_k=k) for u in out.users]
            got = out.per_user[f'{name}@{k}']
            torch.testing.assert_close(got, torch.stack(expected).float())


def test_shifting_all_scores_changes_nothing(problem):
    seen, held_out, x_dict, scores = problem
    data = make_graph(seen, held_out)
    expected = evaluate(x_dict, data, ks=KS).per_user
    for shift in (-100.0, 100.0):
        shifted = scores.double() + shift
        got = evaluate(shifted.__getitem__, data, ks=KS).per_user
        for key, value in expected.items():
            torch.testing.assert_close(got[key], value)


def test_padding_is_never_the_last_item_of_the_row_before():
    # Row 1 is all padding; -1 in it is the flat number of (row 0, last item).
    item_index = torch.tensor([[0, 1], [-1, -1]])
    row, item = torch.tensor([0, 1]), torch.tensor([2, 0])
    unguarded = LinkPredRecall(k=2)
    unguarded.update(item_index, torch.stack([row, item]))
    assert float(unguarded.compute()) > 0  # The trap is still there.
    per_user = metrics_per_user(item_index, row, item, num_items=3, ks=(1, 2))
    for key, value in per_user.items():
        assert value.tolist() == [0.0, 0.0], key


def test_a_user_who_has_seen_everything_finds_nothing():
    seen = torch.tensor([[False, False, False], [True, True, True]])
    held_out = torch.tensor([[False, False, True], [True, False, False]])
    x_dict = {'user': torch.ones(2, 1), 'item': -torch.ones(3, 1)}
    out = evaluate(x_dict, make_graph(seen, held_out), ks=(3,))
    assert out.per_user['Recall@3'].tolist() == [1.0, 0.0]
    assert out.ranking.item_index.tolist() == [[0, 1, 2], [-1, -1, -1]]


@pytest.mark.parametrize('name', METRICS)
def test_means_of_the_per_user_values_are_what_pyg_reports(problem, name):
    # Pins the private method that hands out values user by user.
    seen, held_out, x_dict, _ = problem
    held_out[6] = False  # No padding below: PyG's own update does not guard it.
    out = evaluate(x_dict, make_graph(seen, held_out), ks=(5,))
    metric = METRICS[name](k=5)
    row = torch.arange(out.users.numel())
    index = held_out[out.users].nonzero().t()
    assert out.ranking.item_index.size() == (row.numel(), 5)
    assert out.ranking.item_index.min() >= 0
    metric.update(out.ranking.item_index, index)
    assert out.metrics[f'{name}@5'] == pytest.approx(float(metric.compute()))


def test_extra_seen_items_are_left_out_too():
    seen = torch.tensor([[True, False, False, False]])
    held_out = torch.tensor([[False, False, False, True]])
    data = make_graph(seen, held_out)
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    first = evaluate(scores.__getitem__, data, ks=(1, 2))
    assert first.ranking.item_index.tolist() == [[1, 2]]
    extra = torch.tensor([[0], [1]])
    out = evaluate(scores.__getitem__, data, ks=(1, 2), extra_seen_edge_index=extra)
    assert out.ranking.item_index.tolist() == [[2, 3]]
    assert out.metrics['Recall@2'] == 1.0


def test_only_candidates_are_ranked():
    none = torch.zeros(1, 3, dtype=torch.bool)
    data = make_graph(none, torch.tensor([[False, False, True]]))
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    candidates = torch.tensor([False, True, True])
    out = evaluate(scores.__getitem__, data, ks=(2,), candidates=candidates)
    assert out.ranking.item_index.tolist() == [[1, 2]]


def test_repeated_positives_count_once():
    data = make_graph(torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 3).bool())
    data[INTERACTS].edge_label_index = torch.tensor([[0, 0, 0], [1, 1, 2]])
    out = evaluate(torch.tensor([[0.0, 1.0, -1.0]]).__getitem__, data, ks=(1,))
    assert out.metrics['Recall@1'] == 0.5


def test_labels_of_zero_are_no_positives():
    data = make_graph(torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3).bool())
    data[INTERACTS].edge_label_index = torch.tensor([[0, 0, 1], [1, 2, 0]])
    data[INTERACTS].edge_label = torch.tensor([1.0, 0.0, 0.0])
    out = evaluate(torch.zeros(2, 3).__getitem__, data, ks=(3,))
    assert out.users.tolist() == [0]
    assert out.metrics['Precision@3'] == pytest.approx(1 / 3)


def test_cutoffs_may_come_in_any_order(problem):
    seen, held_out, x_dict, _ = problem
    out = evaluate(x_dict, make_graph(seen, held_out), ks=(20, 5, 5))
    assert out.ks == (5, 20)
    assert out.ranking.item_index.size(1) == 20


def test_summary_holds_every_number(problem):
    seen, held_out, x_dict, _ = problem
    out = evaluate(x_dict, make_graph(seen, held_out), ks=(5, 20))
    lines = out.summary().splitlines()
    assert lines[0] == f'{U - 1} users x {I} items'
    assert lines[1].split() == ['@5', '@20']
    assert [line.split()[0] for line in lines[2:]] == list(METRICS)
    row = dict(line.split(maxsplit=1) for line in lines[2:])
    expected = [f'{out.metrics[f"NDCG@{k}"]:.4f}' for k in (5, 20)]
    assert row['NDCG'].split() == expected


def test_errors(problem):
    seen, held_out, x_dict, _ = problem
    data = make_graph(seen, held_out)
    with pytest.raises(ValueError, match=r"'ks'.* 20 \(got 50\).*ks=\(10, 20\)"):
        evaluate(x_dict, data)
    with pytest.raises(ValueError, match=r"'ks' must be positive \(got 0\)"):
        evaluate(x_dict, data, ks=(0, 5))
    with pytest.raises(ValueError, match="'ks' must be positive"):
        evaluate(x_dict, data, ks=())
    with pytest.raises(ValueError, match=r"'model' must have 20 embeddings of 'item'"):
        evaluate({'user': x_dict['user']}, data, ks=KS)
    short = {**x_dict, 'user': x_dict['user'][1:]}
    with pytest.raises(ValueError, match=r"12 embeddings of 'user'.*\[11, 4\]"):
        evaluate(short, data, ks=KS)
    with pytest.raises(ValueError, match='positives to find'):
        evaluate(x_dict, make_graph(seen, held_out & False), ks=KS)
    del data[INTERACTS].edge_label_index
    with pytest.raises(ValueError, match=r"'edge_label_index'.*\['edge_index'\]"):
        evaluate(x_dict, data, ks=KS)


def test_a_bound_on_memory_leaves_the_metrics_alone(problem):
    seen, held_out, x_dict, _ = problem
    data = make_graph(seen, held_out)
    expected = evaluate(x_dict, data, ks=KS)
    bounded = evaluate(x_dict, data, ks=KS, memory_limit='32KiB')
    assert torch.equal(bounded.ranking.item_index, expected.ranking.item_index)
    assert bounded.metrics == expected.metrics


def test_a_memory_limit_that_is_too_small_is_an_error(problem):
    seen, held_out, x_dict, scores = problem
    data = make_graph(seen, held_out)
    with pytest.raises(ValueError, match=r"'memory_limit' must be at least \d+ bytes"):
        evaluate(x_dict, data, ks=KS, memory_limit='1KiB')
    with pytest.raises(ValueError, match="require embeddings as 'score'"):
        evaluate(scores.__getitem__, data, ks=KS, memory_limit='1GiB')


def test_models_are_evaluated_by_their_embeddings_or_scores():
    split = split_per_user(make_synthetic_dataset(60, 40, 4, seed=0))
    model = LightGCN.from_data(split, embedding_dim=8)
    x_dict = model(normalized_adj_dict(split.train))
    expected = evaluate(
        {key: x.detach() for key, x in x_dict.items()}, split.val, ks=(20,)
    )
    assert evaluate(model, split.val, ks=(20,)).metrics == expected.metrics
    assert str(expected) == expected.summary()
    ease = EASE.from_data(split).fit(split.train[INTERACTS].edge_index)
    ours = evaluate(ease, split.val, ks=(20,))
    assert ours.metrics == evaluate(ease.scores, split.val, ks=(20,)).metrics
