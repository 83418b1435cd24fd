from dataclasses import replace

import pytest
import torch

from benchmarks.studies import cold as cold_study
from benchmarks.studies import corruption
from benchmarks.studies.cold import ColdBench
from benchmarks.studies.distillation import LOSSES
from promptmm_pyg.benchmark.entries import Arm
from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_per_user
from promptmm_pyg.transforms import StandardizeModalities
from tests.benchmark.setting import tiny_dataset

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
MODALITIES = ('text', 'image', 'audio')


def make_graph():
    return make_synthetic_dataset(50, 40, 4, seed=0)


def edges(data, name):
    return set(map(tuple, data['user', 'interacts', 'item'][name].t().tolist()))


def test_masked_items_have_no_modality_and_others_are_unchanged():
    data = make_graph()
    out = corruption.mask_content(data, 0.4, seed=1)
    masked = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:16]
    rest = torch.ones(40, dtype=torch.bool).index_fill(0, masked, False)
    for key in (f'{kind}_{name}' for kind in ('x', 'mask') for name in MODALITIES):
        assert not out['item'][key][masked].any()
        assert torch.equal(out['item'][key][rest], data['item'][key][rest])


@pytest.mark.parametrize('pattern', ['items', 'modalities'])
def test_a_larger_share_contains_a_smaller_one(pattern):
    few, many = (
        corruption.mask_content(make_graph(), share, 1, pattern)['item']
        for share in (0.3, 0.6)
    )
    for name in MODALITIES:
        assert not (many[f'mask_{name}'] & ~few[f'mask_{name}']).any()
        assert many[f'mask_{name}'].sum() < few[f'mask_{name}'].sum()
        assert not many[f'x_{name}'][~many[f'mask_{name}']].any()
    masks = torch.stack([~many[f'mask_{name}'] for name in MODALITIES])
    given = torch.stack([make_graph()['item'][f'mask_{n}'] for n in MODALITIES])
    hidden = masks & given
    alike = bool((hidden[:, given.all(0)] == hidden[:1, given.all(0)]).all())
    assert alike == (pattern == 'items')


def test_the_missing_ratio_counts_pairs_of_item_and_modality():
    data = make_graph()
    present = sum(int(data['item'][f'mask_{name}'].sum()) for name in MODALITIES)
    assert corruption.missing_ratio(data) == pytest.approx(1 - present / 120)
    assert corruption.missing_ratio(corruption.mask_content(data, 1.0, 0)) == 1


def test_swapped_content_is_that_of_other_items():
    data = make_graph()
    out = corruption.swap_content(data, 0.4, seed=1)
    noisy = torch.zeros(40, dtype=torch.bool)
    donor_lists = []
    for name in MODALITIES:
        old, new = data['item'][f'x_{name}'], out['item'][f'x_{name}']
        noisy |= (old != new).any(dim=1)
        donors = (old == new[:, None]).all(dim=-1)  # Per item, who has its content.
        assert donors.any(dim=1).all()
        present = data['item'][f'mask_{name}']
        swapped = (old != new).any(dim=1)
        assert not donors.diagonal()[swapped].any()
        first = donors.float().argmax(dim=1)
        assert torch.equal(out['item'][f'mask_{name}'], present[first])
        donor_lists.append(first[present])
    assert noisy.sum() == 16
    assert not torch.equal(*donor_lists[:2])  # Drawn separately per modality.


@pytest.mark.parametrize('corrupt', [corruption.swap_content, corruption.mask_content])
def test_the_given_graph_and_the_interactions_are_unchanged(corrupt):
    data = make_graph()
    del data['item'].mask_text
    data['user'].x_age = torch.randn(50, 2)
    before = data.clone()
    out, again, other = (corrupt(data, 0.4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(data['item'].x_text, before['item'].x_text)
    assert edges(out, 'edge_index') == edges(data, 'edge_index')
    assert torch.equal(out['user'].x_age, data['user'].x_age)
    assert torch.equal(out['item'].x_text, again['item'].x_text)
    assert not torch.equal(out['item'].x_text, other['item'].x_text)
    none = corrupt(data, 0.0, seed=1)
    assert torch.equal(none['item'].x_text, data['item'].x_text)


def test_errors_of_corruption():
    for corrupt in (corruption.swap_content, corruption.mask_content):
        with pytest.raises(ValueError, match=r"'share' must be in \[0, 1\] \(got 1.5"):
            corrupt(make_graph(), 1.5, 0)
    with pytest.raises(ValueError, match="'pattern' must be one of"):
        corruption.mask_content(make_graph(), 0.5, 0, 'rows')
    with pytest.raises(ValueError, match=r"'data' requires at least two items \(got 1"):
        corruption.swap_content(make_synthetic_dataset(5, 1, 1), 0.4, seed=0)


def test_the_prompt_starts_from_imputed_features():
    data = corruption.mask_content(split_per_user(make_graph()).train, 0.9, 1)
    hidden = ~data['item'].mask_text
    out = corruption.prepare_imputed(data, 4)
    assert not [key for key in out['item'] if key.startswith('mask_')]
    start = out['item'].prompt_start
    assert start.size() == (40, 4)
    assert start[hidden].unique(dim=0).size(0) > 5


def test_a_split_by_cold_items_has_every_interaction_once():
    data = make_synthetic_dataset(60, 55, seed=0)
    merged = cold_study.merge_split(split_per_user(data))
    assert edges(merged, 'edge_index') == edges(data, 'edge_index')
    reverse = merged['item', 'rev_interacts', 'user'].edge_index
    index = merged['user', 'interacts', 'item'].edge_index
    assert torch.equal(reverse, index.flip(0))
    outer, inner = cold_study.cold_split(merged)
    parts = [edges(inner.train, 'edge_index')]
    labelled = (inner.val, outer.val, outer.test)
    parts += [edges(part, 'edge_label_index') for part in labelled]
    assert set.union(*parts) == edges(data, 'edge_index')
    assert sum(map(len, parts)) == len(edges(data, 'edge_index'))
    train, stop, val, test = ({item for _, item in part} for part in parts)
    assert val
    assert test
    assert not val & test
    assert not (train | stop) & (val | test)


def test_cold_items_are_predicted_from_features_alone():
    outer, inner = cold_study.cold_split(make_synthetic_dataset(60, 55, seed=0))
    cold = [cold_study.positive_items(part) for part in (outer.val, outer.test)]
    warm = ~torch.stack(cold).any(dim=0)
    torch.manual_seed(0)
    x_dict = {'user': torch.randn(60, 4), 'item': torch.randn(55, 4)}
    out = cold_study.predict_cold_items(x_dict, inner.train, warm)
    assert torch.equal(out[warm], x_dict['item'][warm])
    assert (out[~warm] != x_dict['item'][~warm]).any(dim=1).all()
    x_dict['item'][~warm] = 7.0  # Former values have no effect.
    again = cold_study.predict_cold_items(x_dict, inner.train, warm)
    torch.testing.assert_close(again, out)


def test_cold_items_are_not_trained(tmp_path):
    graph = make_synthetic_dataset(60, 55, seed=0)
    bench = ColdBench(tiny_dataset(), graph, (0,), work=tmp_path)
    params, training = {'embedding_dim': 4}, {'epochs': 1, 'batch_size': 128}
    arm = Arm('MatrixFactorization', params, training)
    teacher = bench.teacher(Arm('PromptMM', {'embedding_dim': 8}, training))
    student = replace(arm, losses=LOSSES['PairwiseKDLoss'], teacher=teacher)
    cold = bench.degree == 0
    assert cold.any()
    for each in (arm, student):
        item_x = bench.outcome(each, {}, 0)['x_dict']['item']
        assert not item_x[cold].any()
        assert item_x[~cold].any(dim=1).all()
        assert bench.x_dict(each, {}, 0)['item'][cold].any()  # Predicted.


def test_rescaled_columns_keep_their_direction():
    before = StandardizeModalities()(make_graph())
    after = corruption.rescale_columns(make_graph(), seed=3)
    x, y = before['item'].x_image, after['item'].x_image
    factors = (y / x)[0]
    assert y.allclose(x * factors)
    assert ((factors >= 0.1) & (factors <= 10)).all()
    assert factors.max() > 2 * factors.min()


def test_noise_columns_are_added_beside_the_features():
    data = make_graph()
    x = corruption.add_noise_columns(data, num=50)['item'].x_image
    assert x[:, :-50].equal(data['item'].x_image.float())
    assert abs(float(x[:, -50:].std()) - 1) < 0.1


def test_dropped_interactions_are_a_subset_with_their_attributes():
    data = make_graph()
    before = data[INTERACTS].edge_index
    data[INTERACTS].time = torch.arange(before.size(1))
    out = corruption.drop_interactions(data, 0.7)[INTERACTS]
    assert out.edge_index.size(1) == before.size(1) - round(0.7 * before.size(1))
    assert out.edge_index.equal(before[:, out.time])


def test_a_start_from_interactions_spans_their_singular_vectors():
    data = corruption.add_interaction_start(make_graph(), 3)
    user, item = data[INTERACTS].edge_index
    dense = torch.zeros(data['user'].num_nodes, data['item'].num_nodes)
    dense[user, item] = 1
    dense /= (dense.sum(1, keepdim=True) * dense.sum(0)).clamp_min(1).sqrt()
    _, values, right = torch.linalg.svd(dense)
    expected = right[:3].t() * values[:3]
    expected /= expected.square().mean().sqrt()
    gram = data['item'].prompt_start
    assert (gram @ gram.t()).allclose(expected @ expected.t(), atol=1e-3)
