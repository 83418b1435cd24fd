"""The best recommender within a budget of time: many models, their ensemble, and one
small student of all of them.
"""

from promptmm_pyg.auto.run import auto_run

__all__ = ['auto_run']
