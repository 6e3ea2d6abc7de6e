"""What exports can be asked: each call with its path, body, bounds and answer."""

import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Annotated, Any, NamedTuple, TypeVar

from fastapi import UploadFile
from fastapi.routing import APIRouter
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from albef.preprocessing.zero_shot import TEMPLATE
from albef.serving.engine import current
from albef.serving.errors import BODY, Problem, describe_errors, message_of
from albef.serving.limits import BEST, BOXES, LABELS, TEMPLATES
from albef.serving.routes.bodies import FORM, Answered, Body, Images, Share, Text, Texts, read_files

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Any]])


class Call(NamedTuple):
    """Where a call is asked, and what answers it."""

    path: str
    endpoint: Callable[..., Awaitable[Any]]


CALLS: dict[str, Call] = {}
"""Every call that an export may have, by the name of the runtime's method."""


def call(name: str, path: str) -> Callable[[Endpoint], Endpoint]:
    """Register an endpoint for a method of the runtime; its docstring and bodies describe it."""

    def add(endpoint: Endpoint) -> Endpoint:
        CALLS[name] = Call(path, endpoint)
        return endpoint

    return add


def call_routes(calls: Collection[str]) -> APIRouter:
    """An endpoint for each call of the exports; the others answer with those there are."""
    router = APIRouter(tags=["models"])

    async def nobody() -> None:
        paths = ", ".join(known.path for name, known in CALLS.items() if name in calls)
        text = f"no export that is served here has it; there are {paths}"
        raise Problem(404, text, code="no_such_call")

    for name, known in CALLS.items():
        if name in calls:
            router.post(known.path, responses=describe_errors(*BODY, 429))(known.endpoint)
        else:
            router.post(known.path, include_in_schema=False)(nobody)
    return router


def _model(name: str) -> str:
    """What answers of a call say of the model that made them."""
    return current().calls[name].name


class Embeddings(Answered):
    """Unit vectors; the product of two is their similarity."""

    embeddings: list[list[float]]
    """One for each picture or text, in their order."""


class ImagesForm(Body):
    """Pictures."""

    image: Images
    """Pictures, as files"""


@call("embed_image", "/v1/embed/images")
async def embed_images(form: Annotated[ImagesForm, FORM]) -> Embeddings:
    """Pictures to unit vectors."""
    feats = await current().embed_pictures(await read_files(form.image))
    return Embeddings(model=_model("embed_image"), embeddings=feats.tolist())


class TextsBody(Body):
    """Texts to be embedded."""

    texts: Texts
    """One or several."""


@call("embed_text", "/v1/embed/texts")
async def embed_texts(body: TextsBody) -> Embeddings:
    """Texts to unit vectors."""
    feats = await current().embed_texts(body.texts)
    return Embeddings(model=_model("embed_text"), embeddings=feats.tolist())


class ImagesAndTexts(ImagesForm):
    """Pictures with texts."""

    text: Texts
    """Texts, a field for each"""


class Matches(Answered):
    """How well pictures and texts go together."""

    probabilities: list[Share]
    """That the picture and the text of each pair belong together."""


@call("match", "/v1/match")
async def match(form: Annotated[ImagesAndTexts, FORM]) -> Matches:
    """How probable it is that pictures and texts belong together.

    Picture i goes with text i; one picture goes with every text, one text with every picture.
    """
    images, texts = len(form.image), len(form.text)
    if images != texts and 1 not in (images, texts):
        text = f"{images} pictures and {texts} texts: as many of each are needed, or one"
        raise Problem(422, text)
    chances = await current().match(await read_files(form.image), form.text)
    return Matches(model=_model("match"), probabilities=chances)


class Judgement(Body):
    """A statement or a picture that was put into a class."""

    label: str | None
    """The most probable class; null where none is as probable as the server asks."""
    probabilities: dict[str, Share]
    """Of each class, if one is."""


class Judgements(Answered):
    """What became of statements or pictures."""

    results: list[Judgement]
    """One for each."""


def _judgements(name: str, shares: Iterable[dict[str, float]]) -> Judgements:
    results = [
        Judgement(label=max(each, key=each.__getitem__, default=None), probabilities=each)
        for each in shares
    ]
    return Judgements(model=_model(name), results=results)


class ZeroShotForm(ImagesForm):
    """Pictures with the names of classes."""

    label: Annotated[list[Text], Field(min_length=1, max_length=LABELS)]
    """Classes, a field for each"""
    template: list[Text] = Field(["{}"], min_length=1, max_length=TEMPLATES)
    """Texts with {} in place of a label, a field for each"""


@call("zero_shot", "/v1/zero-shot")
async def zero_shot(form: Annotated[ZeroShotForm, FORM]) -> Judgements:
    """Which of some classes, named in words alone, each picture shows."""
    if len(set(form.label)) < len(form.label):
        raise Problem(422, "label: one stands there twice", param="label")
    if not all(re.match(TEMPLATE, text) for text in form.template):
        text = "template: {} stands in it once, where a label goes"
        raise Problem(422, text, param="template")
    images = await read_files(form.image)
    chances = await current().zero_shot(images, form.label, form.template)
    rows = (dict(zip(form.label, row, strict=True)) for row in chances.tolist())
    return _judgements("zero_shot", rows)


class AskForm(Body):
    """A picture with questions."""

    image: UploadFile
    """A picture, as a file"""
    question: Texts
    """Questions, a field for each"""
    k: Annotated[int, Field(ge=1, le=BEST)] = 5
    """Most answers to each"""


class Answer(Body):
    """An answer to a question."""

    text: str
    """The answer."""
    probability: Share
    """Among the answers that were considered, or of the text that was written."""


class Answers(Answered):
    """Answers to questions."""

    answers: list[list[Answer]]
    """Those to each question, the most probable first; none where none is as probable as the
    server asks."""


@call("ask", "/v1/ask")
async def ask(form: Annotated[AskForm, FORM]) -> Answers:
    """Answers to questions about a picture."""
    answers = [
        [Answer(text=text, probability=chance) for text, chance in best[: form.k]]
        for best in await current().ask("ask", await read_files([form.image]), form.question)
    ]
    return Answers(model=_model("ask"), answers=answers)


class EntailForm(Body):
    """A picture with statements."""

    image: UploadFile
    """A picture, as a file"""
    statement: Texts
    """Statements, a field for each"""


@call("entail", "/v1/entail")
async def entail(form: Annotated[EntailForm, FORM]) -> Judgements:
    """Whether a picture contradicts, leaves open or entails statements."""
    images = await read_files([form.image])
    return _judgements("entail", await current().ask("entail", images, form.statement))


class CompareForm(Body):
    """Two pictures with statements."""

    first: UploadFile
    """The first picture, as a file"""
    second: UploadFile
    """The second picture, as a file"""
    statement: Texts
    """Statements, a field for each"""


@call("compare", "/v1/compare")
async def compare(form: Annotated[CompareForm, FORM]) -> Judgements:
    """Whether statements are true of two pictures together."""
    images = await read_files([form.first, form.second])
    return _judgements("compare", await current().ask("compare", images, form.statement))


@call("classify", "/v1/classify")
async def classify(form: Annotated[ImagesAndTexts, FORM]) -> Judgements:
    """Into which class each text about all the pictures together belongs."""
    images = await read_files(form.image)
    return _judgements("classify", await current().ask("classify", images, form.text))


Positive = Annotated[FiniteFloat, Field(gt=0)]
_Box = tuple[FiniteFloat, FiniteFloat, Positive, Positive]
_BOXES = TypeAdapter(Annotated[list[_Box], Field(min_length=1, max_length=BOXES)])


class GroundForm(Body):
    """A picture with expressions."""

    image: UploadFile
    """A picture, as a file"""
    expression: Texts
    """Expressions, a field for each"""
    boxes: Annotated[
        str | None,
        Field(
            json_schema_extra={
                "contentMediaType": "application/json",
                "contentSchema": _BOXES.json_schema(),
            },
        ),
    ] = None
    """Boxes to choose from, as JSON: [[left, top, width, height], ...] in pixels"""


class Location(Body):
    """Where a picture shows what an expression says."""

    probability: Share
    """That the picture and the expression belong together."""
    box: list[float] | None
    """Left, top, width and height of the hottest region, in pixels; null without heat."""
    best: int | None
    """Which of the boxes that were sent holds it, from 0; null where none were."""
    heat: list[list[float]]
    """How hot each part of the picture is, row by row from the top; the cells divide the whole
    picture evenly."""


class Locations(Answered):
    """Where a picture shows things."""

    width: int
    """Of the picture, in pixels."""
    height: int
    """Of the picture, in pixels."""
    results: list[Location]
    """One for each expression."""


@call("ground", "/v1/ground")
async def ground(form: Annotated[GroundForm, FORM]) -> Locations:
    """Where a picture shows what expressions say, and in which of some boxes."""
    try:
        choice = _BOXES.validate_json(form.boxes) if form.boxes is not None else ()
    except ValidationError as error:
        raise Problem(422, f"boxes: {message_of(error.errors()[0])}") from None
    image = await form.image.read()
    (width, height), locations = await current().ground(image, form.expression, choice)
    results = [
        Location(
            probability=location.probability,
            box=location.box and list(location.box),
            best=location.best,
            heat=location.heat.tolist(),
        )
        for location in locations
    ]
    return Locations(model=_model("ground"), width=width, height=height, results=results)
