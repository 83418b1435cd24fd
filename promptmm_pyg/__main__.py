"""The program: ``promptmm`` and ``python -m promptmm_pyg``."""

import signal
import sys
from typing import NoReturn


def program() -> NoReturn:
    """Runs the command line; Ctrl-C has exit status 130 from the first import on."""
    try:
        from promptmm_pyg.cli import main

        status = main()
    except KeyboardInterrupt:
        status = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python ends.
    sys.exit(status)


if __name__ == '__main__':
    program()
