"""What is tuned of every model of the suite: small spaces of equal budget.

Every model is 64 wide. All that are trained choose learning rate and penalty; most
choose their number of layers, and each at most two numbers of its own. What is not
named here stays at the model's default. The first trial of every study is
:attr:`~benchmarks.entry.Entry.defaults`, so nobody is worse than where its paper
starts; the second is the same with a strong penalty.
"""

from benchmarks.entry import (
    Choices,
    Entry,
    Range,
    Space,
    content,
    counted,
    fitted,
    fitted_content,
    graph,
    prompted,
    tables,
)
from promptmm_pyg import models as m
from promptmm_pyg.models import LightGCN, MatrixFactorization, PromptMM
from promptmm_pyg.training import TEACHER_WEIGHTS


def _l2(default: float) -> Range:
    return Range(default, 1e-5, 0.2)


def _layers(default: int, *values: int) -> Choices:
    return Choices(default, values)


def _ids(name: str, cls: type, l2: float, **arguments: Range | Choices) -> Entry:
    build = graph if cls is m.NGCF else tables
    return Entry(name, 'ids', cls, build, arguments, {'l2': _l2(l2)})


def _multi_modal(
    cls: type, l2: float, *, weights: Space | None = None, **arguments: Range | Choices
) -> Entry:
    weights = {'l2': _l2(l2), **(weights or {})}
    return Entry(cls.__name__, 'multi-modal', cls, content, arguments, weights)


_NEIGHBORS = Choices(10, (5, 10, 20))
_CONTRAST = {'contrast': Range(0.01, 1e-3, 0.1)}
_PROMPTED = {'num_layers': _layers(2, 2, 3, 4, 6)}

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry('Popularity', 'untrained', m.Popularity, counted),
        Entry(
            'ItemKNN',
            'untrained',
            m.ItemKNN,
            fitted,
            {
                'k': Choices(20, (5, 10, 20, 50, 100, 200)),
                'shrink': Choices(0.0, (0.0, 1.0, 3.0, 10.0, 30.0)),
            },
        ),
        Entry('EASE', 'untrained', m.EASE, fitted, {'l2': Range(250.0, 1.0, 5000.0)}),
        Entry(
            'GraphFilter',
            'untrained',
            m.GraphFilter,
            fitted_content,
            {
                'num_layers': _layers(4, 2, 3, 4, 6, 8),
                'popularity': Choices(0.5, (0.25, 0.5, 0.75, 1.0)),
                'modality_weight': Range(0.1, 0.01, 1.0),
            },
        ),
        _ids('BPR-MF', MatrixFactorization, 1e-4),
        _ids('LightGCN', LightGCN, 1e-4, num_layers=_layers(2, 2, 3, 4, 6)),
        _ids(
            'NGCF',
            m.NGCF,
            1e-3,
            num_layers=_layers(3, 1, 2, 3),
            dropout=Choices(0.1, (0.0, 0.1, 0.3)),
        ),
        _multi_modal(m.VBPR, 1e-3, weights={'projection_l2': Range(1e-5, 1e-6, 1e-3)}),
        _multi_modal(m.LightGCNM, 1e-3, num_layers=_layers(2, 1, 2, 3, 4)),
        _multi_modal(m.MMGCN, 1e-3, num_layers=_layers(2, 1, 2, 3)),
        _multi_modal(
            m.GRCN,
            1e-3,
            num_layers=_layers(2, 1, 2, 3),
            num_routings=Choices(3, (1, 3, 5)),
        ),
        _multi_modal(
            m.LATTICE,
            1e-4,
            num_layers=_layers(2, 1, 2, 3, 4),
            num_neighbors=_NEIGHBORS,
            frozen_weight=Choices(0.9, (0.5, 0.7, 0.9)),
        ),
        _multi_modal(
            m.CLCRec,
            1e-3,
            temperature=Range(0.2, 0.1, 1.0),
            hybrid_rate=Choices(0.5, (0.3, 0.5, 0.7)),
        ),
        _multi_modal(
            m.SLMRec,
            1e-4,
            weights={
                'augmentation': Range(0.1, 0.01, 1.0),
                'alignment': Range(0.1, 0.01, 1.0),
            },
            num_layers=_layers(2, 1, 2, 3),
        ),
        _multi_modal(
            m.BM3,
            1e-3,
            num_layers=_layers(2, 1, 2, 3),
            dropout=Choices(0.3, (0.3, 0.5)),
        ),
        _multi_modal(
            m.FREEDOM,
            0.0,
            # The paper has no penalty, so none is one of the choices.
            weights={
                'l2': Choices(0.0, (0.0, 1e-5, 1e-4, 1e-3, 1e-2)),
                'modality_bpr': Range(1e-3, 1e-4, 0.1),
            },
            num_layers=_layers(2, 1, 2, 3, 4),
            prune_ratio=Choices(0.8, (0.0, 0.5, 0.8, 0.9)),
        ),
        _multi_modal(
            m.MMSSL,
            1e-3,
            weights={'contrast': Range(0.03, 3e-3, 0.3)},
            num_layers=_layers(2, 1, 2, 3),
            modality_weight=Range(0.5, 0.05, 1.0),
        ),
        _multi_modal(
            m.MGCN,
            1e-4,
            weights=_CONTRAST,
            num_layers=_layers(2, 1, 2, 3, 4),
            num_neighbors=_NEIGHBORS,
        ),
        _multi_modal(
            m.SMORE,
            1e-3,
            weights=_CONTRAST,
            num_layers=_layers(2, 1, 2, 3, 4),
            num_neighbors=_NEIGHBORS,
        ),
        _multi_modal(
            m.PGL,
            1e-3,
            weights=_CONTRAST,
            num_layers=_layers(2, 1, 2, 3, 4),
            keep_ratio=Choices(0.3, (0.1, 0.3, 0.5)),
        ),
        Entry(
            'PromptMM',
            'multi-modal',
            PromptMM,
            prompted,
            {
                **_PROMPTED,
                'modality_weight': Range(0.5, 0.02, 1.0),
                'self_loop_weight': Choices(0.0, (0.0, 1.0)),
            },
            {'l2': _l2(TEACHER_WEIGHTS['l2'])},
        ),
        Entry(
            'PromptMMPlus',
            'multi-modal',
            m.PromptMMPlus,
            prompted,
            {
                **_PROMPTED,
                # Both are off by default: the first trial is PromptMM's.
                'item_graph_weight': Choices(0.0, (0.0, 0.1, 0.3, 1.0)),
                'alignment_weight': Choices(0.0, (0.0, 0.01, 0.1)),
            },
            {'l2': _l2(m.PromptMMPlus.weights['l2'])},
        ),
    )
}
