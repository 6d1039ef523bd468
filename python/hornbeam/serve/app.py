"""The application: routes over one service."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, request_response

from hornbeam._native import __version__
from hornbeam.engine.options import DEFAULT_DRAFT
from hornbeam.errors import ArgumentError
from hornbeam.serve import described
from hornbeam.serve.driver import Driver
from hornbeam.serve.fields import Chat, Completion, Scoring
from hornbeam.serve.keys import Keys
from hornbeam.serve.limits import Limits
from hornbeam.serve.refusal import Refusal
from hornbeam.serve.service import Service
from hornbeam.speculation.named import draft_of

if TYPE_CHECKING:
    from hornbeam.lm import LM

__all__ = ["create_app"]

_LOG = logging.getLogger("hornbeam.serve")


def create_app(
    lm: LM,
    *,
    name: str = "hornbeam",
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    draft: Any = DEFAULT_DRAFT,
) -> FastAPI:
    """The server of a model as an ASGI application, for uvicorn or another server of one process.

    Its routes are ``POST /v1/completions``, ``/v1/chat/completions`` and ``/v1/score``, ``GET /v1/models``,
    ``/health``, ``/metrics`` (Prometheus) and ``/openapi.json``; see docs/serve.md. The application's
    ``state.service`` is what answers.

    Args:
        lm: the model, with a tokenizer.
        name: of the model in requests and answers.
        limits: on sizes, counts and times.
        keys: API keys, of which a request needs one; without any everybody is answered.
        draft: where guesses come from, as :meth:`hornbeam.LM.generate` has it; texts are the same.

    Raises:
        ArgumentError: the model has no tokenizer, a key is empty, or the draft is none.
    """
    if lm.engine.tokenizer is None:
        raise ArgumentError("the LM has no tokenizer, which a server needs")
    if any(not key or not key.isascii() for key in keys):
        raise ArgumentError("an API key is empty or not ASCII")
    driver = Driver(lm.engine)
    service = Service(driver, name, limits or Limits(), draft_of(draft))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.begin()
        try:
            yield
        finally:
            await service.end()

    app = FastAPI(title="Hornbeam", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_exception_handler(HTTPException, _of_route)
    app.add_exception_handler(Exception, _of_fault)
    if keys:
        app.add_middleware(Keys, keys=keys)
    _add_routes(app, service, bool(keys))
    app.openapi = lambda: _description(app, name)  # type: ignore[method-assign]
    return app


def _add_routes(app: FastAPI, service: Service, has_keys: bool) -> None:
    post: dict[str, Any] = {"methods": ["POST"], "response_class": Response}
    for path, endpoint, fields, body in (
        ("/v1/completions", service.completions, Completion, described.CompletionBody),
        ("/v1/chat/completions", service.chat, Chat, described.ChatBody),
        ("/v1/score", service.score, Scoring, described.ScoreBody),
    ):
        app.add_api_route(
            path,
            endpoint,
            openapi_extra=described.request_body(fields),
            responses=described.responses(body, refused=True, streams=fields is not Scoring, keys=has_keys),
            **post,
        )
        _call_directly(app, endpoint)
    created = int(time.time())
    model = {
        "id": service.name,
        "object": "model",
        "created": created,
        "owned_by": "hornbeam",
        "context_length": service.engine.max_positions,
    }

    async def models() -> Response:
        """The model that is served, as a list."""
        return JSONResponse({"object": "list", "data": [model]})

    async def one_model(request: Request) -> Response:
        """The model that is served."""
        asked = request.path_params["name"]
        if asked != service.name:
            return Refusal(
                404, f"model is {asked!r}, expected {service.name!r}", "model", "model_not_found"
            ).response
        return JSONResponse(model)

    async def health() -> Response:
        """Whether requests are answered."""
        if not service.driver.is_alive:
            return Refusal(503, "the engine has stopped", code="stopped").response
        return JSONResponse({"status": "ok"})

    async def metrics() -> Response:
        """What Prometheus reads."""
        return Response(await service.metrics.page(service.driver), media_type=CONTENT_TYPE_LATEST)

    for path, read, shown in (
        ("/v1/models", models, described.ModelsBody),
        ("/health", health, described.HealthBody),
    ):
        needs_key = has_keys and path != "/health"
        app.add_api_route(
            path, read, response_class=Response, responses=described.responses(shown, keys=needs_key)
        )
    app.add_api_route("/v1/models/{name:path}", one_model, response_class=Response, include_in_schema=False)
    app.add_api_route("/metrics", metrics, response_class=Response, include_in_schema=False)


def _call_directly(app: FastAPI, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
    """Has the route that was added last call its endpoint with nothing in between. FastAPI would look for
    parameters, which these endpoints have not; the description stays."""
    route = app.router.routes[-1]
    assert isinstance(route, Route)
    route.app = request_response(endpoint)


def _description(app: FastAPI, name: str) -> dict[str, Any]:
    """The OpenAPI description, made once."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, routes=app.routes, summary="Adaptive decoding of one model."
        )
        found.setdefault("components", {})["schemas"] = described.components(name)
        app.openapi_schema = found
    return app.openapi_schema


async def _of_route(request: Request, error: Exception) -> Response:
    """No such path, or no such method there."""
    assert isinstance(error, HTTPException)
    return Refusal(error.status_code, str(error.detail), headers=error.headers).response


async def _of_fault(request: Request, error: Exception) -> Response:
    """What nobody has foreseen."""
    _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Refusal(500, f"{type(error).__name__}: see the log of the server", code="internal_error").response
