"""Endpoints for the calls of exports."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, TypeVar

from fastapi import UploadFile
from fastapi.routing import APIRouter
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from albef.preprocessing.zero_shot import TEMPLATE
from albef.serving.engine import current
from albef.serving.errors import BODY, ApiError, describe_errors, message_of
from albef.serving.limits import BEST, BOXES, LABELS, TEMPLATES
from albef.serving.routes.bodies import (
    FORM,
    Body,
    Images,
    Probability,
    ResponseBody,
    Text,
    Texts,
    VectorsBody,
    VectorType,
    read_files,
)

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Any]])
router = APIRouter(tags=["models"], responses=describe_errors(404, 429, *BODY))
CALLS: dict[str, str] = {}
"""Path of each call that an export can have, by the name of the runtime's method."""


def call(name: str, path: str) -> Callable[[Endpoint], Endpoint]:
    """Register an endpoint for a method of the runtime.

    Its docstring and bodies describe it in openapi.json.
    """
    CALLS[name] = path
    return router.post(path)


def _model(name: str) -> str:
    return current().calls[name].name


Vectors = list[list[float] | list[int] | str]


class Embeddings(ResponseBody):
    """Unit vectors. The dot product of two vectors is their similarity.

    Vectors in ``int8`` have other lengths. Divide the dot product by both.
    """

    embeddings: Vectors | dict[VectorType, Vectors]
    """One vector for each image or text, in order, in the requested format; by type if a list of
    types was requested."""


class ImagesForm(Body):
    """Images."""

    image: Images
    """Image files. Repeat the field for each image."""


class EmbedImagesForm(ImagesForm, VectorsBody):
    """Images to embed."""


@call("embed_image", "/v1/embed/images")
async def embed_images(form: Annotated[EmbedImagesForm, FORM]) -> Embeddings:
    """Embed images as unit vectors."""
    feats = await current().embed_images(await read_files(form.image))
    return Embeddings(model=_model("embed_image"), embeddings=form.encode(feats))


VectorTypes = VectorType | Annotated[list[VectorType], Field(min_length=1, max_length=3)]


class TextsBody(VectorsBody):
    """Texts to embed."""

    texts: Texts
    """One or more texts."""
    embedding_types: VectorTypes = "float"  # type: ignore[assignment]
    """A type, or a list of types, for which `embeddings` is an object with each."""


@call("embed_text", "/v1/embed/texts")
async def embed_texts(body: TextsBody) -> Embeddings:
    """Embed texts as unit vectors."""
    feats, types = await current().embed_texts(body.texts), body.embedding_types
    return Embeddings(
        model=_model("embed_text"),
        embeddings={each: body.encode(feats, each) for each in types}
        if isinstance(types, list)
        else body.encode(feats, types),
    )


class ImagesAndTexts(ImagesForm):
    """Images and texts."""

    text: Texts
    """Texts. Repeat the field for each text."""


class Matches(ResponseBody):
    """Match probabilities of images and texts."""

    probabilities: list[Probability]
    """Probability that the text of each pair is the caption of the image."""


@call("match", "/v1/match")
async def match(form: Annotated[ImagesAndTexts, FORM]) -> Matches:
    """Return the probability that each text is the caption of its image.

    Texts are compared with captions like those of the training data. If these name everything in an
    image, a true text that leaves objects out has a low probability.

    Image i is paired with text i. A single image is paired with every text, a single text with
    every image.
    """
    chances = await current().match(await read_files(form.image), form.text)
    return Matches(model=_model("match"), probabilities=chances)


class Judgement(Body):
    """Class of a statement or an image."""

    label: str | None
    """The most probable class; null if no class reaches the server's minimum probability."""
    probabilities: dict[str, Probability]
    """Probability of each class; empty if `label` is null."""


class Judgements(ResponseBody):
    """Classes of statements or images."""

    results: list[Judgement]
    """One result for each statement or image, in order."""


def _judgements(name: str, shares: Iterable[dict[str, float]]) -> Judgements:
    results = [
        Judgement(label=max(each, key=each.__getitem__, default=None), probabilities=each)
        for each in shares
    ]
    return Judgements(model=_model(name), results=results)


class ZeroShotForm(ImagesForm):
    """Images and names of classes."""

    label: Annotated[list[Text], Field(min_length=1, max_length=LABELS)]
    """Names of classes. Repeat the field for each class."""
    template: list[Text] = Field(["{}"], min_length=1, max_length=TEMPLATES)
    """Prompt templates with {} in place of a label. Repeat the field for each template."""


@call("zero_shot", "/v1/zero-shot")
async def zero_shot(form: Annotated[ZeroShotForm, FORM]) -> Judgements:
    """Classify images into classes that are given only by name."""
    if len(set(form.label)) < len(form.label):
        raise ApiError(422, "label: send each class once", param="label")
    if not all(re.match(TEMPLATE, text) for text in form.template):
        text = "template must have {} once, in place of the label"
        raise ApiError(422, text, param="template")
    images = await read_files(form.image)
    chances = await current().zero_shot(images, form.label, form.template)
    least = current().calls["zero_shot"].model.min_probability
    confident = (row if max(row) >= least else () for row in chances.tolist())
    return _judgements("zero_shot", (dict(zip(form.label, row, strict=False)) for row in confident))


class AskForm(Body):
    """An image and questions."""

    image: UploadFile
    """An image file."""
    question: Texts
    """Questions. Repeat the field for each question."""
    k: Annotated[int, Field(ge=1, le=BEST)] = 5
    """Maximum number of answers to each question."""


class Answer(Body):
    """An answer to a question."""

    text: str
    """The answer."""
    probability: Probability
    """Probability among the considered answers or, for a generated answer, of its text."""


class Answers(ResponseBody):
    """Answers to questions."""

    answers: list[list[Answer]]
    """Answers to each question, the most probable first; empty if none reaches the server's minimum
    probability."""


@call("ask", "/v1/ask")
async def ask(form: Annotated[AskForm, FORM]) -> Answers:
    """Answer questions about an image."""
    answers = [
        [Answer(text=text, probability=chance) for text, chance in best[: form.k]]
        for best in await current().ask("ask", await read_files([form.image]), form.question)
    ]
    return Answers(model=_model("ask"), answers=answers)


class EntailForm(Body):
    """An image and statements."""

    image: UploadFile
    """An image file."""
    statement: Texts
    """Statements. Repeat the field for each statement."""


@call("entail", "/v1/entail")
async def entail(form: Annotated[EntailForm, FORM]) -> Judgements:
    """Decide whether an image contradicts, leaves open or entails statements."""
    images = await read_files([form.image])
    return _judgements("entail", await current().ask("entail", images, form.statement))


class CompareForm(Body):
    """Two images and statements."""

    first: UploadFile
    """File of the first image."""
    second: UploadFile
    """File of the second image."""
    statement: Texts
    """Statements. Repeat the field for each statement."""


@call("compare", "/v1/compare")
async def compare(form: Annotated[CompareForm, FORM]) -> Judgements:
    """Decide whether statements are true of two images together."""
    images = await read_files([form.first, form.second])
    return _judgements("compare", await current().ask("compare", images, form.statement))


@call("classify", "/v1/classify")
async def classify(form: Annotated[ImagesAndTexts, FORM]) -> Judgements:
    """Classify texts, each about all the images together."""
    images = await read_files(form.image)
    return _judgements("classify", await current().ask("classify", images, form.text))


Positive = Annotated[FiniteFloat, Field(gt=0)]
_Box = tuple[FiniteFloat, FiniteFloat, Positive, Positive]
_BOXES = TypeAdapter(Annotated[list[_Box], Field(min_length=1, max_length=BOXES)])


class GroundForm(Body):
    """An image and expressions."""

    image: UploadFile
    """An image file."""
    expression: Texts
    """Expressions. Repeat the field for each expression."""
    boxes: Annotated[
        str | None,
        Field(
            json_schema_extra={
                "contentMediaType": "application/json",
                "contentSchema": _BOXES.json_schema(),
            }
        ),
    ] = None
    """Boxes to choose from, as JSON: [[left, top, width, height], ...] in pixels."""


class Location(Body):
    """Location of an expression in an image."""

    probability: Probability
    """Probability that the expression describes the image, as of `match`."""
    box: list[float] | None
    """Left, top, width and height of the hottest region, in pixels; null if the map has no heat."""
    best: int | None
    """Index of the sent box that fits best, from 0; null if no boxes were sent."""
    heat: list[list[float]]
    """Heat of each cell of the image, row by row from the top. The cells divide the whole image
    evenly."""


class Locations(ResponseBody):
    """Locations of expressions in an image."""

    width: int
    """Width of the image, in pixels."""
    height: int
    """Height of the image, in pixels."""
    results: list[Location]
    """One location for each expression, in order."""


@call("ground", "/v1/ground")
async def ground(form: Annotated[GroundForm, FORM]) -> Locations:
    """Locate expressions in an image, and choose from proposed boxes."""
    try:
        choice = _BOXES.validate_json(form.boxes) if form.boxes is not None else ()
    except ValidationError as error:
        raise ApiError(422, f"boxes: {message_of(error.errors()[0])}") from None
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
