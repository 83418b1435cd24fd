"""What several processes are asked to do in tests, and how they are started."""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import promptmm_pyg.training.loop as loop
from promptmm_pyg._distributed import Share
from promptmm_pyg.data.schema import INTERACTS, REV_INTERACTS
from promptmm_pyg.distillation import (
    CandidateSampling,
    DistillationObjective,
    JoinedTerms,
    ListTerm,
    PairTerm,
    RankingTerm,
    RowTerm,
    distill,
)
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.losses import (
    ListwiseKDLoss,
    PairwiseKDLoss,
    RankingDistillationLoss,
    SimilarityKDLoss,
    UnitMSELoss,
    info_nce_loss,
)
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.targets import soft_targets, topk_targets
from promptmm_pyg.training import Schedule, bpr_terms, distributed, train_teacher
from promptmm_pyg.transforms import AddBipartiteNorm
from tests.training.setting import (
    LightGCN,
    make_split,
    make_student,
    make_teacher,
)

WEIGHTS = {'bpr': 1.0, 'l2': 0.01}
SHORT = Schedule(epochs=3, patience=9, progress=False)


def split():
    """The small data set in double, so that rounding cannot hide a wrong weight."""
    train, val, _ = make_split()
    train = AddBipartiteNorm()(train)
    for edge_type in (INTERACTS, REV_INTERACTS):
        train[edge_type].edge_weight = train[edge_type].edge_weight.double()
    return train, val


def described(history, **modules):
    """Everything that two runs have to have in common."""
    records = [{**record, 'seconds': None} for record in history.records]
    states = {name: dict(module.state_dict()) for name, module in modules.items()}
    return {'records': records, 'best': history.best_epoch, 'states': states}


def _teacher(train, val, model, **kwargs):
    options = {'learning_rate': 0.02, 'batch_size': 64, 'seed': 3, 'schedule': SHORT}
    history = train_teacher(model, train, val, **{**options, **kwargs})
    return described(history, model=model)


def light_gcn(_):
    train, val = split()
    model = make_student(train, cls=LightGCN).double()
    return _teacher(train, val, model, terms=bpr_terms, weights=WEIGHTS)


def float32(_):
    train, val, _ = make_split()
    model = make_student(train, cls=LightGCN)
    return _teacher(train, val, model, terms=bpr_terms, weights=WEIGHTS)


def promptmm_with_dropout(_):
    train, val = split()
    model = make_teacher(train, dropout=0.3, modality_dropout=0.2).double()
    return _teacher(train, val, model)


def last_batch_of_one(_):
    train, val = split()
    model = make_student(train, cls=LightGCN).double()
    size = train[INTERACTS].edge_index.size(1) - 1
    return _teacher(
        train, val, model, terms=bpr_terms, weights=WEIGHTS, batch_size=size
    )


def lazy(_):
    train, val = split()
    return _teacher(
        train,
        val,
        make_student(train).double(),
        terms=bpr_terms,
        weights=WEIGHTS,
        optimizer='lazy',
        weight_decay=0.1,
    )


def amortized(_):
    train, val = split()
    model = make_student(train, cls=LightGCN).double()
    return _teacher(
        train,
        val,
        model,
        terms=bpr_terms,
        weights=WEIGHTS,
        batch_size=20,
        propagate_every=3,
    )


def contrastive_terms(x_dict, batch):
    """Examples of a batch meet, and there is a draw as long as the batch."""
    user, item = x_dict['user'][batch.user], x_dict['item'][batch.positive]
    kept = torch.rand(user.size(0), 1) < 0.7
    return {'contrast': info_nce_loss(user * kept, item, temperature=0.5)}


def in_batch_loss(_):
    train, val = split()
    model = make_student(train, cls=LightGCN).double()
    return _teacher(
        train, val, model, terms=contrastive_terms, weights={'contrast': 1.0}
    )


def _distill(train, val, run_dir=None, resume=False, seed=5, **kwargs):
    teacher = make_teacher(train).double()
    student = make_student(train, cls=LightGCN).double()
    out = distill(
        student,
        teacher,
        train,
        val,
        candidates=CandidateSampling(
            2, num_teacher_topk=2, num_student_topk=2, refresh_every=2
        ),
        learning_rate=0.02,
        batch_size=90,
        seed=seed,
        schedule=SHORT._replace(run_dir=run_dir, resume=resume),
        **kwargs,
    )
    both = described(out.history, student=student, control=out.control, teacher=teacher)
    control = described(out.control_history)
    return {'student': both, 'control': control, 'copied': out.copied}


def _lifted(train):
    """An objective with parameters of its own, in the precision of the rest."""
    torch.manual_seed(0)
    teacher = make_teacher(train).double()
    targets = soft_targets(teacher, normalized_adj_dict(train))
    return DistillationObjective(targets, 4).double()


def frozen(_):
    train, val = split()
    return _distill(train, val, objective=_lifted(train))


def joint(_):
    train, val = split()
    return _distill(train, val, objective=_lifted(train), prompt='joint')


def joined(_):
    train, val = split()
    targets = soft_targets(make_teacher(train).double(), normalized_adj_dict(train))
    top = topk_targets(targets, train, 5)
    names = ('pairwise', 'listwise', 'embedding', 'similarity', 'ranking')
    objective = JoinedTerms(
        PairTerm(PairwiseKDLoss()),
        ListTerm(ListwiseKDLoss()),
        RowTerm(UnitMSELoss(), project=(4, 8)),
        RowTerm(SimilarityKDLoss(), max_rows=20, name='similarity'),
        RankingTerm(RankingDistillationLoss(), top, num_sampled=4),
    ).double()
    weights = {**WEIGHTS, **dict.fromkeys(names, 0.5)}
    return _distill(train, val, objective=objective, weights=weights)


def resumed(folder):
    """Interrupted in the second epoch of the student, and once in the control."""
    train, val = split()
    step, calls = loop.train_step, [0]

    def interrupted(*args):
        calls[0] += 1
        if calls[0] in (6, 14):
            raise KeyboardInterrupt
        return step(*args)

    loop.train_step = interrupted
    try:
        for resume in (False, True, True):
            try:
                out = _distill(
                    train, val, folder / 'run', resume, objective=_lifted(train)
                )
            except KeyboardInterrupt:
                out = None
    finally:
        loop.train_step = step
    assert out is not None
    assert calls[0] > 14
    return out


def tables(ties=True):
    g = torch.Generator().manual_seed(0)
    x = {
        'user': torch.randn(60, 3, generator=g),
        'item': torch.randn(40, 3, generator=g),
    }
    return {k: v.round() if ties else v for k, v in x.items()}


def evaluation(_):
    _, val, _ = make_split()
    out = {}
    for size in (7, 1000):
        x = tables()
        of_pair = evaluate(x, val, ks=(3, 10), batch_size=size)
        of_function = evaluate(
            lambda users, x=x: x['user'][users] @ x['item'].t(),
            val,
            ks=(3, 10),
            batch_size=size,
        )
        for name, result in (('pair', of_pair), ('function', of_function)):
            out[name, size] = (result.per_user, result.users, tuple(result.ranking))
    return out


ALIKE = [
    light_gcn,
    float32,
    promptmm_with_dropout,
    last_batch_of_one,
    lazy,
    amortized,
    in_batch_loss,
    frozen,
    joint,
    joined,
    resumed,
    evaluation,
]


def other_start(_):
    """Every process begins elsewhere; that of rank 0 counts."""
    train, val = split()
    rank = Share.current().rank
    model = make_student(train, seed=1 + rank, cls=LightGCN).double()
    return _teacher(train, val, model, terms=bpr_terms, weights=WEIGHTS)


def written(folder):
    """How often this process writes, and what is there in the end."""
    train, val = split()
    calls, save = [0], loop.save_state

    def counted(*args):
        calls[0] += 1
        save(*args)

    loop.save_state = counted
    try:
        _teacher(
            train,
            val,
            make_student(train).double(),
            terms=bpr_terms,
            weights=WEIGHTS,
            schedule=SHORT._replace(run_dir=folder / 'written'),
        )
    finally:
        loop.save_state = save
    return calls[0], len((folder / 'written' / 'log.jsonl').read_text().splitlines())


def _raised(work):
    try:
        work()
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    return 'nothing'


def disagreements(folder):
    """What each process says when they are not called alike."""
    train, val = split()
    rank = Share.current().rank
    targets = soft_targets(make_teacher(train).double(), normalized_adj_dict(train))

    def run(width=4, data=train, **kwargs):
        model = make_student(train, width).double()
        options = {'terms': bpr_terms, 'weights': WEIGHTS, **kwargs}
        return lambda: _teacher(data, val, model, **options)

    other = train.clone()
    other[INTERACTS].edge_index = other[INTERACTS].edge_index.flip(1)
    kept = SHORT._replace(run_dir=folder / 'only' if rank == 0 else None)
    nowhere = SHORT._replace(run_dir=folder / 'nowhere', resume=True)
    x = {key: value * (1 + rank) for key, value in targets.x_dict.items()}
    student = make_student(train).double()
    return {
        'seed': _raised(run(seed=rank)),
        'train': _raised(run(data=train if rank == 0 else other)),
        'weights': _raised(run(weights={**WEIGHTS, 'l2': 0.1 * rank})),
        'batch_size': _raised(run(batch_size=64 + rank)),
        'width': _raised(run(width=4 + rank)),
        'run_dir': _raised(run(schedule=kept)),
        'resume': _raised(run(schedule=nowhere)),
        'targets': _raised(
            lambda: distill(student, targets._replace(x_dict=x), train, val)
        ),
    }


def losses_that_are_not_finite(_):
    """Only a row of the second half of the batch is to blame."""
    train, val = split()

    def terms(x_dict, batch):
        values = bpr_terms(x_dict, batch)
        if Share.current().rank == 1:
            values['bpr'] = values['bpr'] * torch.nan
        return values

    terms.by_example = True
    model = make_student(train).double()
    return _raised(lambda: _teacher(train, val, model, terms=terms, weights=WEIGHTS))


def scores_of_one_part(_):
    """Scores of late users, which rank 1 ranks, hold a NaN."""
    _, val, _ = make_split()
    x = tables()
    x['user'][40:] = torch.nan
    return _raised(lambda: evaluate(x, val, ks=(10,), batch_size=7))


def gradients(_):
    """Sums of gradients of every kind, as dense tensors, and which of them are sparse.

    Rank r holds (r + 1) times the rows it was given, so that sums are known.
    """
    rank = Share.current().rank
    g = torch.Generator().manual_seed(0)

    def parameter(grad, rows=None, size=(4, 3), dtype=torch.double):
        p = torch.nn.Parameter(torch.zeros(size, dtype=dtype))
        if grad is not None:
            x = torch.randn(size, generator=g).to(dtype) * (rank + 1)
            p.grad = x if rows is None else _sparse(x, rows)
        return p

    parameters = {
        'dense': parameter(True),
        'nowhere': parameter(None),
        'here and there': parameter(True),
        'half': parameter(True, dtype=torch.bfloat16),
        'large': parameter(True, size=(50, 7)),
        'strided': parameter(True, size=(6, 6)),
        'rows': parameter(True, rows=[0, 2, 2] if rank else [2, 3]),
        'no rows': parameter(True, rows=[] if rank else [1]),
        'mixed': parameter(True, rows=[1, 3]),
        'frozen': parameter(None).requires_grad_(False),
    }
    if rank == 1:
        parameters['here and there'].grad = None
        parameters['mixed'].grad = parameters['mixed'].grad.to_dense()
    parameters['strided'].grad = parameters['strided'].grad.t()
    own = {n: None if p.grad is None else p.grad.clone() for n, p in parameters.items()}
    bucket, distributed._BUCKET_BYTES = distributed._BUCKET_BYTES, 300
    try:
        distributed.sum_gradients(iter(parameters.values()))
    finally:
        distributed._BUCKET_BYTES = bucket
    return own, {name: p.grad for name, p in parameters.items()}


def _sparse(x, rows):
    index = torch.tensor(rows, dtype=torch.long)
    return torch.sparse_coo_tensor(
        index[None], x[index], x.shape, check_invariants=True
    )


def group_of_the_caller(_):
    """Whether a group that is there before stays."""
    os.environ['RANK'] = str(dist.get_rank())
    try:
        with distributed.process_group() as device:
            pass
    finally:
        del os.environ['RANK']
    return device.type, dist.is_initialized()


APART = [
    gradients,
    group_of_the_caller,
    other_start,
    written,
    disagreements,
    losses_that_are_not_finite,
    scores_of_one_part,
]


def one_dies(folder):
    """Rank 1 gives up in its second step; how rank 0 learns of it."""
    train, val = split()
    steps = [0]

    def terms(x_dict, batch):
        steps[0] += 1
        if Share.current().rank == 1 and steps[0] == 2:
            raise ArithmeticError('rank 1 gives up')
        return bpr_terms(x_dict, batch)

    model = make_student(train).double()
    return _raised(lambda: _teacher(train, val, model, terms=terms, weights=WEIGHTS))


def run(functions, folder):
    return {function.__name__: function(folder) for function in functions}


def spawn(functions, folder, size=2):
    """The results of ``functions`` at every rank of a group of its own, by gloo and a
    file, without a port.
    """
    folder.mkdir()
    mp.spawn(_worker, (functions, folder, size), nprocs=size)
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
