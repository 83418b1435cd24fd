from contextlib import nullcontext

import pytest
import torch

import promptmm_pyg.training.loop as loop
from promptmm_pyg.data import modality_x_dict, num_nodes_dict
from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import TripletNeighborLoader, triplets_of
from promptmm_pyg.models import PromptMM
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.nn.embeddings import sparse_gradients
from promptmm_pyg.training import (
    TEACHER_WEIGHTS,
    Schedule,
    bpr_terms,
    promptmm_terms,
    train_minibatch,
    train_teacher,
)
from promptmm_pyg.transforms import AddBipartiteNorm
from tests.training.setting import (
    QUICK,
    LightGCN,
    make_split,
    make_student,
    make_teacher,
)

BPR = {'terms': bpr_terms, 'weights': {'bpr': 1.0, 'l2': 0.1}}


def assert_same_state(a, b):
    torch.testing.assert_close(dict(a.state_dict()), dict(b.state_dict()))


def states_differ(a, b):
    return any(
        not torch.equal(x, y)
        for x, y in zip(a.parameters(), b.parameters(), strict=True)
    )


def test_a_student_with_all_neighbors_takes_the_steps_of_the_whole_graph():
    train, val, _ = make_split()
    whole = make_student(train, cls=LightGCN).double()
    part = make_student(train, cls=LightGCN).double()
    options = {'learning_rate': 0.05, 'batch_size': 50, 'schedule': QUICK, **BPR}
    a = train_teacher(whole, train, val, **options)
    b = train_minibatch(part, train, val, num_neighbors=[-1, -1], **options)
    assert_same_state(part, whole)
    assert states_differ(part, make_student(train, cls=LightGCN).double())
    assert a.best_value == b.best_value


def test_a_teacher_with_all_neighbors_takes_the_steps_of_the_whole_graph():
    train, val, _ = make_split()
    # A mean over all nodes is another one over those of a batch.
    weights = {**TEACHER_WEIGHTS, 'modality_l2': 0.0}
    options = {'batch_size': 50, 'schedule': QUICK, 'weights': weights}
    teachers = [make_teacher(train, dropout=0.0).double() for _ in range(2)]
    train_teacher(teachers[0], train, val, **options)
    train_minibatch(teachers[1], train, val, num_neighbors=[-1, -1], **options)
    assert_same_state(teachers[1], teachers[0])


def test_a_few_neighbors_teach_what_the_planted_data_hold():
    train, val, _ = make_split(200, 100)
    teacher = make_teacher(train)
    before = evaluate(
        get_embeddings(teacher, (normalized_adj_dict(train),)), val, ks=(10,)
    )
    train_minibatch(
        teacher,
        train,
        val,
        num_neighbors=[3, 3],
        learning_rate=0.01,
        batch_size=512,
        schedule=Schedule(epochs=20, monitor='Recall@10', progress=False),
    )
    after = evaluate(
        get_embeddings(teacher, (normalized_adj_dict(train),)), val, ks=(10,)
    )
    assert after.metrics['Recall@10'] > before.metrics['Recall@10'] + 0.1


def run(train, val, **kwargs):
    model = make_student(train, cls=LightGCN)
    options = {'num_neighbors': [2, 2], 'schedule': QUICK, **BPR, **kwargs}
    history = train_minibatch(model, train, val, **options)
    return model, history


def test_the_best_value_is_that_of_the_whole_graph():
    train, val, _ = make_split()
    model, history = run(train, val, block_size=7)
    x_dict = get_embeddings(model, (normalized_adj_dict(train),))
    assert history.best_value == evaluate(x_dict, val, ks=(20,)).metrics['Recall@20']


def test_a_model_without_inference_is_validated_by_its_forward():
    class Plain(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args, **kwargs):
            return self.inner(*args, **kwargs)

    train, val, _ = make_split()
    expected, history = run(train, val)
    model = Plain(make_student(train, cls=LightGCN))
    other = train_minibatch(
        model, train, val, num_neighbors=[2, 2], schedule=QUICK, **BPR
    )
    assert other.best_value == history.best_value
    assert_same_state(model.inner, expected)


@pytest.mark.parametrize(
    'other', [{'seed': 1}, {'rescale': False}, {'drop_targets': True}]
)
def test_same_options_same_model_and_others_another(other):
    train, val, _ = make_split()
    a, b, c = (run(train, val, **kwargs)[0] for kwargs in ({}, {}, other))
    assert not states_differ(a, b)
    assert states_differ(a, c)


def test_terms_see_the_nodes_of_the_triplets_alone():
    train, val, _ = make_split()
    seen = []

    def terms(output, batch):
        views = [output.x_dict, output.prompt_dict, *output.modality_x_dict.values()]
        items = torch.cat([batch.positive, batch.negative])
        for view in views:
            assert view['user'].size(0) == int(batch.user.max()) + 1
            assert view['item'].size(0) == int(items.max()) + 1
        seen.append(len(views))
        return promptmm_terms(output, batch)

    train_minibatch(
        make_teacher(train),
        train,
        val,
        num_neighbors=[2, 2],
        terms=terms,
        batch_size=16,
        schedule=QUICK._replace(epochs=1),
    )
    assert seen[0] >= 3


def test_a_lazy_step_is_the_dense_one_where_rows_are_touched():
    train, val, _ = make_split()
    models = {}
    for kind in ('dense', 'lazy'):
        # One step, where the two agree in every row.
        schedule = QUICK._replace(epochs=1)
        models[kind], _ = run(train, val, optimizer=kind, schedule=schedule)
        assert not models[kind].embeddings.sparse_grad
    assert_same_state(models['lazy'], models['dense'])
    assert states_differ(models['lazy'], make_student(train, cls=LightGCN))


def is_dense(x):
    return isinstance(x, torch.Tensor) and x.layout == torch.strided


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """The longest axis of any tensor that is made."""

    def __init__(self):
        super().__init__()
        self.longest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {x.data_ptr() for x in args if is_dense(x)}
        # Views and results in place are no new memory.
        if is_dense(out) and out.data_ptr() not in known:
            self.longest = max([self.longest, *out.shape])
        return out


def test_no_step_makes_what_is_as_long_as_the_graph():
    train, _, _ = make_split(700, 500)
    train = AddBipartiteNorm()(train)
    teacher = make_teacher(train)
    loader = TripletNeighborLoader(train, [2, 2], batch_size=3)
    triplets = next(iter(loader.triplets))

    def longest(context):
        with Watch() as watch, context:
            batch = loader.around(triplets)
            n_id = batch.collect('n_id')
            weights = batch.collect('edge_weight')
            output = teacher(batch.edge_index_dict, weights, n_id)
            sum(promptmm_terms(output, triplets_of(batch)).values()).backward()
        return watch.longest

    assert longest(sparse_gradients(teacher)) < 250
    assert teacher.embeddings.tables['item'].grad.is_sparse
    teacher.zero_grad()
    assert longest(nullcontext()) == 700  # The gradient of a table.


def test_features_in_half_precision_are_read_where_they_are():
    train, val, _ = make_split()
    x_dict = modality_x_dict(train)
    half = {name: {k: x.half() for k, x in by.items()} for name, by in x_dict.items()}
    exact = {name: {k: x.float() for k, x in by.items()} for name, by in half.items()}
    states = []
    for features in (half, exact):
        torch.manual_seed(0)
        teacher = PromptMM(num_nodes_dict(train), features, embedding_dim=8)
        train_minibatch(teacher, train, val, num_neighbors=[2, 2], schedule=QUICK)
        states.append(dict(teacher.state_dict()))
    torch.testing.assert_close(*states)


def test_resumed_run_equals_the_uninterrupted_one_bitwise(tmp_path, monkeypatch):
    train, val, _ = make_split()

    def train_in(folder, resume=False):
        schedule = Schedule(
            epochs=4,
            patience=9,
            run_dir=tmp_path / folder,
            resume=resume,
            progress=False,
        )
        teacher = make_teacher(train)
        history = train_minibatch(
            teacher, train, val, num_neighbors=[2, 2], batch_size=64, schedule=schedule
        )
        return teacher, history

    straight, expected = train_in('a')
    calls, step = [0], loop.train_step

    def interrupted(*args):
        calls[0] += 1
        if calls[0] > 10:
            raise KeyboardInterrupt
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, 'train_step', interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_in('b')
    torch.manual_seed(12345)
    resumed, history = train_in('b', resume=True)
    assert not states_differ(straight, resumed)
    for a, b in zip(expected.records, history.records, strict=True):
        assert {**a, 'seconds': 0} == {**b, 'seconds': 0}


def test_the_given_graph_is_left_as_it_is():
    train, val, _ = make_split()
    keys = {key: set(train[key].keys()) for key in (INTERACTS, REV_INTERACTS)}
    run(train, val)
    for key, before in keys.items():
        assert set(train[key].keys()) == before


def test_errors():
    train, val, _ = make_split()
    with pytest.raises(ValueError, match=r"at least 2 hops.*'LightGCN' has \(got 1\)"):
        run(train, val, num_neighbors=[5])
    with pytest.raises(ValueError, match=r"'monitor' must be"):
        run(train, val, schedule=QUICK._replace(monitor='AUC'))
    with pytest.raises(ValueError, match="'block_size' must be positive"):
        run(train, val, block_size=0)
    with pytest.raises(ValueError, match="'optimizer' must be one of"):
        run(train, val, optimizer='sgd')
    with pytest.raises(
        ValueError, match="'terms' and 'weights' requires the same names"
    ):
        run(train, val, weights={'bpr': 1.0})
    one_way = train.clone()
    del one_way[REV_INTERACTS]
    with pytest.raises(ValueError, match="'data' requires message edges of"):
        run(one_way, val)
    with pytest.raises(
        ValueError, match=r"'model' requires a forward of.*'Linear': too"
    ):
        train_minibatch(torch.nn.Linear(2, 2), train, val)

    class Bare(torch.nn.Linear):
        def forward(self, edge_index_dict, edge_weight_dict, n_id_dict):
            """Never called."""

    with pytest.raises(ValueError, match=r"'model' requires 'NodeEmbeddings'.*'Bare'"):
        train_minibatch(Bare(2, 2), train, val, optimizer='lazy')
    assert num_nodes_dict(one_way) == num_nodes_dict(train)


def test_negatives_are_drawn_among_the_items_given():
    train, val, _ = make_split()
    items, drawn = torch.arange(0, 40, 3), set()

    def terms(x_dict, batch):
        drawn.update(batch.negative.tolist())
        return bpr_terms(x_dict, batch)

    train_minibatch(
        make_student(train),
        train,
        val,
        num_neighbors=[3, 3],
        terms=terms,
        weights={'bpr': 1.0, 'l2': 0.1},
        negative_items=items,
        schedule=QUICK,
    )
    assert drawn == set(items.tolist())
