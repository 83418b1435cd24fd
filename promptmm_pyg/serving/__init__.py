from promptmm_pyg.serving.recommender import Recommendations, Recommender

__all__ = ['Recommendations', 'Recommender']
