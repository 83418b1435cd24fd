"""The program: ``promptmm`` and ``python -m promptmm_pyg``."""

import os
import signal
import sys
from collections.abc import MutableMapping
from typing import NoReturn

_WAITING = {'OMP_WAIT_POLICY': 'PASSIVE', 'KMP_BLOCKTIME': '0'}  # GNU and Intel OpenMP.


def set_wait_policy(environment: MutableMapping[str, str]) -> None:
    """Makes threads of torch sleep while they wait for each other, unless the user has
    chosen otherwise. By default they use their core, and beside another program a
    parallel region then takes many times its time. Call this before torch is loaded.
    """
    if not {*_WAITING, 'GOMP_SPINCOUNT'} & set(environment):
        environment.update(_WAITING)


def program() -> NoReturn:
    """Runs the command line; Ctrl-C has exit status 130 from the first import on."""
    set_wait_policy(os.environ)
    try:
        from promptmm_pyg.cli import main

        status = main()
    except KeyboardInterrupt:
        status = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python ends.
    sys.exit(status)


if __name__ == '__main__':
    program()
