"""What calls take and answers look like; ``openapi.json`` is made of these."""

import inspect
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Annotated, Any

from fastapi import File, Form, Request, Response, UploadFile
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from albef.runtime.manifest import Facts
from albef.serving.errors import Problem, invalid
from albef.serving.limits import PICTURES, TEXT
from albef.serving.middleware.exchange import exchange_of, media_type

Text = Annotated[str, StringConstraints(min_length=1, max_length=TEXT, pattern=r"\S")]
"""A text that is read."""
Share = Annotated[float, Field(ge=0, le=1)]
Image = Annotated[UploadFile, File(description="A picture, as a file")]
Images = Annotated[
    list[UploadFile],
    File(min_length=1, max_length=PICTURES, description="Pictures, as files"),
]

_JSON = "application/json"


async def read_files(images: list[UploadFile]) -> list[bytes]:
    """What files of a form hold."""
    return [await image.read() for image in images]


class Route(APIRoute):
    """A route that refuses a body of another type than it takes, and fields that it does not."""

    @cached_property
    def model(self) -> type[BaseModel] | None:
        """What it takes as JSON, where that is all, so that :meth:`answer` can be asked."""
        kinds = [each.annotation for each in inspect.signature(self.endpoint).parameters.values()]
        if "{" in self.path or self.methods != {"POST"} or len(kinds) != 1:
            return None
        return kinds[0] if inspect.isclass(kinds[0]) and issubclass(kinds[0], BaseModel) else None

    async def answer(self, body: bytes, content_type: str) -> Response:
        """What the endpoint says of a body of some type, without the framework.

        Raises:
            Problem: the body is another than it takes.
        """
        _check_type(content_type, _JSON)
        assert self.model is not None
        try:
            model = self.model.model_validate_json(body)
        except ValidationError as error:
            raise invalid(error.errors(include_url=False)[0]) from None
        answer = await self.endpoint(model)
        if isinstance(answer, Response):
            return answer
        return Response(answer.__pydantic_serializer__.to_json(answer), media_type=_JSON)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind a look at the body."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        is_form = isinstance(self.body_field.field_info, Form("").__class__)
        accepted = "multipart/form-data" if is_form else _JSON
        field_names = [field.alias for field in self.dependant.body_params]

        async def checked(request: Request) -> Response:
            _check_type(media_type(exchange_of(request.scope).headers), accepted)
            fields = list(await request.form()) if is_form else []
            if unknown := [name for name in fields if name not in field_names]:
                await request.close()
                text = f"there is no field {unknown[0][:80]}; there are {', '.join(field_names)}"
                raise Problem(422, text)
            return await handle(request)

        return checked


def _check_type(content_type: str, accepted: str) -> None:
    if content_type != accepted:
        raise Problem(415, f"send the body as {accepted}")


class Body(BaseModel):
    """A body whose fields are described."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")


class Answered(Body):
    """An answer of a model."""

    model: str
    """Which one answered: its run and the beginning of its digest."""


class Embeddings(Answered):
    """Unit vectors; the product of two is their similarity."""

    embeddings: list[list[float]]
    """One for each picture or text, in their order."""


class Matches(Answered):
    """How well pictures and texts go together."""

    probabilities: list[Share]
    """That the picture and the text of each pair belong together."""


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


class Texts(Body):
    """Texts to be embedded."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=PICTURES)]
    """One or several."""


class IndexInfo(Body):
    """An index of pictures."""

    name: str
    """What it is called."""
    pictures: int
    """How many it has."""
    run: str
    """The run whose model made its features."""
    usable: bool
    """Whether it can be searched: not while a new model still reads its pictures, nor where they
    are of another size than it reads."""
    read_only: bool
    """Whether it follows a folder and takes no pictures from clients."""


class Indexes(Body):
    """All indexes."""

    indexes: list[IndexInfo]
    """By name."""


class Added(Answered):
    """Pictures that are in an index now."""

    ids: list[str]
    """What they are called there, in their order."""
    pictures: int
    """How many the index has."""


class Hit(Body):
    """A picture that was found."""

    id: str
    """What it is called in its index."""
    similarity: float
    """Product of the features, from -1 to 1."""
    probability: Share | None
    """That it and the text belong together; null where they were not read together."""


class Hits(Answered):
    """Pictures that were found."""

    results: list[Hit]
    """The best first: those that were read together with the text by probability, then the others
    by similarity."""


class ModelInfo(Facts):
    """An export that is served."""

    run: str
    """The run that was exported."""
    digest: str
    """SHA-256 of the whole export."""
    precision: str
    """Of its weights."""
    providers: list[str]
    """What ONNX Runtime computes it on."""
    calls: list[str]
    """What it can be asked."""


class Bounds(Body):
    """What a request may hold."""

    body_bytes: int
    """Of the whole body."""
    pixels: int
    """Of a picture."""
    pictures: int
    """Pictures, texts or pairs of a request."""
    text: int
    """Characters of a text."""
    boxes: int
    """Boxes of a picture."""
    best: int
    """Results of a search, and pictures that it re-ranks."""
    seconds: float
    """Until an answer is given up."""


class Server(Body):
    """What this server is."""

    albef: str
    """Version of the library."""
    onnxruntime: str
    """Version of ONNX Runtime."""
    models: list[ModelInfo]
    """The exports, in the order in which they were named."""
    calls: dict[str, str]
    """Each call that can be asked here, and the run that answers it."""
    limits: Bounds
    """What a request may hold."""


class Health(Body):
    """How the server is."""

    status: str
    """A word."""
