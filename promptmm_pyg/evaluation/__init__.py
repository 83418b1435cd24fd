from promptmm_pyg.evaluation.bootstrap import Interval, holm, paired_bootstrap
from promptmm_pyg.evaluation.metrics import Evaluation, evaluate
from promptmm_pyg.evaluation.slices import (
    slice_by_cold_start,
    slice_by_history,
    slice_by_item_popularity,
)
from promptmm_pyg.ranking import Ranking, SeenItems, rank_items, top_items

__all__ = [
    'Evaluation',
    'Interval',
    'Ranking',
    'SeenItems',
    'evaluate',
    'holm',
    'paired_bootstrap',
    'rank_items',
    'slice_by_cold_start',
    'slice_by_history',
    'slice_by_item_popularity',
    'top_items',
]
