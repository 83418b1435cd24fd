"""A run on one page: its numbers gathered as plain values, and drawn as HTML."""

from promptmm_pyg.report.content import Report
from promptmm_pyg.report.page import render

__all__ = ['Report', 'render']
