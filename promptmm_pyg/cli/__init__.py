"""The command line, ``promptmm``."""

from promptmm_pyg.cli.app import main

__all__ = ['main']
