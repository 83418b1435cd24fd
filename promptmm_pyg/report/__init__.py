"""A run on one page: numbers are gathered as plain values, then rendered as HTML."""

from promptmm_pyg.report.content import Report
from promptmm_pyg.report.page import render

__all__ = ['Report', 'render']
