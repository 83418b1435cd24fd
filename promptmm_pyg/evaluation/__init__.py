from promptmm_pyg.evaluation.metrics import ALL_METRICS, Evaluation, evaluate
from promptmm_pyg.evaluation.significance import (
    Gap,
    PairedTest,
    holm,
    largest_gap,
    paired_test,
)
from promptmm_pyg.evaluation.slices import (
    slice_by_cold_start,
    slice_by_history,
    slice_by_item_popularity,
    slice_by_user_group,
)
from promptmm_pyg.ranking import Ranking, SeenItems, rank_items, top_items

__all__ = [
    'ALL_METRICS',
    'Evaluation',
    'Gap',
    'PairedTest',
    'Ranking',
    'SeenItems',
    'evaluate',
    'holm',
    'largest_gap',
    'paired_test',
    'rank_items',
    'slice_by_cold_start',
    'slice_by_history',
    'slice_by_item_popularity',
    'slice_by_user_group',
    'top_items',
]
