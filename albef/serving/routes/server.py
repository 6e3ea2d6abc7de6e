"""What is known of the server itself, and the files of its page."""

import importlib.metadata
import mimetypes
from importlib.resources import files

import onnxruntime
from fastapi import Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRouter

from albef.serving import bodies
from albef.serving.engine import current
from albef.serving.errors import Problem, describe_errors
from albef.serving.limits import BEST, BOXES, PICTURES, TEXT
from albef.serving.middleware.exchange import State


def probe_routes(state: State) -> APIRouter:
    """Health and readiness, for everybody."""
    router = APIRouter(tags=["server"])

    @router.get("/healthz")
    async def healthz() -> bodies.Health:
        """Whether the process is alive."""
        return bodies.Health(status="alive")

    @router.get("/readyz", responses={503: describe_errors()[503]})
    async def readyz() -> bodies.Health:
        """Whether it takes requests: not while pictures hold all decoders up, nor any more once it
        was told to stop."""
        if not state.ready or state.leaving:
            raise Problem(503, "the server is starting or stopping", 1)
        current().decoders.check()
        return bodies.Health(status="ready")

    return router


def server_routes() -> APIRouter:
    """What is served, and numbers."""
    router = APIRouter(tags=["server"])

    @router.get("/v1/model", responses=describe_errors())
    async def model() -> bodies.Server:
        """What is served: exports, calls, versions and limits."""
        engine = current()
        limits = engine.limits
        return bodies.Server(
            albef=importlib.metadata.version("albef-pipeline"),
            onnxruntime=onnxruntime.__version__,
            models=[
                bodies.ModelInfo(
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
            limits=bodies.Bounds(
                body_bytes=limits.body,
                pixels=limits.pixels,
                pictures=PICTURES,
                text=TEXT,
                boxes=BOXES,
                best=BEST,
                seconds=limits.seconds,
            ),
        )

    @router.get("/metrics", response_class=PlainTextResponse, responses=describe_errors())
    async def metrics() -> PlainTextResponse:
        """Numbers for Prometheus."""
        return PlainTextResponse(current().metrics.page())

    return router


def page_routes() -> APIRouter:
    """The files of the page, each under its name; no other path leads to a file."""
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
