"""What exports can be asked."""

import re
from collections.abc import Awaitable, Callable, Collection
from typing import Annotated, Any

from fastapi import File, Form, UploadFile
from fastapi.routing import APIRouter
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from albef.preprocessing.zero_shot import TEMPLATE
from albef.runtime.model import CALLS
from albef.serving import bodies
from albef.serving.bodies import Image, Images, Route, Text, read_files
from albef.serving.engine import current
from albef.serving.errors import BODY, Problem, describe_errors, sentence
from albef.serving.limits import BEST, BOXES, LABELS, PICTURES, TEMPLATES

Texts = Annotated[
    list[Text], Form(min_length=1, max_length=PICTURES, description="Texts, a field for each")
]
Labels = Annotated[
    list[Text], Form(min_length=1, max_length=LABELS, description="Classes, a field for each")
]
Templates = Annotated[
    list[Text] | None,
    Form(max_length=TEMPLATES, description="Texts with {} in place of a label, a field for each"),
]
Positive = Annotated[FiniteFloat, Field(gt=0)]
_Box = tuple[FiniteFloat, FiniteFloat, Positive, Positive]
_BOXES = TypeAdapter(Annotated[list[_Box], Field(min_length=1, max_length=BOXES)])
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


def call_routes(calls: Collection[str]) -> APIRouter:
    """An endpoint for each call of the exports."""
    router = APIRouter(route_class=Route, tags=["models"])

    def name(call: str) -> str:
        return current().calls[call].name

    async def embed_images(image: Images) -> bodies.Embeddings:
        """Pictures to unit vectors."""
        feats = await current().embed_pictures(await read_files(image))
        return bodies.Embeddings(model=name("embed_image"), embeddings=feats.tolist())

    async def embed_texts(body: bodies.Texts) -> bodies.Embeddings:
        """Texts to unit vectors."""
        feats = await current().embed_texts(body.texts)
        return bodies.Embeddings(model=name("embed_text"), embeddings=feats.tolist())

    async def match(image: Images, text: Texts) -> bodies.Matches:
        """How probable it is that pictures and texts belong together.

        Picture i goes with text i; one picture goes with every text, one text with every picture.
        """
        if len(image) != len(text) and 1 not in (len(image), len(text)):
            counts = f"{len(image)} pictures and {len(text)} texts"
            raise Problem(422, f"{counts}: as many of each are needed, or one")
        chances = await current().match(await read_files(image), text)
        return bodies.Matches(model=name("match"), probabilities=chances)

    async def zero_shot(
        image: Images, label: Labels, template: Templates = None
    ) -> bodies.Judgements:
        """Which of some classes, named in words alone, each picture shows."""
        templates = template or ["{}"]
        if len(set(label)) < len(label):
            raise Problem(422, "label: one stands there twice", param="label")
        if not all(re.match(TEMPLATE, text) for text in templates):
            text = "template: {} stands in it once, where a label goes"
            raise Problem(422, text, param="template")
        chances = await current().zero_shot(await read_files(image), label, templates)
        shares = [dict(zip(label, row, strict=True)) for row in chances.tolist()]
        return bodies.Judgements(model=name("zero_shot"), results=judgements(shares))

    def judgements(shares: list[dict[str, float]]) -> list[bodies.Judgement]:
        return [
            bodies.Judgement(
                label=max(each, key=each.__getitem__, default=None), probabilities=each
            )
            for each in shares
        ]

    async def ask(
        image: Image,
        question: Texts,
        k: Annotated[int, Form(ge=1, le=BEST, description="Most answers to each")] = 5,
    ) -> bodies.Answers:
        """Answers to questions about a picture."""
        answers = [
            [bodies.Answer(text=text, probability=chance) for text, chance in best[:k]]
            for best in await current().ask("ask", await read_files([image]), question)
        ]
        return bodies.Answers(model=name("ask"), answers=answers)

    async def judge(
        call: str, images: list[UploadFile], statements: list[str]
    ) -> bodies.Judgements:
        shares = await current().ask(call, await read_files(images), statements)
        return bodies.Judgements(model=name(call), results=judgements(shares))

    async def entail(image: Image, statement: Texts) -> bodies.Judgements:
        """Whether a picture contradicts, leaves open or entails statements."""
        return await judge("entail", [image], statement)

    async def compare(
        first: Annotated[UploadFile, File(description="The first picture, as a file")],
        second: Annotated[UploadFile, File(description="The second picture, as a file")],
        statement: Texts,
    ) -> bodies.Judgements:
        """Whether statements are true of two pictures together."""
        return await judge("compare", [first, second], statement)

    async def classify(image: Images, text: Texts) -> bodies.Judgements:
        """Into which class each text about all the pictures together belongs."""
        return await judge("classify", image, text)

    async def ground(image: Image, expression: Texts, boxes: Boxes = None) -> bodies.Locations:
        """Where a picture shows what expressions say, and in which of some boxes."""
        try:
            choice = _BOXES.validate_json(boxes) if boxes is not None else ()
        except ValidationError as error:
            raise Problem(422, f"boxes: {sentence(error.errors()[0])}") from None
        (width, height), locations = await current().ground(await image.read(), expression, choice)
        results = [
            bodies.Location(
                probability=location.probability,
                box=location.box and list(location.box),
                best=location.best,
                heat=location.heat.tolist(),
            )
            for location in locations
        ]
        return bodies.Locations(model=name("ground"), width=width, height=height, results=results)

    endpoints: dict[str, tuple[str, Callable[..., Awaitable[Any]]]] = {
        "embed_image": ("/v1/embed/images", embed_images),
        "embed_text": ("/v1/embed/texts", embed_texts),
        "match": ("/v1/match", match),
        "zero_shot": ("/v1/zero-shot", zero_shot),
        "ask": ("/v1/ask", ask),
        "entail": ("/v1/entail", entail),
        "compare": ("/v1/compare", compare),
        "classify": ("/v1/classify", classify),
        "ground": ("/v1/ground", ground),
    }

    async def nobody() -> None:
        paths = ", ".join(endpoints[call][0] for call in calls)
        text = f"no export that is served here has it; there are {paths}"
        raise Problem(404, text, code="no_such_call")

    for call in CALLS:
        path, endpoint = endpoints[call]
        if call in calls:
            router.post(path, responses=describe_errors(*BODY, 429))(endpoint)
        else:
            router.post(path, include_in_schema=False)(nobody)
    return router
