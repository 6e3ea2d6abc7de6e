"""The application: its endpoints, and what is answered when something is refused or fails."""

import asyncio
import contextlib
import importlib.metadata
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path as Folder
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from albef.serving.engine import Engine
from albef.serving.errors import CODES, Problem
from albef.serving.gallery import follow
from albef.serving.gate import State
from albef.serving.routes.calls import calls
from albef.serving.routes.forms import Route
from albef.serving.routes.indexes import indexes
from albef.serving.routes.server import page, server


def build(
    engine: Engine, state: State, *, gallery: Folder | None = None, tokens: bool = False
) -> FastAPI:
    """The application.

    Args:
        engine: computes.
        state: whether requests are taken; it is kept up to date.
        gallery: a folder of pictures that the index of this name follows.
        tokens: whether clients need one, for ``openapi.json``.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.running():
            following = asyncio.create_task(follow(engine, gallery)) if gallery else None
            state.ready = True
            yield
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    app = FastAPI(
        title="ALBEF",
        version=importlib.metadata.version("albef-pipeline"),
        description="Exported vision-language models.",
        docs_url=None,  # their script comes from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.router.route_class = Route
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    for router in (
        calls(engine),
        indexes(engine, gallery is not None),
        server(engine, state),
        page(),
    ):
        app.include_router(router)
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema and tokens:
            schema = describe()
            schema.setdefault("components", {})["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer"}
            }
            for path, item in schema["paths"].items():
                for operation in item.values():
                    if path.startswith(("/v1/", "/metrics")):
                        operation["security"] = [{"token": []}]
        return describe()

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return error.response()


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses, in our words; nothing of the content is repeated."""
    assert isinstance(error, HTTPException)
    code, meaning = CODES.get(error.status_code, ("error", "the request was refused"))
    response = Problem(error.status_code, code, meaning).response()
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Problem(400, CODES[400][0], "the body is no JSON").response()
    where = ".".join(str(part)[:80] for part in first["loc"][1:]) or "body"
    return Problem(422, CODES[422][0], f"{where}: {first['msg']}").response()


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return Problem(500, *CODES[500]).response()


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Problem: _problem,
    HTTPException: _refused,
    RequestValidationError: _invalid,
    Exception: _failed,
}
