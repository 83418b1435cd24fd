"""Frequencies against dense matrices, and the losses of papers."""

import pytest
import torch
from torch_geometric.data import HeteroData

from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.distillation import (
    OnEmbeddings,
    OnFrequencies,
    OnLists,
    distill,
    fdrec_losses,
    tarec_losses,
)
from promptmm_pyg.losses import InfoNCELoss, ListwiseKDLoss, ScaledCosineLoss
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.targets import SoftTargets, TeacherOutput
from promptmm_pyg.training import TrainingConfig
from tests.distillation.test_adapters import BATCH, LISTS, tables
from tests.training.setting import LightGCN, make_split, make_student, make_teacher

EDGES = torch.tensor(
    [[0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 2, 0, 2, 3]]
)  # Without user 3, item 4.


@pytest.fixture
def train():
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 4, 5
    data[INTERACTS].edge_index, data[REV_INTERACTS].edge_index = EDGES, EDGES.flip(0)
    return data


def bands(x_dict, num_hops=1):
    """The low and the high frequencies, dense."""
    adj = torch.zeros(4, 5)
    adj[EDGES[0], EDGES[1]] = 1
    scale = adj.sum(1, keepdim=True) * adj.sum(0)
    adj = adj / scale.clamp_min(1).sqrt()
    graphs = {'user': adj @ adj.t(), 'item': adj.t() @ adj}
    low = {k: g.matrix_power(num_hops) @ x_dict[k] for k, g in graphs.items()}
    return low, {key: x_dict[key] - low[key] for key in low}


def make_targets():
    return SoftTargets(tables(6, 1), {'text': tables(6, 2)})


@pytest.mark.parametrize('num_hops', [1, 3])
@pytest.mark.parametrize('band', ['low', 'high'])
def test_a_band_equals_dense_filters(train, band, num_hops):
    adapter = OnFrequencies(OnLists(ListwiseKDLoss()), band, num_hops)
    adapter.setup(make_targets(), 3, train)
    x_dict = tables(3, 0)
    expected = bands(x_dict, num_hops)[band == 'high']
    torch.testing.assert_close(adapter.filter(x_dict), expected)
    zero = torch.zeros(3)
    isolated = x_dict['user'][3] if band == 'high' else zero
    torch.testing.assert_close(adapter.filter(x_dict)['user'][3], isolated)


@pytest.mark.parametrize('band', ['low', 'high'])
@pytest.mark.parametrize('output', [None, TeacherOutput])
def test_an_adapter_on_a_band_is_the_adapter_on_filtered_embeddings(
    train, band, output
):
    student = {key: x.requires_grad_() for key, x in tables(3, 0).items()}
    targets = make_targets()
    inner = OnEmbeddings(ScaledCosineLoss(), 0.5)
    adapter = OnFrequencies(inner, band)
    adapter.setup(targets, 3, train)
    index = band == 'high'
    if output is not None:  # The output of another step, as in the joint stage.
        targets = TeacherOutput(tables(6, 7), {'text': tables(6, 8)})
    filtered = targets._replace(
        x_dict=bands(targets.x_dict)[index],
        modality_x_dict={'text': bands(targets.modality_x_dict['text'])[index]},
    )
    expected = inner.compute(bands(student)[index], filtered, BATCH, LISTS)
    out = adapter(student, targets, BATCH, LISTS)
    torch.testing.assert_close(out, {f'{band}_embedding': expected})
    grads = [
        torch.autograd.grad(x, list(student.values()))
        for x in (*out.values(), expected)
    ]
    torch.testing.assert_close(*grads)
    assert adapter.weight == 0.5
    assert len(list(adapter.parameters())) == 2  # The projection of each view.


def test_a_band_requires_a_graph_and_known_options(train):
    inner = OnLists(ListwiseKDLoss())
    for options, message in (
        (('middle',), "'band' must be one of"),
        (('low', 0), "'num_hops' must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            OnFrequencies(inner, *options)
    with pytest.raises(ValueError, match="'train' must be the graph"):
        OnFrequencies(inner, 'low').setup(make_targets(), 3)
    lacking = make_targets()._replace(
        modality_x_dict={'text': {'item': tables(6, 2)['item']}}
    )
    with pytest.raises(ValueError, match="'teacher' must have vectors of users"):
        OnFrequencies(inner, 'low').setup(lacking, 3, train)


def test_options_reach_the_losses():
    lists, rows = tarec_losses(
        wasserstein_weight=2.0,
        contrastive_weight=3.0,
        distribution='probabilities',
        temperature=4.0,
        contrastive_temperature=5.0,
        views='all',
        node_types=['item'],
    )
    assert (lists.weight, lists.loss.distribution) == (2.0, 'probabilities')
    assert (rows.weight, rows.loss.temperature) == (3.0, 5.0)
    assert (lists.loss.temperature, lists.views, rows.views) == (4.0, 'all', 'all')
    assert rows.node_types == ['item']
    low, high, lists = fdrec_losses(
        low_weight=2.0, high_weight=3.0, wasserstein_weight=4.0, num_hops=5
    )
    assert [x.weight for x in (low, high, lists)] == [2.0, 3.0, 4.0]
    assert [(x.band, x.num_hops) for x in (low, high)] == [('low', 5), ('high', 5)]
    assert isinstance(high.loss.loss, InfoNCELoss)


@pytest.mark.parametrize(
    ('make', 'names'),
    [
        (tarec_losses, ['contrastive']),
        (fdrec_losses, ['low_embedding', 'high_embedding']),
    ],
)
def test_a_student_is_distilled_from_an_assistant(make, names):
    data = make_split()
    config = TrainingConfig(epochs=2, progress=False, learning_rate=0.01)
    teacher, assistant = (
        make_teacher(data.train),
        make_student(data.train, 8, cls=LightGCN),
    )
    options = {'config': config, 'baseline': False}
    result = distill(assistant, teacher, data, losses=make(), **options)
    students = [make_student(data.train) for _ in range(2)]
    targets = SoftTargets(get_embeddings(assistant, data.train), {})
    for student, source in zip(students, (assistant, targets), strict=True):
        result = distill(student, source, data, losses=make(), **options)
    torch.testing.assert_close(students[0](), students[1]())
    first, second = (record['losses'] for record in result.history.records)
    assert list(first) == ['bpr', 'l2', *(loss.name for loss in make())]
    assert all(second[name] < first[name] for name in names)
