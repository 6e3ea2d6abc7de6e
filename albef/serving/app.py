"""The server's application, assembled from its parts."""

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRouter
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from albef.serving.engine import Engine, Resources
from albef.serving.errors import ApiError, invalid
from albef.serving.following import Current, Follower
from albef.serving.limits import Options
from albef.serving.metrics import Metrics
from albef.serving.middleware.access import Hosts, Tokens
from albef.serving.middleware.admission import Admission
from albef.serving.middleware.exchange import METRICS, PROBES, State
from albef.serving.middleware.json_calls import JsonCalls
from albef.serving.middleware.requests import Requests
from albef.serving.routes import calls, compatible, indexes, server

_CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "PUT", "DELETE"],
    "allow_headers": ["authorization", "content-type", "traceparent", "x-request-id"],
    "expose_headers": ["retry-after", "x-request-id"],
}
_PROTECTED = tuple(each.router for each in (calls, server, indexes, compatible))
"""Routers that need a token, if the server has tokens."""


def create_app(options: Options, state: State) -> FastAPI:
    """Return the application of a server; ``app.state.follower`` has the engine that computes.

    Raises:
        ExportError: a folder is not an export, was changed, or cannot run with these options.
        ValueError: a gallery is set, but no export embeds images.
    """
    # A form stays in memory, which is limited; a thread would write each of its pieces to disk.
    MultiPartParser.spool_max_size = options.limits.body
    metrics = Metrics()
    engine = Engine(Resources(options, metrics))
    if options.gallery and "embed_image" not in engine.calls:
        raise ValueError("--gallery needs an export that embeds images; add a retrieval export")
    follower = Follower(engine)
    public = [server.probe_routes(state), server.page_routes()]
    state.routes = [route for router in (*public, *_PROTECTED) for route in router.routes]

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with follower.running():
            state.ready = True
            yield

    app = FastAPI(
        title="ALBEF",
        version=importlib.metadata.version("albef-pipeline"),
        description="Exported vision-language models.",
        docs_url=None,  # These pages load a script from another site.
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        exception_handlers={HTTPException: _refuse, RequestValidationError: _invalid},
        middleware=_middleware(options, metrics, state, follower, public),
    )
    app.state.follower = follower
    # Middleware has already checked the token; this adds it to openapi.json.
    secured = [Depends(HTTPBearer(scheme_name="token", auto_error=False))]
    for router in _PROTECTED:
        app.include_router(router, dependencies=secured if options.tokens else None)
    for router in public:
        app.include_router(router)
    return app


def warm_up(app: FastAPI) -> None:
    """Prepare what the first requests would wait for: routes, and the processes that decode."""
    app.openapi()
    app.state.follower.engine.decoders.warm_up()


def _middleware(
    options: Options,
    metrics: Metrics,
    state: State,
    follower: Follower,
    public: list[APIRouter],
) -> list[Middleware]:
    # These paths read no body and compute nothing, so they need no token and no slot.
    open_paths = frozenset(
        {"/openapi.json", *(each.path for router in public for each in router.routes)}  # type: ignore[attr-defined]
    )
    # A page can read an error response only with these headers, so CORS is outermost.
    cors = Middleware(CORSMiddleware, **_CORS, allow_origins=options.origins)
    return [
        *([cors] if options.origins else []),
        Middleware(Requests, metrics, state),
        Middleware(Tokens, options.tokens, exempt=open_paths)
        if options.tokens
        else Middleware(Hosts, options.hosts, options.origins, exempt=PROBES),
        Middleware(Admission, options.limits, metrics, exempt=open_paths | {METRICS}),
        Middleware(Current, follower),
        Middleware(JsonCalls, state.routes),
    ]


async def _refuse(request: Request, error: Exception) -> NoReturn:
    """Raise an error of the framework in this server's form, without content of the request."""
    assert isinstance(error, HTTPException)
    refusal = ApiError(error.status_code)
    refusal.headers.update(error.headers or {})
    raise refusal


async def _invalid(request: Request, error: Exception) -> NoReturn:
    """Raise the first error that FastAPI found in a request."""
    assert isinstance(error, RequestValidationError)
    first, route = error.errors()[0], request.scope["route"]
    body = getattr(route, "body_field", None)
    needed = body and body.field_info.media_type
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if first["loc"][0] == "body" and sent != needed and route.strict_content_type:
        raise ApiError(415, f"send the body with Content-Type: {needed}")
    raise invalid({**first, "loc": first["loc"][1:]})
