from promptmm_pyg.ranking.lists import ScoreFn, rank_items
from promptmm_pyg.ranking.seen_items import SeenItems
from promptmm_pyg.ranking.top import Ranking, top_items

__all__ = ['Ranking', 'ScoreFn', 'SeenItems', 'rank_items', 'top_items']
