"""The application of a server, put together of its parts."""

import asyncio
import contextlib
import importlib.metadata
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Match

from albef.serving.engine import Engine
from albef.serving.errors import CODES, Problem, sentence
from albef.serving.indexes.gallery import follow
from albef.serving.indexes.store import Store
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.serving.middleware import (
    PROBES,
    Bodies,
    Hosts,
    RequestLog,
    Responses,
    Slots,
    State,
    Tokens,
)
from albef.serving.routes.calls import call_routes
from albef.serving.routes.indexes import index_routes
from albef.serving.routes.server import page_routes, probe_routes, server_routes

TOKENS = "ALBEF_TOKENS"
"""Environment variable with the tokens of clients, separated by commas or spaces."""
_SHORTEST = 16  # characters of a token


def read_tokens() -> list[str]:
    """The tokens of clients, from the environment.

    Raises:
        ValueError: one is too short to be a secret.
    """
    tokens = os.environ.get(TOKENS, "").replace(",", " ").split()
    if any(len(token) < _SHORTEST for token in tokens):
        raise ValueError(f"{TOKENS}: a token has at least {_SHORTEST} characters")
    return tokens


def create_app(
    exports: Sequence[Path],
    limits: Limits,
    state: State,
    *,
    tokens: Sequence[str] = (),
    hosts: Sequence[str] = (),
    indexes: Path | None = None,
    gallery: Path | None = None,
    **options: Any,
) -> FastAPI:
    """The application that serves the exports in some folders; ``app.state.engine`` computes.

    Args:
        exports: of those that have a call the first one answers it.
        limits: of sizes and times.
        state: kept up to date by the application, and told when the server is to stop.
        tokens: of clients; without any, only those on this machine are answered.
        hosts: further names under which the server may be asked without a token.
        indexes: folder that keeps indexes of pictures; None keeps them in memory.
        gallery: folder of pictures that the index of this name follows.
        options: ``threads``, ``providers`` and ``precision`` of :func:`albef.runtime.load`, and
            ``workers``, computations at a time.

    Raises:
        ExportError: a folder holds no export, a changed one, or cannot run as asked.
        ValueError: there is a gallery, but no export embeds pictures.
    """
    metrics = Metrics()
    engine = Engine(exports, Store(indexes), limits, metrics, **options)
    if gallery and "embed_image" not in engine.calls:
        raise ValueError("--gallery: no export here embeds pictures; name one of a retrieval run")
    guarded = [call_routes(engine), index_routes(engine, bool(gallery)), server_routes(engine)]
    public = [probe_routes(engine, state), page_routes()]
    routers = [*guarded, *public]

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.running():
            following = asyncio.create_task(follow(engine, gallery)) if gallery else None
            state.ready = True
            yield
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        """What the framework refuses, in our words; nothing of the content is repeated."""
        assert isinstance(error, HTTPException)
        code, meaning = CODES.get(error.status_code, ("error", "the request was refused"))
        response = Problem(error.status_code, code, meaning).response()
        if error.status_code == 405:
            every = [*request.app.routes, *(each for part in routers for each in part.routes)]
            here = (each for each in every if each.matches(request.scope)[0] is not Match.NONE)
            methods = {name for each in here for name in getattr(each, "methods", ())}
            if "GET" in methods:
                methods.add("HEAD")
            response.headers["allow"] = ", ".join(sorted(methods))
        return response

    # What answers everybody reads no body and computes nothing: it needs no token and no slot.
    open_paths = frozenset(
        {"/openapi.json", *(each.path for part in public for each in part.routes)}  # type: ignore[attr-defined]
    )
    app = FastAPI(
        title="ALBEF",
        version=importlib.metadata.version("albef-pipeline"),
        description="Exported vision-language models.",
        docs_url=None,  # their script comes from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        exception_handlers={HTTPException: refuse, RequestValidationError: _invalid},
        middleware=[
            Middleware(RequestLog, metrics),
            Middleware(Responses, state, limits.body),
            Middleware(Tokens, tokens, spared=open_paths)
            if tokens
            else Middleware(Hosts, hosts, spared=PROBES),
            Middleware(Slots, limits.requests, metrics, spared=open_paths),
            Middleware(Bodies, limits, metrics, spared=open_paths),
        ],
    )
    app.state.engine = engine
    # :class:`Tokens` has checked it before: this is for openapi.json.
    secured = [Depends(HTTPBearer(scheme_name="token", auto_error=False))] if tokens else []
    for router in guarded:
        app.include_router(router, dependencies=secured)
    for router in public:
        app.include_router(router)
    return app


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Problem(400, CODES[400][0], "the body is no JSON").response()
    where = ".".join(str(part)[:80] for part in first["loc"][1:]) or "body"
    return Problem(422, CODES[422][0], f"{where}: {sentence(first)}").response()
