from promptmm_pyg.ranking.lists import Ranking, ScoreFn, rank_items, top_items
from promptmm_pyg.ranking.seen_items import SeenItems

__all__ = ['Ranking', 'ScoreFn', 'SeenItems', 'rank_items', 'top_items']
