"""The endpoints: what is asked over HTTP, and what is answered."""

import asyncio
import contextlib
import importlib.metadata
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from importlib.resources import files
from pathlib import Path as Folder
from typing import Annotated, Any

import onnxruntime
from fastapi import Depends, FastAPI, File, Form, Path, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute, APIRouter
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from albef.runtime.model import CALLS
from albef.serving import bodies
from albef.serving.bodies import Text
from albef.serving.engine import Engine
from albef.serving.errors import BODY, CODES, Problem, told
from albef.serving.gallery import GALLERY, follow
from albef.serving.gate import State
from albef.serving.index import ID, NAME, Index
from albef.serving.limits import BEST, BOXES, INDEXES, PICTURES, TEXT

Images = Annotated[
    list[UploadFile],
    File(min_length=1, max_length=PICTURES, description="Pictures, as files"),
]
Image = Annotated[UploadFile, File(description="A picture, as a file")]
Said = Annotated[
    list[Text], Form(min_length=1, max_length=PICTURES, description="Texts, a field for each")
]
Name = Annotated[str, Path(pattern=NAME, description="Of an index")]
Id = Annotated[str, Path(pattern=ID, description="Of a picture")]
Positive = Annotated[FiniteFloat, Field(gt=0)]
_BOXES = TypeAdapter(
    Annotated[
        list[tuple[FiniteFloat, FiniteFloat, Positive, Positive]],
        Field(min_length=1, max_length=BOXES),
    ]
)
Boxes = Annotated[
    str | None,
    Form(
        description="Boxes to choose from, as JSON: [[left, top, width, height], ...] in pixels",
        json_schema_extra={
            "contentMediaType": "application/json",
            "contentSchema": _BOXES.json_schema(),
        },
    ),
]
_PATHS = {
    "embed_image": "/v1/embed/images",
    "embed_text": "/v1/embed/texts",
    "match": "/v1/match",
    "ask": "/v1/ask",
    "entail": "/v1/entail",
    "compare": "/v1/compare",
    "ground": "/v1/ground",
}
"""Where each call of an export is asked."""


class _Route(APIRoute):
    """A route that says so when a body has another type than it takes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        form = isinstance(self.body_field.field_info, Form("").__class__)
        wanted = "multipart/form-data" if form else "application/json"

        async def checked(request: Request) -> Response:
            given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if given != wanted:
                raise Problem(415, CODES[415][0], f"send the body as {wanted}")
            return await handle(request)

        return checked


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
    app.router.route_class = _Route
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    for router in (
        _calls(engine),
        _indexes(engine, gallery is not None),
        _server(engine, state),
        _page(),
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


def _calls(engine: Engine) -> APIRouter:
    """What the exports can be asked."""
    router = APIRouter(route_class=_Route, tags=["models"])
    answers = told(*BODY, 429)

    def name(call: str) -> str:
        return engine.calls[call].served.name

    async def embed_images(image: Images) -> bodies.Embeddings:
        """Pictures to unit vectors."""
        feats = await engine.embed_pictures(await _read(image))
        return bodies.Embeddings(model=name("embed_image"), embeddings=feats.tolist())

    async def embed_texts(body: bodies.Texts) -> bodies.Embeddings:
        """Texts to unit vectors."""
        feats = await engine.embed_texts(body.texts)
        return bodies.Embeddings(model=name("embed_text"), embeddings=feats.tolist())

    async def match(image: Images, text: Said) -> bodies.Matches:
        """How probable it is that pictures and texts belong together.

        Picture i goes with text i; one picture goes with every text, one text with every picture.
        """
        if len(image) != len(text) and 1 not in (len(image), len(text)):
            raise Problem(
                422,
                "invalid",
                f"{len(image)} pictures and {len(text)} texts: as many of each are needed, or one",
            )
        chances = await engine.match(await _read(image), text)
        return bodies.Matches(model=name("match"), probabilities=chances)

    async def ask(
        image: Image,
        question: Said,
        k: Annotated[int, Form(ge=1, le=BEST, description="Most answers to each")] = 5,
    ) -> bodies.Answers:
        """Answers to questions about a picture."""
        found = await engine.ask(await image.read(), question, k)
        answers = [[bodies.Answer(text=t, probability=p) for t, p in own] for own in found]
        return bodies.Answers(model=name("ask"), answers=answers)

    async def entail(image: Image, statement: Said) -> bodies.Judgements:
        """Whether a picture contradicts, leaves open or entails statements."""
        return _judged(name("entail"), await engine.entail(await image.read(), statement))

    async def compare(
        first: Annotated[UploadFile, File(description="The first picture, as a file")],
        second: Annotated[UploadFile, File(description="The second picture, as a file")],
        statement: Said,
    ) -> bodies.Judgements:
        """Whether statements are true of two pictures together."""
        pair = await first.read(), await second.read()
        return _judged(name("compare"), await engine.compare(*pair, statement))

    async def ground(image: Image, expression: Said, boxes: Boxes = None) -> bodies.Locations:
        """Where a picture shows what expressions say, and in which of some boxes."""
        try:
            given = _BOXES.validate_json(boxes) if boxes is not None else ()
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise Problem(422, CODES[422][0], f"boxes: {reason}") from None
        (width, height), found = await engine.ground(await image.read(), expression, given)
        results = [
            bodies.Location(
                probability=own.probability,
                box=None if own.box is None else list(own.box),
                best=own.best,
                heat=own.heat.tolist(),
            )
            for own in found
        ]
        return bodies.Locations(model=name("ground"), width=width, height=height, results=results)

    endpoints: dict[str, Callable[..., Awaitable[Any]]] = {
        "embed_image": embed_images,
        "embed_text": embed_texts,
        "match": match,
        "ask": ask,
        "entail": entail,
        "compare": compare,
        "ground": ground,
    }

    async def nobody() -> None:
        calls = ", ".join(_PATHS[call] for call in engine.calls)
        raise Problem(
            404, "no_such_call", f"no export that is served here has it; there are {calls}"
        )

    for call in CALLS:
        if call in engine.calls:
            router.post(_PATHS[call], responses=answers)(endpoints[call])
        else:
            router.post(_PATHS[call], include_in_schema=False)(nobody)
    return router


def _indexes(engine: Engine, gallery: bool) -> APIRouter:
    """Indexes of pictures; the gallery is the folder's, if one is followed."""
    router = APIRouter(prefix="/v1/indexes", route_class=_Route, tags=["indexes"])
    if "embed_image" not in engine.calls:
        return router
    served, store = engine.calls["embed_image"].served, engine.store

    async def find(name: Name) -> Index:
        index = await engine.stored(store.get, name)
        if index is None:
            raise Problem(404, "no_such_index", f"there is no index {name}")
        return index

    async def usable(index: Annotated[Index, Depends(find)]) -> Index:
        if index.space != served.space:
            raise Problem(
                409,
                "other_model",
                f"the index {index.name} was made by another model (run {index.run}) than "
                f"{served.name}; delete it and add its pictures again",
            )
        return index

    def writable(name: str) -> None:
        if gallery and name == GALLERY:
            raise Problem(409, "read_only", "the gallery follows its folder")
        if store.folder is None:
            raise Problem(
                409, "read_only", "this server keeps no indexes; start it with --indexes FOLDER"
            )

    async def info(index: Index) -> bodies.IndexInfo:
        return bodies.IndexInfo(
            name=index.name,
            pictures=await engine.stored(len, index),
            run=index.run,
            usable=index.space == served.space,
            approximate=index.approximate,
            read_only=store.folder is None or (gallery and index.name == GALLERY),
        )

    Found = Annotated[Index, Depends(find)]
    Usable = Annotated[Index, Depends(usable)]

    @router.get("", responses=told())
    async def list_indexes() -> bodies.Indexes:
        """All indexes."""
        found = await engine.stored(store.all)
        return bodies.Indexes(indexes=[await info(index) for index in found])

    @router.put("/{name}", responses={**told(409, 422), 201: {"model": bodies.IndexInfo}})
    async def create_index(name: Name, response: Response) -> bodies.IndexInfo:
        """Make an empty index; one that is there already stays as it is."""
        writable(name)
        index = await engine.stored(store.get, name)
        if index is None:
            if len(await engine.stored(store.all)) >= INDEXES:
                raise Problem(409, "too_many_indexes", f"there are {INDEXES} indexes already")
            width = served.facts.embed_dim
            index = await engine.stored(store.create, name, served.space, served.run, width)
            response.status_code = 201
        return await info(await usable(index))

    @router.get("/{name}", responses=told(404, 422))
    async def describe_index(index: Found) -> bodies.IndexInfo:
        """One index."""
        return await info(index)

    @router.delete("/{name}", status_code=204, responses=told(404, 409, 422))
    async def delete_index(index: Found) -> None:
        """Delete an index with all its pictures."""
        writable(index.name)
        await engine.stored(store.delete, index.name)

    @router.post("/{name}/images", responses=told(404, 409, 429, *BODY))
    async def add_images(
        index: Usable,
        image: Images,
        id: Annotated[
            list[Annotated[str, Field(pattern=ID)]] | None,
            Form(
                max_length=PICTURES,
                description="What each is called, a field for each picture; without, by its digest",
            ),
        ] = None,
    ) -> bodies.Added:
        """Add pictures; one whose name is there already is replaced."""
        writable(index.name)
        if id and len(id) != len(image):
            raise Problem(
                422, "invalid", f"{len(image)} pictures and {len(id)} names: one for each, or none"
            )
        ids = await engine.indexed(index, await _read(image), id or [None] * len(image))
        count = await engine.stored(len, index)
        return bodies.Added(model=served.name, ids=ids, pictures=count)

    @router.post("/{name}/search", responses=told(404, 409, 429, *BODY))
    async def search_index(
        index: Usable,
        text: Annotated[Text | None, Form(description="What to look for")] = None,
        image: Annotated[
            UploadFile | None, File(description="A picture like which to look, in place of a text")
        ] = None,
        k: Annotated[int, Form(ge=1, le=BEST, description="How many")] = 10,
        rerank: Annotated[
            int,
            Form(
                ge=0,
                le=BEST,
                description="So many of the most similar are read together with the text",
            ),
        ] = 0,
    ) -> bodies.Hits:
        """The pictures that fit a text or a picture best."""
        if (text is None) == (image is None):
            raise Problem(422, "invalid", "send a text or an image to look for")
        query = text if text is not None else await image.read() if image else b""
        found = await engine.search(index, query, k, rerank)
        results = [
            bodies.Hit(id=own.id, similarity=own.similarity, probability=own.probability)
            for own in found
        ]
        return bodies.Hits(model=served.name, results=results)

    @router.get(
        "/{name}/images/{id}",
        response_class=Response,
        responses={
            **told(404, 422),
            200: {
                "description": "A small copy of the picture",
                "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
            },
        },
    )
    async def show_image(index: Found, id: Id) -> Response:
        """A small copy of a picture."""
        thumbnail = await engine.stored(index.thumbnail, id)
        if thumbnail is None:
            raise Problem(404, "no_such_image", f"the index {index.name} has no picture {id}")
        return Response(thumbnail, media_type="image/jpeg")

    @router.delete("/{name}/images/{id}", status_code=204, responses=told(404, 409, 422))
    async def delete_image(index: Found, id: Id) -> None:
        """Take a picture out."""
        writable(index.name)
        if not await engine.stored(index.remove, [id]):
            raise Problem(404, "no_such_image", f"the index {index.name} has no picture {id}")

    return router


def _server(engine: Engine, state: State) -> APIRouter:
    """What is known of the server itself."""
    router = APIRouter(tags=["server"])
    limits = engine.limits

    @router.get("/v1/model", responses=told())
    async def model() -> bodies.Server:
        """What is served: exports, calls, versions and limits."""
        return bodies.Server(
            albef=importlib.metadata.version("albef-pipeline"),
            onnxruntime=onnxruntime.__version__,
            models=[
                bodies.ModelInfo(
                    run=served.run,
                    kind=served.facts.kind,
                    digest=served.digest,
                    precision=served.precision,
                    providers=served.providers,
                    calls=sorted(served.calls),
                    image_size=served.facts.image_size,
                    max_tokens=served.facts.max_tokens,
                    max_words=served.facts.max_words,
                    embed_dim=served.facts.embed_dim,
                    classes=list(served.facts.classes),
                )
                for served in engine.exports
            ],
            calls={call: lane.served.run for call, lane in engine.calls.items()},
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

    @router.get("/healthz")
    async def healthz() -> bodies.Health:
        """Whether the process is alive."""
        return bodies.Health(status="alive")

    @router.get("/readyz", responses={503: told()[503]})
    async def readyz() -> bodies.Health:
        """Whether it takes requests; not any more once it was told to stop."""
        if not state.ready or state.leaving:
            raise Problem(503, "unavailable", "the server is starting or stopping", 1)
        return bodies.Health(status="ready")

    @router.get("/metrics", response_class=PlainTextResponse, responses=told())
    async def metrics() -> PlainTextResponse:
        """Numbers for Prometheus."""
        return PlainTextResponse(engine.metrics.page())

    return router


def _page() -> APIRouter:
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


async def _read(images: list[UploadFile]) -> list[bytes]:
    return [await image.read() for image in images]


def _judged(model: str, found: list[dict[str, float]]) -> bodies.Judgements:
    results = [
        bodies.Judged(label=max(own, key=lambda label: own[label]), probabilities=own)
        for own in found
    ]
    return bodies.Judgements(model=model, results=results)


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
