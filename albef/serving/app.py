"""The application of a server, put together of its parts."""

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRouter
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match

from albef.serving.bodies import Route
from albef.serving.engine import Engine
from albef.serving.errors import Problem, invalid
from albef.serving.following import Current, Follower
from albef.serving.indexes.store import Store
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.serving.middleware.access import Hosts, Tokens
from albef.serving.middleware.admission import Admission, Direct
from albef.serving.middleware.exchange import METRICS, PROBES, State
from albef.serving.middleware.requests import Requests
from albef.serving.routes.calls import call_routes
from albef.serving.routes.compatible import compatible_routes
from albef.serving.routes.indexes import index_routes
from albef.serving.routes.server import page_routes, probe_routes, server_routes

_CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "PUT", "DELETE"],
    "allow_headers": ["authorization", "content-type", "traceparent", "x-request-id"],
    "expose_headers": ["retry-after", "x-request-id"],
}


def create_app(
    exports: Sequence[Path],
    limits: Limits,
    state: State,
    *,
    tokens: Sequence[str] = (),
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    indexes: Path | None = None,
    gallery: Path | None = None,
    every: float = 0,
    refresh: Sequence[str] = (),
    **options: Any,
) -> FastAPI:
    """The application that serves the exports in some folders; ``app.state.follower`` has the
    engine that computes.

    Args:
        exports: of those that have a call the first one answers it.
        limits: of sizes and times.
        state: kept up to date by the application, and told when the server is to stop.
        tokens: of clients, as :func:`~albef.serving.middleware.access.parse_token` reads them;
            without any, only those on this machine are answered.
        hosts: further names under which the server may be asked without a token.
        origins: whose pages may ask from a browser, as ``https://example.org``.
        indexes: folder that keeps indexes of pictures; None keeps them in memory.
        gallery: folder of pictures that the index of this name follows.
        every: seconds after which it is looked whether a folder, or what a link leads to, has
            another export, to be served in its place; 0 never looks.
        refresh: a command that is run before each look, as one that fetches.
        options: ``threads``, ``providers``, ``precision`` and ``min_probability`` of
            :func:`albef.runtime.load`, ``workers``, computations at a time, and ``expect``,
            digests of manifests.

    Raises:
        ExportError: a folder holds no export, a changed one, or cannot run as asked.
        ValueError: there is a gallery, but no export embeds pictures.
    """
    metrics = Metrics()
    state.count_refusal = metrics.refused.labels("requests").inc
    store = Store(indexes)
    engine = Engine(exports, store, limits, metrics, **options)
    if gallery and "embed_image" not in engine.calls:
        raise ValueError("--gallery: no export here embeds pictures; name one of a retrieval run")
    public = [probe_routes(state), page_routes()]
    # :class:`Tokens` has checked it before: this is for openapi.json.
    secured = [Depends(HTTPBearer(scheme_name="token", auto_error=False))] if tokens else []
    routers: list[APIRouter] = []
    direct: dict[str, Route] = {}

    def mount(calls: Collection[str]) -> None:
        """Let there be routes for some calls. Only exports of another kind need others: the
        framework keeps those that it once had in caches of thousands."""
        guarded = [
            call_routes(calls),
            compatible_routes(calls),
            index_routes(calls, store, bool(gallery)),
            server_routes(),
        ]
        routers[:] = [*guarded, *public]
        del app.router.routes[schema_routes:]
        for router in routers:
            app.include_router(router, dependencies=secured if router in guarded else None)
        app.openapi_schema = None
        routes = [each for router in guarded for each in router.routes if isinstance(each, Route)]
        direct.clear()
        direct.update({route.path: route for route in routes if route.model is not None})

    follower = Follower(engine, mount, gallery)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with follower.running(every, refresh):
            state.ready = True
            yield

    async def refuse(request: Request, error: Exception) -> Response:
        """What the framework refuses, in our words; nothing of the content is repeated."""
        assert isinstance(error, HTTPException)
        response = Problem(error.status_code).response()
        if error.status_code == 405:
            routes = [*request.app.routes, *(each for router in routers for each in router.routes)]
            matches = (each for each in routes if each.matches(request.scope)[0] is not Match.NONE)
            methods = {name for each in matches for name in getattr(each, "methods", ())}
            if "GET" in methods:
                methods.add("HEAD")
            response.headers["allow"] = ", ".join(sorted(methods))
        return response

    # What answers everybody reads no body and computes nothing: it needs no token and no slot.
    open_paths = frozenset(
        {"/openapi.json", *(each.path for router in public for each in router.routes)}  # type: ignore[attr-defined]
    )
    app = FastAPI(
        title="ALBEF",
        version=importlib.metadata.version("albef-pipeline"),
        description="Exported vision-language models.",
        docs_url=None,  # their script comes from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        exception_handlers={HTTPException: refuse, RequestValidationError: _invalid},
        middleware=[
            # Outermost: a page sees a refusal only with these headers.
            *([Middleware(CORSMiddleware, **_CORS, allow_origins=origins)] if origins else []),
            Middleware(Requests, metrics, state, limits.body),
            Middleware(Tokens, tokens, spared=open_paths)
            if tokens
            else Middleware(Hosts, hosts, origins, spared=PROBES),
            Middleware(Admission, limits, metrics, state, spared=open_paths | {METRICS}),
            Middleware(Current, follower),
            Middleware(Direct, direct),
        ],
    )
    app.state.follower = follower
    schema_routes = len(app.router.routes)  # openapi.json
    mount(engine.calls)
    return app


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return invalid({**first, "loc": first["loc"][1:]}).response()
