from promptmm_pyg.evaluation.metrics import Evaluation, evaluate
from promptmm_pyg.ranking import Ranking, SeenItems, rank_items, top_items

__all__ = [
    'Evaluation',
    'Ranking',
    'SeenItems',
    'evaluate',
    'rank_items',
    'top_items',
]
