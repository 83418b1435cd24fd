"""``promptmm serve``: recommendations over HTTP."""

import argparse
import contextlib
import errno
import socket
import sys
from pathlib import Path

import torch

from promptmm_pyg._files import current
from promptmm_pyg._utils import missing_extra
from promptmm_pyg.cli.parsing import Parser, UserError, add_flags, printable
from promptmm_pyg.ranking._budget import parse_memory
from promptmm_pyg.serving import Recommender, create_app

DESCRIPTION = """\
Answer requests for the recommender of RUN over HTTP, until Ctrl-C: POST /recommend,
/similar and /history with JSON, GET /health, /metrics (for Prometheus) and /docs, the
page of all arguments. A request holds many users, items or histories; one that exceeds
a limit is refused with one line.

There is no authentication: only this machine can connect unless --host is given. Each
process ranks in one thread per core. Requires the extra 'serve'."""
EXAMPLE = """\
example:
  promptmm serve runs/tiktok
  promptmm serve runs/tiktok --host 0.0.0.0 --port 80 --max-users 200
then, from another shell:
  curl --json '{"users": [7, 42], "k": 5}' http://127.0.0.1:8000/recommend
  curl --json '{"histories": [[31, 8]]}' http://127.0.0.1:8000/history"""
_CONNECTIONS = 256  # At once; others get status 503.


def add_arguments(parser: Parser) -> None:
    """Adds all options."""
    text = 'folder of a run with a student, or a recommender'
    parser.add_argument('folder', metavar='RUN', help=text)
    add_flags(
        parser,
        """
--host NAME [127.0.0.1]  address to listen on; 0.0.0.0 is all addresses
--port N [8000]  port to listen on; 0 chooses a free one
--access-log  print a line per request""",
    )
    add_flags(
        parser.add_argument_group('limits of a request'),
        """
--max-users N [1000]  users, items or histories
--max-k N [100]  items per list
--max-bytes N [1048576]  bytes
--memory-limit SIZE [256MiB]  memory of its ranking""",
    )


def run(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM."""
    try:
        import uvicorn
    except ImportError as error:
        raise missing_extra('promptmm serve', 'uvicorn', 'serve') from error
    limits = {name: getattr(args, name) for name in ('max_users', 'max_k', 'max_bytes')}
    for name, value in limits.items():
        if value < 1:
            option = f'--{name.replace("_", "-")}'
            raise UserError(f'{option} must be positive (got {value})')
    parse_memory(args.memory_limit)
    with _listen(args.host, args.port) as listener:
        recommender = _load(args.folder)
        torch.set_num_threads(1)  # One thread per request.
        app = create_app(recommender, memory_limit=args.memory_limit, **limits)
        config = uvicorn.Config(
            app,
            log_level='info' if args.access_log else 'warning',
            limit_concurrency=_CONNECTIONS,
        )
        host, port = args.host, listener.getsockname()[1]
        address = f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'
        line = (
            f'serving {recommender.num_users} users and {recommender.num_items} items '
            f'at {address} (arguments: {address}/docs). Ctrl-C ends it'
        )
        print(printable(line), file=sys.stderr, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    return 0


def _load(folder: str) -> Recommender:
    """The recommender of a run, or the one in the folder, which loads without PyG."""
    if current(Path(folder), 'card.json').is_file():
        return Recommender.load(folder)
    from promptmm_pyg.cli.recommend import load_recommender

    return load_recommender(folder)


def _listen(host: str, port: int) -> socket.socket:
    """The socket to serve at, before any work is done."""
    if not 0 <= port < 2**16:
        raise UserError(f'--port must be between 0 and 65535 (got {port})')
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f'--port must be free (got {port}, in use). Choose another one, or 0 '
                f'for any'
            ) from error
        raise UserError(
            f"--host and --port must be an address of this machine (got '{host}' and "
            f'{port}: {error.strerror or error}). Choose others'
        ) from error
