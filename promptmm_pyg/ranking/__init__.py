from promptmm_pyg.ranking.approximate import ApproximateItems
from promptmm_pyg.ranking.lists import ScoreFn, rank_candidates, rank_items, score_pairs
from promptmm_pyg.ranking.seen_items import SeenItems
from promptmm_pyg.ranking.top import Ranking, top_items

__all__ = [
    'ApproximateItems',
    'Ranking',
    'ScoreFn',
    'SeenItems',
    'rank_candidates',
    'rank_items',
    'score_pairs',
    'top_items',
]
