"""What exports can be asked."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import File, Form, UploadFile
from fastapi.routing import APIRouter
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from albef.runtime.model import CALLS
from albef.serving import bodies
from albef.serving.bodies import Text
from albef.serving.engine import Engine
from albef.serving.errors import BODY, CODES, Problem, told
from albef.serving.limits import BEST, BOXES, PICTURES
from albef.serving.routes.forms import Image, Images, Route, read

Said = Annotated[
    list[Text], Form(min_length=1, max_length=PICTURES, description="Texts, a field for each")
]
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


def calls(engine: Engine) -> APIRouter:
    """An endpoint for each call of the exports."""
    router = APIRouter(route_class=Route, tags=["models"])
    answers = told(*BODY, 429)

    def name(call: str) -> str:
        return engine.calls[call].served.name

    async def embed_images(image: Images) -> bodies.Embeddings:
        """Pictures to unit vectors."""
        feats = await engine.embed_pictures(await read(image))
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
        chances = await engine.match(await read(image), text)
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


def _judged(model: str, found: list[dict[str, float]]) -> bodies.Judgements:
    results = [
        bodies.Judged(label=max(own, key=lambda label: own[label]), probabilities=own)
        for own in found
    ]
    return bodies.Judgements(model=model, results=results)
