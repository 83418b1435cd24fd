from promptmm_pyg.evaluation.metrics import Evaluation, evaluate
from promptmm_pyg.evaluation.significance import PairedTest, holm, paired_test
from promptmm_pyg.evaluation.slices import (
    slice_by_cold_start,
    slice_by_history,
    slice_by_item_popularity,
)
from promptmm_pyg.ranking import Ranking, SeenItems, rank_items, top_items

__all__ = [
    'Evaluation',
    'PairedTest',
    'Ranking',
    'SeenItems',
    'evaluate',
    'holm',
    'paired_test',
    'rank_items',
    'slice_by_cold_start',
    'slice_by_history',
    'slice_by_item_popularity',
    'top_items',
]
