"""A recommender over HTTP; requires the extra ``serve``."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from promptmm_pyg._utils import check_positive, missing_extra, versions
from promptmm_pyg.limits import MIB, cores
from promptmm_pyg.serving._ranker import Recommendations
from promptmm_pyg.serving.recommender import Recommender

if TYPE_CHECKING:
    from fastapi import FastAPI

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_DRAINED = 64  # So many times the limit is read before an answer: clients write first.
_SUBJECT = re.compile(r'^\w+ should ')
_DESCRIPTION = """\
Lists of items by raw ids. Each request holds many users, items or histories and is
answered in their order. Lists are best first; they are shorter than `k` where fewer
items can be recommended. An error is one line in `detail`."""


def create_app(
    recommender: Recommender,
    *,
    max_users: int = 1000,
    max_k: int = 100,
    max_bytes: int = MIB,
    memory_limit: int | str = '256MiB',
) -> 'FastAPI':
    """The application of ``promptmm serve``, for any ASGI server.

    ``POST /recommend``, ``/similar`` and ``/history`` are
    :meth:`Recommender.recommend`, :meth:`Recommender.similar_items` and
    :meth:`Recommender.recommend_from_history` with their arguments as JSON; ``GET
    /health``, ``/metrics`` (for Prometheus), ``/docs`` and ``/openapi.json``. Requests
    are ranked in one thread per core.

    Args:
        recommender: What to serve.
        max_users: Users, items or histories per request. (default: ``1000``)
        max_k: Items per list. (default: ``100``)
        max_bytes: Bytes of a request. (default: 1 MiB)
        memory_limit: Memory of the ranking of one request, see
            :meth:`Recommender.recommend`. (default: ``'256MiB'``)

    Raises:
        ImportError: If ``fastapi`` or ``prometheus_client`` is not installed.
        ValueError: If a limit is not positive.
    """
    try:
        from fastapi import FastAPI, Request, Response
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import JSONResponse
        from pydantic import BaseModel
    except ImportError as error:
        raise missing_extra('create_app', 'fastapi', 'serve') from error
    limits = {'max_users': max_users, 'max_k': max_k, 'max_bytes': max_bytes}
    for name, value in limits.items():
        check_positive(name, value)
    metrics, version = _Metrics(recommender), versions('promptmm_pyg')['promptmm_pyg']

    class Health(BaseModel):
        status: str
        users: int
        items: int
        version: str

    async def health() -> Health:
        """Whether the server answers, and what it serves."""
        users, items = recommender.num_users, recommender.num_items
        return Health(status='ok', users=users, items=items, version=version)

    async def measurements() -> Response:
        """Requests, latencies and sizes for Prometheus."""
        return Response(*metrics.text())

    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return JSONResponse({'detail': _describe(error.errors())}, 422)

    app = FastAPI(
        title='promptmm serve',
        version=version,
        description=_DESCRIPTION,
        redoc_url=None,
        exception_handlers={RequestValidationError: refuse},
    )
    _add_rankings(app, recommender, max_users, max_k, memory_limit, metrics)
    app.add_api_route('/health', health)
    app.add_api_route('/metrics', measurements, response_class=Response)
    app.add_middleware(_Gate, max_bytes=max_bytes, metrics=metrics)
    return app


def _add_rankings(
    app: 'FastAPI',
    recommender: Recommender,
    max_users: int,
    max_k: int,
    memory_limit: int | str,
    metrics: '_Metrics',
) -> None:
    """Adds ``/recommend``, ``/similar`` and ``/history``."""
    from fastapi import HTTPException, Response
    from pydantic import BaseModel, ConfigDict, Field, StrictBool
    from pydantic import StrictInt as Int
    from pydantic import StrictStr as Str

    class Options(BaseModel):
        model_config = ConfigDict(extra='forbid')
        k: Int = Field(10, ge=1, le=max_k, description='items per list')
        allow: list[Int | Str] | None = Field(None, description='only these items')
        deny: list[Int | Str] | None = Field(None, description='none of these items')
        unknown: Literal['raise', 'ignore'] = Field(
            'raise', description='whether unknown ids are errors'
        )

    class RecommendRequest(Options):
        users: list[Int | Str] = Field(min_length=1, max_length=max_users)
        exclude_seen: StrictBool = True
        exclude: dict[str, list[Int | Str]] | None = Field(
            None, description='items by user that the user must not get'
        )
        candidates: dict[str, list[Int | Str]] | None = Field(
            None, description='items by user: only these'
        )

    class SimilarRequest(Options):
        items: list[Int | Str] = Field(min_length=1, max_length=max_users)

    class HistoryRequest(Options):
        histories: list[list[Int | Str]] = Field(min_length=1, max_length=max_users)
        exclude_seen: StrictBool = True

    class Item(BaseModel):
        item: int | str
        score: float
        title: str | None = None

    class Lists(BaseModel):
        lists: list[list[Item]]

    pool = ThreadPoolExecutor(cores(), 'promptmm-serve')

    async def answer(rank: Callable[..., Recommendations], body: Options) -> Response:
        arguments = body.model_dump()
        if arguments.get('candidates') is None:
            arguments['memory_limit'] = memory_limit
        loop = asyncio.get_running_loop()
        try:
            content, number = await loop.run_in_executor(
                pool, _json, recommender, rank, arguments
            )
        except (ValueError, TypeError) as error:
            raise HTTPException(422, ' '.join(str(error).split())) from error
        metrics.lists.inc(number)
        return Response(content, media_type='application/json')

    async def recommend(body: RecommendRequest) -> Response:
        """The best items for each user."""
        return await answer(recommender.recommend, body)

    async def similar(body: SimilarRequest) -> Response:
        """The items closest to each item."""
        return await answer(recommender.similar_items, body)

    async def history(body: HistoryRequest) -> Response:
        """The best items for users who are not known, by what they interacted with."""
        return await answer(recommender.recommend_from_history, body)

    for endpoint in (recommend, similar, history):
        app.add_api_route(
            f'/{endpoint.__name__}',
            endpoint,
            methods=['POST'],
            response_model=Lists,
            responses={413: {'description': 'too many bytes'}},
        )


def _json(
    recommender: Recommender,
    rank: Callable[..., Recommendations],
    arguments: dict[str, Any],
) -> tuple[bytes, int]:
    """The answer to a request, and its number of lists."""
    titles, result = recommender.titles, rank(**arguments)
    lists: list[list[dict[str, Any]]] = []
    for ids, scores in zip(result.ids.tolist(), result.scores.tolist(), strict=True):
        items = []
        for raw, score in zip(ids, scores, strict=True):
            if raw is None:  # The padding of a short list.
                break
            items.append({'item': raw, 'score': score})
            if raw in titles:
                items[-1]['title'] = titles[raw]
        lists.append(items)
    text = json.dumps({'lists': lists}, separators=(',', ':'))
    return text.encode(), len(lists)


def _describe(errors: Sequence[Any]) -> str:
    """One line about the first of the errors of a request."""
    error, more = errors[0], len(errors) - 1
    place = '.'.join(str(part) for part in error['loc'][1:])
    text = _SUBJECT.sub('must ', error['msg'])
    if error['type'] == 'json_invalid':
        return f'the request must be JSON ({error["ctx"]["error"]})'
    if not place:
        return 'the request must be a JSON object of type application/json'
    if error['type'] == 'extra_forbidden':
        return f"'{place}' must be left out: there is no such argument. See /docs"
    if error['type'] == 'missing':
        return f"'{place}' must be given. See /docs"
    if place.endswith(('.int', '.str')):
        place, text, more = place[:-4], 'must be an integer or text', more // 2
    if error['type'] == 'too_long':
        limits = error['ctx']
        got = limits['actual_length'] or 'more'
        return (
            f"'{place}' must have at most {limits['max_length']} entries (got {got}). "
            f'Send several requests'
        )
    got = repr(error['input'])
    got = got if len(got) < 80 else f'{got[:77]}...'
    return f"'{place}' {text} (got {got})" + (f', and {more} others' if more else '')


class _Metrics:
    """What ``/metrics`` shows, of one application."""

    def __init__(self, recommender: Recommender) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError as error:
            raise missing_extra('create_app', 'prometheus_client', 'serve') from error
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            'promptmm_request_seconds',
            'Time of a request after its last byte, by path and status; its count is '
            'the number of requests',
            ['path', 'status'],
            registry=self.registry,
        )
        self.lists = Counter(
            'promptmm_lists', 'Lists that were returned', registry=self.registry
        )
        for kind in ('users', 'items'):
            gauge = Gauge(f'promptmm_{kind}', f'Known {kind}', registry=self.registry)
            gauge.set_function(partial(getattr, recommender, f'num_{kind}'))

    def text(self) -> tuple[bytes, int, dict[str, str]]:
        """Content, status and headers of the answer."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        headers = {'content-type': CONTENT_TYPE_LATEST}
        return generate_latest(self.registry), 200, headers


class _Gate:
    """Reads each request within a limit, and measures its answer."""

    def __init__(self, app: Any, max_bytes: int, metrics: _Metrics) -> None:
        self.app, self.max_bytes, self.metrics = app, max_bytes, metrics

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        body, size = bytearray(), 0
        message: _Message = {'more_body': True}
        while message.get('more_body') and size <= _DRAINED * self.max_bytes:
            message = await receive()
            if message['type'] == 'http.disconnect':
                return
            chunk = message.get('body', b'')
            size += len(chunk)
            body = body + chunk if size <= self.max_bytes else bytearray()
        started, status = time.perf_counter(), 500

        async def read() -> _Message:
            return {'type': 'http.request', 'body': bytes(body)}

        async def write(message: _Message) -> None:
            nonlocal status
            status = message.get('status', status)
            await send(message)

        try:
            app = self.app if size <= self.max_bytes else self._too_large(size)
            await app(scope, read, write)
        finally:
            route = scope.get('route')
            path = getattr(route, 'path', 'other')
            seconds = time.perf_counter() - started
            self.metrics.seconds.labels(path, status).observe(seconds)

    def _too_large(self, size: int) -> Any:
        from fastapi.responses import JSONResponse

        detail = (
            f'the request must have at most {self.max_bytes:,} bytes (got '
            f'{size:,}). Send several requests'
        )
        return JSONResponse({'detail': detail}, 413)
