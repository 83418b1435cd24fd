"""The command line, ``promptmm``; a command imports what it runs."""

from promptmm_pyg.cli.app import main

__all__ = ['main']
