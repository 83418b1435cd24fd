"""The same numbers on every device; GPU tests are skipped where there is none."""

from dataclasses import replace

import pytest
import torch

from promptmm_pyg import (
    LightGCN,
    MatrixFactorization,
    PromptMM,
    distill,
    evaluate,
    models,
    training,
)
from promptmm_pyg.data import (
    INTERACTS,
    Split,
    make_synthetic_dataset,
    modality_x_dict,
    split_per_user,
)
from promptmm_pyg.distillation import (
    CandidateSampling,
    ensemble_targets,
    fit_ensemble_weights,
)
from promptmm_pyg.loader import Triplets
from promptmm_pyg.losses import bpr_loss, weighted_sum
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.nn import CSRPair
from promptmm_pyg.ranking import ApproximateItems, SeenItems, rank_items
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.training import TrainingConfig
from promptmm_pyg.transforms import AddModalityPCA, StandardizeModalities
from tests.models.setting import CONTENT

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')

CUDA = pytest.param(
    'cuda',
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='requires a GPU'),
)
on_every_device = pytest.mark.parametrize('device', ['cpu', CUDA])
QUICK = TrainingConfig(epochs=2, progress=False)
LONGER = replace(QUICK, epochs=5)


@pytest.fixture(scope='module')
def split():
    train, val, test = split_per_user(make_synthetic_dataset(60, 50, 6, seed=0))
    return AddModalityPCA(4)(StandardizeModalities()(train)), val, test


def make_teacher(train):
    torch.manual_seed(0)
    start = {key: train[key].prompt_start for key in ('user', 'item')}
    return PromptMM(
        train.num_nodes_dict,
        modality_x_dict(train),
        prompt_start_dict=start,
        embedding_dim=8,
        dropout=0,
    )


def outcome(model, train):
    """Outputs and gradients of one loss, on the CPU."""
    out = model(normalized_adj_dict(train))
    x_dict = getattr(out, 'x_dict', out)
    user, item = x_dict['user'], x_dict['item']
    scores = user[:20] @ item.t()
    bpr_loss(scores[:, 0], scores[:, 1]).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads
    return [x.detach().cpu() for x in (user, item, *grads)]


@on_every_device
@pytest.mark.parametrize('dtype', [torch.float, torch.double])
def test_operators(device, dtype):
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(9, (2, 30), generator=generator).unique(dim=1)
    weight = torch.rand(edge_index.size(1), generator=generator)
    pair = CSRPair.from_edge_index(edge_index, weight, size=(9, 9))
    x = torch.randn(9, 5, generator=generator, dtype=dtype)
    outs = []
    for where in ('cpu', device):
        here = x.to(where, copy=True).requires_grad_()
        adj = pair.to(where)
        out = adj @ here
        out.square().sum().backward()
        there = torch.ones_like(out)
        outs.append([out.cpu(), here.grad.cpu(), adj.add_product_(there, here).cpu()])
    torch.testing.assert_close(*outs)


@on_every_device
def test_models_and_their_gradients(device, split):
    train = split[0]
    for make in (
        make_teacher,
        lambda train: LightGCN(train.num_nodes_dict, embedding_dim=8, num_layers=3),
    ):
        outs = []
        for where in ('cpu', device):
            torch.manual_seed(0)
            outs.append(outcome(make(train).to(where), train.clone().to(where)))
        torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-4)


@on_every_device
def test_rankings_with_ties(device):
    generator = torch.Generator().manual_seed(0)
    # Few values, so that most scores are equal.
    user_x, item_x = (
        torch.randint(-1, 2, (n, 2), generator=generator).float() for n in (40, 70)
    )
    edge_index = torch.stack([torch.arange(40), torch.arange(40)])
    seen = SeenItems.from_edge_index(edge_index, 40, 70)
    users = torch.arange(40)
    lists = [
        rank_items((user_x.to(where), item_x.to(where)), users, 10, seen=seen)
        for where in ('cpu', device)
    ]
    assert torch.equal(lists[0].item_index, lists[1].item_index.cpu())


IDS = [models.NGCF]


def make_model(cls, train):
    torch.manual_seed(0)
    return cls(train.num_nodes_dict, modality_x_dict(train), embedding_dim=8)


def make_batch(device):
    generator = torch.Generator().manual_seed(0)
    ends = (torch.randint(n, (32,), generator=generator) for n in (60, 50, 50))
    return Triplets(*(x.to(device) for x in ends))


DRAWN = {'contrast'}  # On other random numbers on every device.


@on_every_device
@pytest.mark.parametrize('cls', IDS + CONTENT)
def test_losses_of_the_models_of_the_field(cls, device, split):
    train = split[0]
    outs = []
    for where in ('cpu', device):
        # In eval mode, as every device draws other numbers.
        model = make_model(cls, train).to(where).eval()
        output = model(normalized_adj_dict(train.clone().to(where)))
        torch.manual_seed(0)
        terms = model.losses(output, make_batch(where))
        if cls is models.PGL:
            terms = {name: x for name, x in terms.items() if name not in DRAWN}
        weighted_sum(
            terms, {name: model.loss_weights[name] for name in terms}
        ).backward()
        grads = {
            name: p.grad.cpu()
            for name, p in model.named_parameters()
            if p.grad is not None
        }
        assert grads
        outs.append([{name: x.detach().cpu() for name, x in terms.items()}, grads])
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-3)


def learns(model, train, val, **how):
    config = replace(LONGER, learning_rate=0.02, batch_size=64, **how)
    history = training.train(model, Split(train, val, val), config=config)
    return history.records[-1]['loss'] < history.records[0]['loss']


@on_every_device
@pytest.mark.parametrize('cls', IDS + CONTENT)
def test_models_of_the_field_are_trained(cls, device, split):
    train, val, _ = split
    there = train.clone().to(device)
    model = make_model(cls, there).to(device)
    assert learns(model, there, val)


@on_every_device
def test_options_of_the_teacher(device, split):
    train, val, _ = split
    there = train.clone().to(device)
    start = {key: there[key].prompt_start for key in ('user', 'item')}
    model = models.PromptMMPlus(
        there.num_nodes_dict,
        modality_x_dict(there),
        edge_type=INTERACTS,
        prompt_start_dict=start,
        embedding_dim=8,
        denoise=True,
        edge_dropout=0.2,
        item_graph_weight=0.1,
        alignment_weight=0.1,
    ).to(device)
    assert learns(model, there, val, propagate_every=2)


@on_every_device
@pytest.mark.parametrize('cls', [models.EASE, models.ItemKNN, models.GraphFilter])
def test_scores_in_closed_form(cls, device, split):
    train = split[0]
    outs = []
    for where in ('cpu', device):
        here = train.clone().to(where)
        more = (modality_x_dict(here),) if cls is models.GraphFilter else ()
        model = cls(here.num_nodes_dict, *more)
        model.fit(here[INTERACTS].edge_index)
        x_dict = model.as_output(width=50).x_dict
        products = x_dict['user'] @ x_dict['item'].t()
        outs.append([model.scores(torch.arange(60, device=where)).cpu()])
        torch.testing.assert_close(
            products.cpu(), outs[-1][0], atol=1e-3, rtol=1e-3, msg=where
        )
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-4)


@on_every_device
def test_approximate_rankings(device):
    pytest.importorskip('faiss')
    generator = torch.Generator().manual_seed(0)
    user_x, item_x = (
        torch.randn(n, 8, generator=generator).to(device) for n in (40, 500)
    )
    ranker = ApproximateItems(item_x, num_lists=10, nprobe=8)
    found = ranker.rank_items(user_x, torch.arange(40), k=20)
    exact = rank_items((user_x, item_x), torch.arange(40), 20)
    hit = (found.item_index[:, :, None] == exact.item_index[:, None]).any(-1)
    assert float(hit.float().mean()) > 0.8


@on_every_device
def test_a_teacher_and_its_student_are_trained(device, split):
    train, val, test = split
    there = train.clone().to(device)
    teacher = make_teacher(there).to(device)
    training.train(
        teacher, Split(there, val, val), config=replace(QUICK, batch_size=64)
    )
    out = distill(
        LightGCN(train.num_nodes_dict, embedding_dim=4).to(device),
        teacher,
        Split(there, val, val),
        candidates=CandidateSampling(
            num_uniform=4, num_teacher_topk=2, num_student_topk=2
        ),
        config=replace(QUICK, batch_size=64),
    )
    x_dict = out.student(normalized_adj_dict(there))
    assert all(x.device.type == device for x in x_dict.values())
    found = [
        evaluate({k: x.detach().to(where) for k, x in x_dict.items()}, test).metrics
        for where in ('cpu', device)
    ]
    assert found[0] == pytest.approx(found[1], abs=0.02)


@on_every_device
@pytest.mark.parametrize(
    'options', [{'prompt': 'joint'}, {'baseline': False}, {'optimizer': 'lazy'}]
)
def test_other_ways_to_distill(device, options, split):
    train, val, _ = split
    there = train.clone().to(device)
    teacher = make_teacher(there).to(device)
    optimizer = options.get('optimizer', 'dense')
    options = {k: x for k, x in options.items() if k != 'optimizer'}
    out = distill(
        MatrixFactorization(train.num_nodes_dict, embedding_dim=4).to(device),
        teacher,
        Split(there, val, val),
        config=replace(QUICK, batch_size=64, optimizer=optimizer),
        **options,
    )
    assert out.history.records[-1]['loss'] < out.history.records[0]['loss']


@on_every_device
def test_an_interrupted_student_goes_on(device, split, tmp_path):
    train, val, _ = split
    there = train.clone().to(device)
    teacher = make_teacher(there).to(device)
    losses = []
    for name, lengths in (('whole', [4]), ('parts', [2, 4])):
        for epochs in lengths:
            torch.manual_seed(0)
            out = distill(
                LightGCN(train.num_nodes_dict, embedding_dim=4).to(device),
                teacher,
                Split(there, val, val),
                candidates=CandidateSampling(num_uniform=4, num_student_topk=2),
                config=replace(
                    QUICK,
                    epochs=epochs,
                    run_dir=tmp_path / name,
                    resume=epochs != lengths[0],
                    batch_size=64,
                ),
            )
        losses.append([record['loss'] for record in out.history.records])
    # On a GPU, sums come in any order.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@on_every_device
def test_training_on_neighborhoods_with_the_graph_in_main_memory(device, split):
    train, val, _ = split
    teacher = make_teacher(train).to(device)
    neighbors = [4] * teacher.num_hops
    assert learns(teacher, train, val, num_neighbors=neighbors)


@on_every_device
def test_several_teachers(device, split):
    train, val, _ = split
    there = train.clone().to(device)
    sizes = there.num_nodes_dict
    edges = there[INTERACTS].edge_index
    fits = {
        cls.__name__: cls(sizes, edge_type=INTERACTS)
        for cls in (models.EASE, models.ItemKNN)
    }
    targets = {
        name: SoftTargets.from_output(model.fit(edges).as_output(width=16))
        for name, model in fits.items()
    }
    found = []
    for where in ('cpu', device):
        here = {name: target.to(where) for name, target in targets.items()}
        weights = fit_ensemble_weights(here, there, val)
        mixed = ensemble_targets(here, weights, there, top_k=10)
        found.append(evaluate(mixed.x_dict, val).metrics)
        assert mixed.top.item_index.device.type == where
    assert found[0] == pytest.approx(found[1], abs=0.02)
