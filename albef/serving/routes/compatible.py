"""The same models for clients of other servers: OpenAI's embeddings and models, and the rerank
call of Cohere, Jina and infinity. The shapes are theirs.
"""

import base64
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Path
from fastapi.routing import APIRouter
from pydantic import BeforeValidator, Field, PlainValidator, TypeAdapter
from pydantic_core import PydanticCustomError

from albef.runtime.model import batches
from albef.serving.bodies import Body, Route, Share, Text
from albef.serving.engine import current
from albef.serving.errors import BODY, Problem, describe_errors
from albef.serving.limits import BEST, INPUTS
from albef.serving.model_queues import ModelQueues

_URI = "data:image/"  # what a picture begins with
_TEXT: TypeAdapter[str] = TypeAdapter(Text)
Name = Annotated[str, Field(min_length=1, max_length=200)]


class TextPart(Body):
    """A text, as Jina and Cohere name it."""

    text: Text
    """The text."""


class ImagePart(Body):
    """A picture, as Jina names it."""

    image: Annotated[str, Field(pattern=f"^{_URI}")]
    """A data URI; no address is fetched."""


def _read_item(value: Any) -> str | bytes:
    """A text, or what the data URI of a picture holds."""
    if isinstance(value, dict) and len(value) == 1:
        name, value = next(iter(value.items()))
        if name not in ("text", "image") or (name == "image") != f"{value}".startswith(_URI):
            raise PydanticCustomError("data_uri", "no data URI")
    if not isinstance(value, str) or not value.startswith(_URI):
        return _TEXT.validate_python(value)
    head, _, data = value.partition(",")
    try:
        if head.endswith(";base64"):
            return base64.b64decode(data, validate=True)
    except ValueError:
        pass
    raise PydanticCustomError("data_uri", "no data URI")


_Sent = str | TextPart | ImagePart
Item = Annotated[str | bytes, PlainValidator(_read_item, json_schema_input_type=_Sent)]
"""A text, or an encoded picture, which is sent as a data URI."""


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class EmbeddingsRequest(Body):
    """What to embed."""

    input: Annotated[
        list[Item],
        Field(min_length=1, max_length=INPUTS),
        BeforeValidator(_as_list, json_schema_input_type=_Sent | list[_Sent]),
    ]
    """A text or several; one that begins with ``data:image/`` is a picture, as a data URI."""
    model: Name
    """One of ``GET /v1/models``."""
    encoding_format: Literal["float", "base64"] = "float"
    """How a vector is written: its numbers, or their bytes (float32, little-endian)."""
    dimensions: int | None = None
    """Those of the model's vectors, which cannot be shortened."""
    user: str | None = None
    """Not looked at."""


class Embedding(Body):
    """A unit vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    """Of the input, from 0."""
    embedding: list[float] | str
    """Its numbers, or their bytes in base64."""


class Usage(Body):
    """What was read."""

    prompt_tokens: int
    """Tokens of the texts; a picture counts none."""
    total_tokens: int
    """The same."""


class EmbeddingList(Body):
    """Unit vectors; the product of two is their similarity."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    """One for each input, in their order."""
    model: str
    """Which one answered: its run and the beginning of its digest."""
    usage: Usage


class ModelEntry(Body):
    """A model that a request can name."""

    id: str
    """The run that was exported."""
    object: Literal["model"] = "model"
    created: int = 0
    """An export has no date."""
    owned_by: str = "albef"


class ModelList(Body):
    """The models that a request can name."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]
    """In the order in which the exports were named."""


class RerankRequest(Body):
    """A text with pictures, or a picture with texts."""

    query: Item
    """A text, or a picture as a data URI."""
    documents: Annotated[list[Item], Field(min_length=1, max_length=BEST)]
    """Pictures where the query is a text, texts where it is a picture."""
    model: Name | None = None
    """One of ``GET /v1/models``; null takes the first that matches."""
    top_n: Annotated[int, Field(ge=1)] | None = None
    """How many of the best are told; null tells all."""
    return_documents: bool = False
    """Whether a result repeats its text."""


class Ranked(Body):
    """A document."""

    index: int
    """Of the document, from 0."""
    relevance_score: Share
    """The probability that it and the query belong together."""
    document: TextPart | None = None
    """The text, where it was asked for; no picture is sent back."""


class RankedList(Body):
    """Documents, the best first."""

    object: Literal["rerank"] = "rerank"
    results: list[Ranked]
    """The best first."""
    model: str
    """Which one answered: its run and the beginning of its digest."""
    usage: Usage


def compatible_routes(calls: Collection[str]) -> APIRouter:
    """Embeddings, models and rerank, as far as an export here embeds and matches."""
    router = APIRouter(route_class=Route, tags=["compatible"])

    def models() -> dict[str, ModelQueues]:
        """By run; of several of one run the first has the name."""
        return {queues.run: queues for queues in reversed(current().models)}

    def find_model(name: str) -> ModelQueues:
        for queues in models().values():
            if name in (queues.run, queues.name):
                return queues
        text = f"there is no such model; there are {', '.join(reversed(models()))}"
        raise Problem(404, text, code="model_not_found")

    def find_able(name: str | None, call: str) -> ModelQueues:
        queues = current().calls[call] if name is None else find_model(name)
        if call not in queues.model.calls:
            text = f"model: {queues.run} is of kind {queues.model.facts.kind}, which cannot do it"
            raise Problem(422, text)
        return queues

    def usage(queues: ModelQueues, items: Sequence[str | bytes]) -> Usage:
        tokens = sum(len(queues.ids(item)) for item in items if isinstance(item, str))
        return Usage(prompt_tokens=tokens, total_tokens=tokens)

    async def create_embeddings(body: EmbeddingsRequest) -> EmbeddingList:
        """Texts and pictures to unit vectors in one space, as OpenAI's clients ask for them."""
        queues = find_able(body.model, "embed_text")
        width = queues.model.embed_dim
        if body.dimensions not in (None, width):
            text = f"dimensions: vectors of {queues.run} have {width} and cannot be shortened"
            raise Problem(422, text)
        feats = np.empty((len(body.input), width), "<f4")
        for kind, embed in ((str, current().embed_texts), (bytes, current().embed_pictures)):
            positions = [i for i, item in enumerate(body.input) if isinstance(item, kind)]
            for part in batches(len(positions)):
                items: list[Any] = [body.input[i] for i in positions[part]]
                feats[positions[part]] = await embed(items, queues)
        vectors: Sequence[list[float] | str] = feats.tolist()
        if body.encoding_format == "base64":
            vectors = [base64.b64encode(feat.tobytes()).decode() for feat in feats]
        return EmbeddingList(
            data=[Embedding(index=i, embedding=vector) for i, vector in enumerate(vectors)],
            model=queues.name,
            usage=usage(queues, body.input),
        )

    async def rerank(body: RerankRequest) -> RankedList:
        """How well pictures go with a text, or texts with a picture.

        Each is read together with the query (ITM). Two texts are not, nor two pictures: how alike
        they are is the product of their embeddings.
        """
        queues, is_text = find_able(body.model, "match"), isinstance(body.query, str)
        if any(isinstance(document, str) is is_text for document in body.documents):
            kinds = ("a text", "pictures") if is_text else ("a picture", "texts")
            text = "documents: {} is a query for {} alone; compare embeddings".format(*kinds)
            raise Problem(422, text)
        scores: list[float] = []
        for part in batches(len(body.documents)):
            documents: list[Any] = body.documents[part]
            query: list[Any] = [body.query]
            images, texts = (documents, query) if is_text else (query, documents)
            scores += await current().match(images, texts, queues)
        best = sorted(range(len(scores)), key=lambda i: -scores[i])[: body.top_n]
        with_text = body.return_documents and not is_text
        return RankedList(
            results=[
                Ranked(
                    index=i,
                    relevance_score=scores[i],
                    document=TextPart(text=f"{body.documents[i]!s}") if with_text else None,
                )
                for i in best
            ],
            model=queues.name,
            usage=usage(queues, [body.query, *body.documents]),
        )

    @router.get("/v1/models", responses=describe_errors())
    async def list_models() -> ModelList:
        """The exports."""
        return ModelList(data=[ModelEntry(id=run) for run in reversed(models())])

    @router.get("/v1/models/{name}", responses=describe_errors(404, 422))
    async def describe_model(name: Annotated[str, Path(max_length=200)]) -> ModelEntry:
        """One export."""
        return ModelEntry(id=find_model(name).run)

    errors = describe_errors(404, 429, *BODY)
    if "embed_text" in calls:
        router.post("/v1/embeddings", responses=errors)(create_embeddings)
        router.post("/v1/rerank", responses=errors)(rerank)
        router.post("/v2/rerank", responses=errors, include_in_schema=False)(rerank)
    return router
