"""Runs ``python -m promptmm_pyg``."""

import sys

from promptmm_pyg.cli import main

sys.exit(main())
