"""What two processes do in the tests, and how they are started."""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import promptmm_pyg.training.loop as loop
from promptmm_pyg._distributed import rank_and_size
from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.distillation import (
    CandidateSampling,
    OnLists,
    OnPairs,
    OnTopK,
    distill,
    promptmm_losses,
)
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.loader import TripletNeighborLoader
from promptmm_pyg.losses import (
    ListwiseKDLoss,
    PairwiseKDLoss,
    RelaxedRankingLoss,
    info_nce_loss,
)
from promptmm_pyg.models import MatrixFactorization
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.targets import soft_targets
from promptmm_pyg.training import TrainingConfig, bpr_losses, distributed, train
from promptmm_pyg.transforms import AddBipartiteNorm
from tests.training.setting import (
    Interrupted,
    LightGCN,
    Stop,
    make_split,
    make_student,
    make_teacher,
)

WEIGHTS = {'bpr': 1.0, 'l2': 0.01}
CONFIG = TrainingConfig(
    epochs=3, learning_rate=0.02, batch_size=64, seed=3, progress=False
)


def double_split():
    """The small data set in double, so that rounding cannot hide a wrong factor."""
    data = make_split()
    graph = AddBipartiteNorm()(data.train)
    for edge_type in (INTERACTS, REV_INTERACTS):
        graph[edge_type].edge_weight = graph[edge_type].edge_weight.double()
    return data._replace(train=graph)


def described(history, **modules):
    """Everything that two runs must have in common."""
    records = [{**record, 'seconds': None} for record in history.records]
    states = {name: dict(module.state_dict()) for name, module in modules.items()}
    return {'records': records, 'best': history.best_epoch, 'states': states}


def trained(model=None, data=None, losses=None, loss_weights=WEIGHTS, **options):
    data = double_split() if data is None else data
    model = make_student(data.train, cls=LightGCN).double() if model is None else model
    history = train(
        model,
        data,
        losses=losses,
        loss_weights=loss_weights,
        config=replace(CONFIG, **options),
    )
    return described(history, model=model)


def light_gcn(_):
    return trained()


def promptmm_with_dropout(_):
    data = double_split()
    model = make_teacher(data.train, dropout=0.3, modality_dropout=0.2).double()
    return trained(model, data, loss_weights=None)


def odd_batches(_):
    """Shards that differ by one, and a last batch of one example."""
    data = double_split()
    size = data.train[INTERACTS].edge_index.size(1) - 1
    return trained(data=data, batch_size=size - size % 2)


def a_batch_of_one(_):
    data = double_split()
    return trained(data=data, batch_size=data.train[INTERACTS].edge_index.size(1) - 1)


def lazy(_):
    data = double_split()
    model = make_student(data.train).double()
    return trained(model, data, optimizer='lazy', weight_decay=0.1)


def amortized(_):
    return trained(batch_size=20, propagate_every=3)


def all_neighbors(_):
    return trained(num_neighbors=[-1, -1])


def lazy_neighbors(_):
    data = double_split()
    # The prompt's parameters are dense, the tables sparse.
    model = make_teacher(data.train, dropout=0.0).double()

    def losses(output, batch):
        values = model.losses(output, batch)
        del values['modality_l2']  # A mean over the nodes of a shard.
        return values

    options = {'num_neighbors': [-1, -1], 'optimizer': 'lazy'}
    return trained(model, data, losses, None, **options)


def distilled(data, losses, run_dir=None, resume=False, **options):
    teacher = make_teacher(data.train).double()
    student = make_student(data.train, cls=LightGCN).double()
    out = distill(
        student,
        teacher,
        data,
        losses=losses,
        candidates=CandidateSampling(
            2, num_teacher_topk=2, num_student_topk=2, refresh_every=2
        ),
        config=replace(CONFIG, batch_size=90, run_dir=run_dir, resume=resume),
        **options,
    )
    modules = {'student': student, 'baseline': out.baseline, 'teacher': teacher}
    return described(out.history, **modules), described(out.baseline_history)


def per_example():
    """Distillation losses that are means over examples."""
    return [OnPairs(PairwiseKDLoss()), OnLists(ListwiseKDLoss(), 0.5)]


def frozen(_):
    return distilled(double_split(), per_example())


def joint(_):
    return distilled(double_split(), per_example(), prompt='joint')


def make_sharded(train, cls=MatrixFactorization):
    torch.manual_seed(1)
    return cls(train.num_nodes_dict, embedding_dim=4, sharded=True).double()


def whole(history, model):
    """Like :func:`described`, with tables in place of their rows."""
    with torch.no_grad():
        return {**described(history), 'tables': model.embeddings()}


def sharded(_):
    """Sharded tables, of a model without edges and of one that propagates."""
    data, out = double_split(), {}
    config = replace(CONFIG, validate_every=1, weight_decay=0.1)
    neighbors = {'optimizer': 'lazy', 'num_neighbors': [-1, -1, -1]}
    settings = {
        MatrixFactorization: [
            {},
            {'optimizer': 'lazy'},
            {'batch_size': 20, 'propagate_every': 3},
        ],
        LightGCN: [{}, neighbors],
    }
    for cls, options in settings.items():
        for number, kwargs in enumerate(options):
            model = make_sharded(data.train, cls)
            history = train(model, data, config=replace(config, **kwargs))
            out[cls.__name__, number] = whole(history, model)
    return out


def sharded_student(_):
    data = double_split()
    student = make_sharded(data.train)
    teacher = make_teacher(data.train).double()
    config = replace(CONFIG, batch_size=90, optimizer='lazy')
    # Contrast within the batch, as in the paper, sees the examples of the shard.
    out = distill(student, teacher, data, losses=per_example(), config=config)
    return whole(out.history, student), whole(out.baseline_history, out.baseline)


def evaluation(_):
    data, out = make_split(), {}
    g = torch.Generator().manual_seed(0)
    sizes = {'user': 60, 'item': 40}
    x = {k: torch.randn(n, 3, generator=g).round() for k, n in sizes.items()}
    for size in (7, 1000):
        result = evaluate(x, data.val, ks=(3, 10), batch_size=size)
        out[size] = (result.per_user, result.users, tuple(result.ranking))
    return out


ALIKE = [
    light_gcn,
    promptmm_with_dropout,
    odd_batches,
    a_batch_of_one,
    lazy,
    amortized,
    all_neighbors,
    lazy_neighbors,
    frozen,
    joint,
    sharded,
    sharded_student,
    evaluation,
]


def papers_losses(_):
    """With projectors; the embedding loss is a mean over the nodes of a shard."""
    return distilled(double_split(), promptmm_losses())


def resumed(folder):
    """Interrupted in the second epoch of the student, and once in the baseline."""
    data, run_dir = double_split(), folder / 'run'
    for number, cut in enumerate((6, 9, None)):
        try:
            with Interrupted(10**9 if cut is None else cut):
                out = distilled(data, promptmm_losses(), run_dir, resume=number > 0)
        except KeyboardInterrupt:
            assert cut is not None
    return out


def sharded_files(folder):
    """What is saved and resumed by shards, and the errors of other calls."""
    data, run = double_split(), folder / 'sharded'
    out = {}
    for name, cut in (('uninterrupted', None), ('cut', 5), ('resumed', None)):
        model = make_sharded(data.train)
        config = replace(
            CONFIG,
            run_dir=run / name.replace('resumed', 'cut'),
            resume=name == 'resumed',
        )
        try:
            with Interrupted(10**9 if cut is None else cut):
                out[name] = whole(train(model, data, config=config), model)
        except KeyboardInterrupt:
            assert cut == 5
    for _ in range(2):  # The second replaces the first.
        model.embeddings.save_shards(run / 'tables')
    other = make_sharded(data.train).requires_grad_(False)
    other.embeddings.load_shards(run / 'tables')
    with torch.no_grad():
        own, loaded = model(), other()
    assert all(torch.equal(own[key], loaded[key]) for key in own)
    out['rows'] = {key: len(x) for key, x in model.embeddings.tables.items()}
    teacher = make_teacher(data.train).double()
    top = [OnTopK(RelaxedRankingLoss())]
    plain = {'user': 60 + rank_and_size()[0], 'item': 40}
    calls = {
        'ids': lambda: model(n_id_dict={k: torch.tensor([0, 60]) for k in own}),
        'losses': lambda: distill(model, teacher, data, losses=top),
        'start': lambda: distill(make_sharded(data.train, LightGCN), teacher, data),
        'num_nodes_dict': lambda: MatrixFactorization(plain, sharded=True),
        'memory': lambda: MatrixFactorization(
            {'user': 10**12, 'item': 1}, sharded=True
        ),
    }
    out['errors'] = {name: _raised(call) for name, call in calls.items()}
    return out


def shards_of_in_batch_losses(_):
    """The first shard that a loss sees, and its gradient in the first step."""
    data, seen = double_split(), []
    model = make_student(data.train).double()

    def losses(x_dict, batch):
        seen.append(batch)
        user, item = x_dict['user'][batch.user], x_dict['item'][batch.positive]
        return {'contrast': info_nce_loss(user, item, temperature=0.5)}

    start = {key: x.detach().clone() for key, x in model().items()}
    step, grads = torch.optim.AdamW.step, []

    def watched(self, *args):
        grads.append([p.grad.clone() for p in model.parameters()])
        return step(self, *args)

    torch.optim.AdamW.step = watched
    try:
        trained(model, data, losses, None, epochs=1, batch_size=65)
    finally:
        torch.optim.AdamW.step = step
    return tuple(seen[0]), grads[0], start


def neighborhoods_of_shards(_):
    """How many triplets each process samples neighborhoods for."""
    counts, around = [], TripletNeighborLoader.around

    def watched(self, triplets):
        counts.append(triplets.user.numel())
        return around(self, triplets)

    TripletNeighborLoader.around = watched
    try:
        trained(num_neighbors=[2, 2], epochs=1)
    finally:
        TripletNeighborLoader.around = around
    return counts


def other_start(_):
    """Every process starts elsewhere; rank 0 counts."""
    data = double_split()
    rank, _ = rank_and_size()
    return trained(make_student(data.train, seed=1 + rank, cls=LightGCN).double(), data)


def written(folder):
    """How often this process writes, and the lines in the end."""
    calls, save = [0], loop.save_state

    def counted(*args):
        calls[0] += 1
        save(*args)

    loop.save_state = counted
    try:
        trained(run_dir=folder / 'written')
    finally:
        loop.save_state = save
    return calls[0], len((folder / 'written' / 'log.jsonl').read_text().splitlines())


def stopped(folder):
    """The epochs of a training that a callback of rank 0 alone ends."""
    callbacks = () if rank_and_size()[0] else (Stop(2),)
    options = {'checkpoint_seconds': 1e6, 'callbacks': callbacks}
    return len(trained(run_dir=folder / 'stopped', **options)['records'])


def _raised(work):
    try:
        work()
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    return 'nothing'


def disagreements(folder):
    """The error of each process when they are called differently."""
    data, (rank, _) = double_split(), rank_and_size()
    targets = soft_targets(
        make_teacher(data.train).double(), normalized_adj_dict(data.train)
    )
    flipped = data.train.clone()
    flipped[INTERACTS].edge_index = flipped[INTERACTS].edge_index.flip(1)
    other = data if rank == 0 else data._replace(train=flipped)
    held_out, features = data.val.clone(), data.train.clone()
    if rank:
        held_out[INTERACTS].edge_label_index[1, 0] += 1
        features['item'].x_text = features['item'].x_text + 1
    x = {key: value * (1 + rank) for key, value in targets.x_dict.items()}
    student = make_student(data.train, width=4 + rank).double()
    calls = {
        'seed': lambda: trained(seed=rank),
        'train': lambda: trained(data=other),
        'val': lambda: trained(data=data._replace(val=held_out)),
        'features': lambda: trained(data=data._replace(train=features)),
        'weights': lambda: trained(loss_weights={'l2': 0.1 * rank}),
        'batch_size': lambda: trained(batch_size=64 + rank),
        'learning_rate': lambda: trained(learning_rate=0.1 + rank),
        'width': lambda: trained(student, data),
        'run_dir': lambda: trained(run_dir=folder / 'x' if rank == 0 else None),
        'resume': lambda: trained(run_dir=folder / 'nowhere', resume=True),
        'targets': lambda: distill(student, targets._replace(x_dict=x), data),
    }
    return {name: _raised(call) for name, call in calls.items()}


def losses_that_are_not_finite(_):
    """Only the shard of rank 1 is not finite."""

    def losses(x_dict, batch):
        values = bpr_losses(x_dict, batch)
        return {
            k: x * (torch.nan if rank_and_size()[0] else 1) for k, x in values.items()
        }

    return _raised(lambda: trained(losses=losses))


def scores_of_one_shard(_):
    """Scores of late users, which rank 1 ranks, contain a NaN."""
    g = torch.Generator().manual_seed(0)
    x = {key: torch.randn(n, 3, generator=g) for key, n in (('user', 60), ('item', 40))}
    x['user'][40:] = torch.nan
    return _raised(lambda: evaluate(x, make_split().val, ks=(10,), batch_size=7))


def sparse_averages(_):
    """Means of gradients that are sparse in other rows in each process."""
    rank, _ = rank_and_size()
    g = torch.Generator().manual_seed(0)
    parameters, own = {}, {}
    for name, rows in (
        ('rows', [0, 2, 2] if rank else [2, 3]),
        ('no rows', [] if rank else [1]),
        ('one rank', None if rank else [1]),
        ('dense', 'dense'),
    ):
        p = parameters[name] = torch.nn.Parameter(torch.zeros(4, 3).double())
        x = torch.randn(4, 3, generator=g).double() * (rank + 1)
        if rows == 'dense':
            p.grad = x
        elif rows is not None:
            index = torch.tensor(rows, dtype=torch.long)
            p.grad = torch.sparse_coo_tensor(index[None], x[index], x.shape)
        own[name] = torch.zeros(4, 3) if p.grad is None else p.grad.to_dense().clone()
    distributed.average_sparse_gradients(parameters.values())
    return own, {name: p.grad for name, p in parameters.items()}


def group_of_the_caller(_):
    """Whether an existing group stays."""
    os.environ['RANK'] = str(dist.get_rank())
    try:
        with distributed.process_group() as device:
            pass
    finally:
        del os.environ['RANK']
    return device.type, dist.is_initialized()


APART = [
    papers_losses,
    resumed,
    sharded_files,
    shards_of_in_batch_losses,
    neighborhoods_of_shards,
    sparse_averages,
    group_of_the_caller,
    other_start,
    written,
    stopped,
    disagreements,
    losses_that_are_not_finite,
    scores_of_one_shard,
]


def one_dies(_):
    """Rank 1 raises in its second step; the error of each."""
    steps = [0]

    def losses(x_dict, batch):
        steps[0] += 1
        if rank_and_size()[0] == 1 and steps[0] == 2:
            raise ArithmeticError('rank 1 gives up')
        return bpr_losses(x_dict, batch)

    return _raised(lambda: trained(losses=losses))


def run(functions, folder):
    return {function.__name__: function(folder) for function in functions}


def spawn(functions, folder, size=2):
    """The results of ``functions`` at every rank of a new group, by gloo and a file,
    without a port.
    """
    folder.mkdir()
    arguments = (functions, folder, size)
    mp.start_processes(_worker, arguments, size, start_method='forkserver')
    return [torch.load(folder / f'{r}.pt', weights_only=False) for r in range(size)]


def _worker(rank, functions, folder, size):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=(Path(folder) / 'store').as_uri(),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    torch.save(run(functions, Path(folder)), folder / f'{rank}.pt')
    dist.destroy_process_group()
