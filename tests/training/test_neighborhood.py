"""``train`` with ``num_neighbors``."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from promptmm_pyg.data import modality_x_dict
from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.functional import sparse_gradients
from promptmm_pyg.loader import TripletNeighborLoader, triplets_of
from promptmm_pyg.models import MODELS, PromptMM
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.training import bpr_losses, choose_neighbors, neighborhood, train
from promptmm_pyg.transforms import AddBipartiteNorm
from tests.training.setting import (
    QUICK,
    LightGCN,
    Watch,
    make_split,
    make_student,
    make_teacher,
)

WEIGHTS = {'bpr': 1.0, 'l2': 0.1}
FEW = replace(QUICK, num_neighbors=[2, 2])


def assert_same_state(a, b):
    torch.testing.assert_close(dict(a.state_dict()), dict(b.state_dict()))


def states_differ(a, b):
    return any(
        not torch.equal(x, y)
        for x, y in zip(a.parameters(), b.parameters(), strict=True)
    )


def test_with_all_neighbors_a_student_equals_training_on_the_whole_graph():
    data = make_split()
    config = replace(QUICK, learning_rate=0.05, batch_size=50)
    full, part = (make_student(data.train, cls=LightGCN).double() for _ in range(2))
    a = train(full, data, config=config, loss_weights=WEIGHTS)
    config = replace(config, num_neighbors=[-1, -1])
    b = train(part, data, config=config, loss_weights=WEIGHTS)
    assert_same_state(part, full)
    assert states_differ(part, make_student(data.train, cls=LightGCN).double())
    assert a.best_value == b.best_value


def test_with_all_neighbors_a_teacher_equals_training_on_the_whole_graph():
    data = make_split()
    # `modality_l2`, a mean over all nodes, becomes one over those of the batch.
    weights = {'modality_l2': 0.0}
    teachers = [make_teacher(data.train, dropout=0.0).double() for _ in range(2)]
    for teacher, num_neighbors in zip(teachers, (None, [-1, -1]), strict=True):
        config = replace(QUICK, batch_size=50, num_neighbors=num_neighbors)
        train(teacher, data, config=config, loss_weights=weights)
    assert_same_state(*teachers)


def run(data, losses=None, **options):
    model = make_student(data.train, cls=LightGCN)
    config = replace(FEW, **options)
    return model, train(model, data, config=config, losses=losses, loss_weights=WEIGHTS)


def test_validation_is_that_of_the_whole_graph():
    data = make_split()
    model, history = run(data, block_size=7)
    x_dict = get_embeddings(model, (normalized_adj_dict(data.train),))
    metrics = evaluate(x_dict, data.val, ks=(20,)).metrics
    assert history.best_value == metrics['Recall@20']


def test_a_model_without_inference_is_validated_by_its_forward():
    class Plain(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args, **kwargs):
            return self.inner(*args, **kwargs)

    data = make_split()
    expected, history = run(data, bpr_losses)
    model = Plain(make_student(data.train, cls=LightGCN))
    other = train(model, data, config=FEW, loss_weights=WEIGHTS)
    assert other.best_value == history.best_value
    assert_same_state(model.inner, expected)


@pytest.mark.parametrize(
    'other', [{'seed': 1}, {'rescale': False}, {'drop_targets': True}]
)
def test_same_options_same_model_and_others_another(other):
    data = make_split()
    a, b, c = (run(data, **options)[0] for options in ({}, {}, other))
    assert not states_differ(a, b)
    assert states_differ(a, c)


def test_losses_see_only_the_nodes_of_the_triplets():
    data, seen = make_split(), []
    teacher = make_teacher(data.train)

    def losses(output, batch):
        views = [output.x_dict, output.prompt_dict, *output.modality_x_dict.values()]
        items = torch.cat([batch.positive, batch.negative])
        for view in views:
            assert view['user'].size(0) == int(batch.user.max()) + 1
            assert view['item'].size(0) == int(items.max()) + 1
        seen.append(len(views))
        return teacher.losses(output, batch)

    config = replace(FEW, batch_size=16, epochs=1)
    train(teacher, data, losses=losses, config=config)
    assert seen[0] >= 3


def test_negatives_are_drawn_from_the_items_given(monkeypatch):
    items, drawn, data = torch.arange(0, 40, 3), set(), make_split()
    around = TripletNeighborLoader.around

    def watched(self, triplets):
        drawn.update(triplets.negative.tolist())
        return around(self, triplets)

    monkeypatch.setattr(TripletNeighborLoader, 'around', watched)
    train(make_student(data.train), data, negative_items=items, config=FEW)
    assert drawn == set(items.tolist())


def test_a_lazy_step_is_the_dense_one_where_rows_are_touched():
    data, models = make_split(), {}
    for kind in ('dense', 'lazy'):
        # One step, where the two agree in every row.
        models[kind], _ = run(data, optimizer=kind, epochs=1)
    assert_same_state(models['lazy'], models['dense'])
    assert states_differ(models['lazy'], make_student(data.train, cls=LightGCN))


def test_no_step_allocates_what_is_as_long_as_the_graph():
    train_graph = AddBipartiteNorm()(make_split(700, 500).train)
    teacher = make_teacher(train_graph)
    loader = TripletNeighborLoader(train_graph, [2, 2], batch_size=3)
    triplets = next(iter(loader.triplets))

    def longest(context):
        watch = Watch(*teacher.parameters(), *teacher.buffers())
        with watch, context:
            batch = loader.around(triplets)
            weights, n_id = batch.collect('edge_weight'), batch.collect('n_id')
            output = teacher(batch.edge_index_dict, weights, n_id)
            losses = teacher.losses(output, triplets_of(batch))
            sum(losses.values()).backward()
        return watch.longest

    tables = teacher.embeddings.tables
    assert longest(sparse_gradients(tables.values())) < 250
    assert tables['item'].grad.is_sparse
    teacher.zero_grad()
    assert longest(nullcontext()) == 700  # The gradient of a table.


def test_features_in_half_precision_are_not_copied():
    data = make_split()
    x_dict = modality_x_dict(data.train)
    half = {name: {k: x.half() for k, x in by.items()} for name, by in x_dict.items()}
    exact = {name: {k: x.float() for k, x in by.items()} for name, by in half.items()}
    states = []
    for features in (half, exact):
        torch.manual_seed(0)
        teacher = PromptMM(data.train.num_nodes_dict, features, embedding_dim=8)
        train(teacher, data, config=FEW)
        states.append(dict(teacher.state_dict()))
    torch.testing.assert_close(*states)


def test_the_given_graph_is_not_changed():
    data = make_split()
    keys = {key: set(data.train[key].keys()) for key in (INTERACTS, REV_INTERACTS)}
    run(data)
    for key, before in keys.items():
        assert set(data.train[key].keys()) == before


def test_errors():
    data = make_split()
    with pytest.raises(ValueError, match=r"at least 2 hops.*'LightGCN' has \(got 1\)"):
        run(data, num_neighbors=[5])
    one_way = data.train.clone()
    del one_way[REV_INTERACTS]
    with pytest.raises(ValueError, match="'data' must have message edges of"):
        run(data._replace(train=one_way))
    with pytest.raises(ValueError, match=r"'model' must have a forward.*'Linear': too"):
        train(torch.nn.Linear(2, 2), data, config=FEW)

    class Bare(torch.nn.Linear):
        def forward(self, edge_index_dict, edge_weight_dict, n_id_dict):
            """Never called."""

    lazy = replace(FEW, optimizer='lazy')
    with pytest.raises(ValueError, match=r"'model' must have 'NodeEmbeddings'.*'Bare'"):
        train(Bare(2, 2), data, config=lazy, losses=bpr_losses)


def test_the_whole_graph_is_left_where_it_does_not_fit_into_memory(monkeypatch):
    data = make_split()
    model = make_student(data.train, cls=LightGCN)
    edges = data.train[INTERACTS].edge_index.size(1)
    size = sum(4 * x.numel() for x in model.parameters())
    needed = 250 * edges + 24 * size
    states = []
    for total, num_neighbors, expected in (
        (2 * needed, 'auto', None),
        (needed, 'auto', [10, 10]),  # Training may use 60 %.
        (needed, None, None),
        (2 * needed, [10, 10], [10, 10]),
    ):
        monkeypatch.setattr(neighborhood, 'total_memory', lambda total=total: total)
        config = replace(QUICK, num_neighbors=num_neighbors)
        model = make_student(data.train, cls=LightGCN)
        if num_neighbors == 'auto':
            choice = choose_neighbors(model, data.train)
            assert choice == (expected, needed, int(0.6 * total), True)
        if expected is not None and num_neighbors != 'auto':
            config = replace(config, optimizer='lazy')  # As the choice does.
        train(model, data, config=config, loss_weights=WEIGHTS)
        states.append(model)
    assert_same_state(states[0], states[2])
    assert_same_state(states[1], states[3])
    assert states_differ(states[0], states[1])


def test_a_model_of_one_table_or_of_another_forward_stays_on_the_whole_graph(
    monkeypatch,
):
    monkeypatch.setattr(neighborhood, 'total_memory', lambda: 1)
    data = make_split()
    for name in ('MatrixFactorization', 'NGCF'):
        model = MODELS[name].from_data(data, embedding_dim=4)
        choice = choose_neighbors(model, data.train)
        assert choice.num_neighbors is None
        assert not choice.supported
