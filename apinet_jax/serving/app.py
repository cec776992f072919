"""The web application: routes, errors, a bounded queue."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.serving.measures import Measures
from apinet_jax.serving.openapi import describe
from apinet_jax.serving.service import Service, Settings
from apinet_jax.serving.uploads import RefusedError, read_uploads

_LOG = logging.getLogger("uvicorn.error")

PAGE = Path(__file__).parent / "page"
_RETRY_SECONDS = "1"
_PATHS = ("/", "/v1/predict", "/v1/compare", "/v1/explain", "/v1/model")
# The page loads nothing from elsewhere, and nobody may frame it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_app(
    run: TrainedRun,
    settings: Settings,
    *,
    hosts: Sequence[str] | None = None,
    ready: Callable[[], None] = lambda: None,
) -> Starlette:
    """Return the application of a run, after compiling its programs.

    Args:
        run: The run.
        settings: How it answers.
        hosts: Names by which it may be addressed; any if `None`. A local server has to check them,
            because a page elsewhere could give its own name to this machine (DNS rebinding).
        ready: Called when requests are answered.

    Raises:
        RunError: If the device runs out of memory.
    """
    measures = Measures()
    service = Service(run, settings, measures.observe_batch)
    service.prepare()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        batches = asyncio.create_task(service.batcher.run())
        ready()
        try:
            yield  # the server waits for its requests before it returns here
        finally:
            batches.cancel()
            service.close()

    limits = settings.limits

    def posted(answer: Callable[[Request, Any], Awaitable[dict[str, Any]]]) -> Any:
        async def endpoint(request: Request) -> Response:
            return JSONResponse(await answer(request, await read_uploads(request, limits)))

        return endpoint

    async def predict(request: Request, uploads: Any) -> dict[str, Any]:
        return await service.predict(uploads, int(_number(request, "top", 5.0, 1.0, 1000.0)))

    async def compare(request: Request, uploads: Any) -> dict[str, Any]:
        return await service.compare(uploads, _number(request, "prior", 0.5, 1e-6, 1 - 1e-6))

    async def explain(request: Request, uploads: Any) -> dict[str, Any]:
        return await service.explain(uploads, request.query_params.get("against"))

    async def model(_: Request) -> Response:
        return JSONResponse(service.about())

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(_: Request) -> Response:
        return Response(measures.text(), media_type="text/plain; version=0.0.4")

    async def openapi(_: Request) -> Response:
        return JSONResponse(describe(service.about()))

    async def page(_: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    return Starlette(
        routes=[
            Route("/v1/predict", posted(predict), methods=["POST"]),
            Route("/v1/compare", posted(compare), methods=["POST"]),
            Route("/v1/explain", posted(explain), methods=["POST"]),
            Route("/v1/model", model),
            Route("/healthz", health),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi),
            Route("/", page),
            Mount("/static", StaticFiles(directory=PAGE)),
        ],
        middleware=[Middleware(_Gate, measures=measures, most=limits.waiting, hosts=hosts)],
        exception_handlers={RefusedError: _refused, HTTPException: _http_error},
        lifespan=lifespan,
    )


def _number(request: Request, name: str, default: float, least: float, most: float) -> float:
    """Return a number of the query.

    Raises:
        RefusedError: If it is no number, or out of bounds.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise RefusedError(
            400, f"{name} = {text[:50]!r} is not a number from {least:g} to {most:g}."
        )
    return number


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


async def _refused(_: Request, error: Exception) -> Response:
    return _error(error.status, error.message)


async def _http_error(_: Request, error: Exception) -> Response:
    return _error(error.status_code, error.detail, error.headers)


class _Gate:
    """Counts requests, refuses those that cannot be meant or would wait, and adds headers."""

    def __init__(self, app: ASGIApp, measures: Measures, most: int, hosts: Sequence[str] | None):
        self._app, self._measures, self._most, self._hosts = app, measures, most, hosts
        self._waiting = 0

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        if self._hosts is not None and name not in self._hosts:
            return _error(400, "This server does not answer to that name.")
        if scope["method"] != "POST":
            return None
        if headers.get("sec-fetch-site") == "cross-site":
            return _error(403, "Other pages cannot use this server.")
        if self._waiting >= self._most:
            return _error(503, "Too many requests wait.", {"Retry-After": _RETRY_SECONDS})
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, path = time.monotonic(), scope["path"]
        known = path if path in _PATHS else "other"  # strangers' paths would fill the memory
        posts, started = scope["method"] == "POST", False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
                self._measures.requests.labels(known, str(message["status"])).inc()
            await send(message)

        if (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, sending)
            return
        self._waiting += posts
        self._measures.waiting.set(self._waiting)
        try:
            await self._app(scope, receive, sending)
        except Exception:
            if started:
                raise
            _LOG.exception("A request failed.")
            failed = _error(500, "The server failed; its log has the reason.")
            await failed(scope, receive, sending)
        finally:
            self._waiting -= posts
            self._measures.waiting.set(self._waiting)
            self._measures.seconds.labels(known).observe(time.monotonic() - start)
