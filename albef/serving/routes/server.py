"""Endpoints about the server itself, and the files of its page."""

import importlib.metadata
import mimetypes
from importlib.resources import files

import onnxruntime
from fastapi import Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRouter

from albef.runtime.manifest import Facts
from albef.serving.engine import current
from albef.serving.errors import ApiError, describe_errors
from albef.serving.middleware.exchange import State
from albef.serving.routes.bodies import Body

router = APIRouter(tags=["server"])
"""Routes of the server's description and metrics."""


class ModelInfo(Facts):
    """An export that is served."""

    run: str
    """The run that was exported."""
    digest: str
    """SHA-256 of the whole export."""
    precision: str
    """Precision of its weights."""
    providers: list[str]
    """Providers of ONNX Runtime that compute it."""
    calls: list[str]
    """Names of its calls."""


class Server(Body):
    """Description of this server."""

    albef: str
    """Version of the library."""
    onnxruntime: str
    """Version of ONNX Runtime."""
    models: list[ModelInfo]
    """The exports, in the order in which they were named."""
    calls: dict[str, str]
    """Each available call, and the run that answers it."""
    limits: dict[str, int | float]
    """Limits of a request: bytes of its body, pixels of an image, images (or texts, or pairs),
    characters of a text, boxes of an image and results of a search. `seconds` is the time limit of
    an answer."""


def probe_routes(state: State) -> APIRouter:
    """Return the routes of liveness and readiness, which need no token."""
    router = APIRouter(tags=["server"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Return 200 while the process is alive."""
        return {"status": "alive"}

    @router.get("/readyz", responses={503: describe_errors()[503]})
    async def readyz() -> dict[str, str]:
        """Return 200 if the server takes requests, else 503. It fails after a stop signal."""
        if not state.ready or state.stopping:
            raise ApiError(503, "the server is starting or stopping", 1)
        return {"status": "ready"}

    return router


@router.get("/v1/model", responses=describe_errors())
async def model() -> Server:
    """Describe the server: exports, calls, versions and limits."""
    engine = current()
    return Server(
        albef=importlib.metadata.version("albef-pipeline"),
        onnxruntime=onnxruntime.__version__,
        models=[
            ModelInfo(
                run=queues.run,
                digest=queues.model.digest,
                precision=queues.precision,
                providers=queues.model.backend.providers,
                calls=sorted(queues.model.calls),
                **dict(queues.model.facts),
            )
            for queues in engine.models
        ],
        calls={call: queues.run for call, queues in engine.calls.items()},
        limits=engine.limits.described(),
    )


@router.get("/metrics", response_class=PlainTextResponse, responses=describe_errors())
async def metrics() -> PlainTextResponse:
    """Return metrics for Prometheus."""
    return PlainTextResponse(current().metrics.page())


def page_routes() -> APIRouter:
    """Return the routes of the page's files, each under its name. No other path leads to a file."""
    router = APIRouter(include_in_schema=False)
    for file in files("albef.serving").joinpath("web").iterdir():
        kind = mimetypes.guess_type(file.name)[0]
        if not file.is_file() or kind is None:
            continue
        content = file.read_bytes()

        async def show(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

        router.get("/" if file.name == "index.html" else f"/{file.name}")(show)
    return router
