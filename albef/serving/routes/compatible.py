"""Endpoints for clients of other servers, in their formats.

They are OpenAI's embeddings and models, and the rerank call of Cohere, Jina and infinity.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Path
from fastapi.routing import APIRouter
from pydantic import BeforeValidator, FailFast, Field, PlainValidator, TypeAdapter
from pydantic_core import PydanticCustomError

from albef.runtime.model import batches
from albef.serving.engine import current
from albef.serving.errors import BODY, ApiError, describe_errors
from albef.serving.limits import BEST, INPUTS
from albef.serving.model_queues import ModelQueues, probability
from albef.serving.routes.bodies import Body, Text, VectorsBody

router = APIRouter(tags=["compatible"], responses=describe_errors(404, 429, *BODY))
Json = dict[str, Any]
_URI = "data:image/"  # Beginning of an image's data URI.
_NO_URI = "send an image as data:image/png;base64,..."
_TEXT: TypeAdapter[str] = TypeAdapter(Text)
_ANY_MODEL = "default/not-specified"  # infinity's client sends it if no model is named.
Name = Annotated[str, Field(min_length=1, max_length=200)]


def _read_item(value: Any) -> str | bytes:
    """Return a text, or the bytes in the data URI of an image."""
    if isinstance(value, dict) and len(value) == 1:
        name, value = next(iter(value.items()))
        if name not in ("text", "image") or (name == "image") != f"{value}".startswith(_URI):
            raise PydanticCustomError("data_uri", _NO_URI)
    if not isinstance(value, str) or not value.startswith(_URI):
        return _TEXT.validate_python(value)
    head, _, data = value.partition(",")
    try:
        if head.endswith(";base64"):
            return base64.b64decode(data, validate=True)
    except ValueError:
        pass
    raise PydanticCustomError("data_uri", _NO_URI)


_Sent = str | dict[Literal["text", "image"], str]
Item = Annotated[str | bytes, PlainValidator(_read_item, json_schema_input_type=_Sent)]
"""A text, or an encoded image, which is sent as a data URI. As in Jina's format, it can be an
object with the key ``text`` or ``image``."""


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class EmbeddingsRequest(VectorsBody):
    """Texts and images to embed."""

    input: Annotated[
        list[Item],
        FailFast(),
        Field(min_length=1, max_length=INPUTS),
        BeforeValidator(_as_list, json_schema_input_type=_Sent | list[_Sent]),
    ]
    """One or more texts. A text that begins with ``data:image/`` is an image, as a data URI."""
    model: Name
    """A model of ``GET /v1/models``, or ``default/not-specified`` for the first one that fits."""
    dimensions: int | None = None
    """Width of the vectors: the model's, 0 or null, because vectors cannot be shortened."""
    modality: Literal["text", "image"] = "text"
    """Ignored, because each input shows whether it is a text or an image."""
    user: str | None = None
    """Ignored."""


class RerankRequest(Body):
    """A text with images, or an image with texts."""

    query: Item
    """A text, or an image as a data URI."""
    documents: Annotated[list[Item], Field(min_length=1, max_length=BEST)]
    """Images if the query is a text, texts if it is an image."""
    model: Name | None = None
    """A model of ``GET /v1/models``; null takes the first one that matches images and texts."""
    top_n: Annotated[int, Field(ge=1)] | None = None
    """Number of best results to return; null returns all."""
    return_documents: bool = False
    """If true, each result repeats its text."""
    raw_scores: bool = False
    """If true, scores are logits instead of probabilities."""
    truncation: bool = True
    """Ignored. Texts are always cut to the model's length."""
    max_tokens_per_doc: int | None = None
    """Ignored, as ``truncation``."""
    priority: int | None = None
    """Ignored."""


def _names() -> list[str]:
    return list(dict.fromkeys(queues.run for queues in current().models))


def _find_model(name: str) -> ModelQueues:
    for queues in current().models:  # If several have the same run, the first has the name.
        if name in (queues.run, queues.name):
            return queues
    text = f"unknown model; this server has {', '.join(_names())}"
    raise ApiError(404, text, code="model_not_found")


def _find_capable(name: str | None, call: str) -> ModelQueues:
    queues = current().calls[call] if name in (None, _ANY_MODEL) else _find_model(name)
    if call not in queues.model.calls:
        text = f"model: {queues.run} is of kind {queues.model.facts.kind}, which has no such call"
        raise ApiError(422, text, param="model")
    return queues


def _usage(queues: ModelQueues, items: Sequence[str | bytes]) -> dict[str, int]:
    """Return the token counts of the texts. An image counts as 0 tokens."""
    tokens = sum(len(queues.ids(item)) for item in items if isinstance(item, str))
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _entry(run: str) -> Json:
    """Return the entry of a model. An export has no date, so ``created`` is 0."""
    return {"id": run, "object": "model", "created": 0, "owned_by": "albef"}


@router.get("/v1/models")
async def list_models() -> Json:
    """List the exports."""
    return {"object": "list", "data": [_entry(run) for run in _names()]}


@router.get("/v1/models/{name}")
async def describe_model(name: Annotated[str, Path(max_length=200)]) -> Json:
    """Describe one export."""
    return _entry(_find_model(name).run)


@router.post("/v1/embeddings")
async def create_embeddings(body: EmbeddingsRequest) -> Json:
    """Embed texts and images as unit vectors in one space, in OpenAI's format."""
    queues = _find_capable(body.model, "embed_text")
    width = queues.model.embed_dim
    if body.dimensions not in (None, 0, width):
        text = f"dimensions must be {width}; vectors of {queues.run} cannot be shortened"
        raise ApiError(422, text, param="dimensions")
    feats = np.empty((len(body.input), width), "<f4")
    for kind, embed in ((str, current().embed_texts), (bytes, current().embed_images)):
        positions = [i for i, item in enumerate(body.input) if isinstance(item, kind)]
        for part in batches(len(positions)):
            items: list[Any] = [body.input[i] for i in positions[part]]
            feats[positions[part]] = await embed(items, queues)
    data = [
        {"object": "embedding", "index": i, "embedding": vector}
        for i, vector in enumerate(body.encode(feats))
    ]
    usage = _usage(queues, body.input)
    return {"object": "list", "data": data, "model": queues.name, "usage": usage}


@router.post("/v2/rerank", include_in_schema=False)
@router.post("/v1/rerank")
async def rerank(body: RerankRequest) -> Json:
    """Rank images by a text, or texts by an image.

    Each document is read together with the query (ITM). Two texts or two images cannot be read
    together; to compare them, take the dot product of their embeddings.
    """
    queues, is_text = _find_capable(body.model, "match"), isinstance(body.query, str)
    if any(isinstance(document, str) is is_text for document in body.documents):
        needed, given = ("images", "a text") if is_text else ("texts", "an image")
        text = f"documents must be {needed}, because the query is {given}; else compare embeddings"
        raise ApiError(422, text, param="documents")
    margins: list[float] = []
    for part in batches(len(body.documents)):
        documents: list[Any] = body.documents[part]
        query: list[Any] = [body.query]
        images, texts = (documents, query) if is_text else (query, documents)
        margins += await current().match_margins(images, texts, queues)
    scores = margins if body.raw_scores else [probability(margin) for margin in margins]
    best = sorted(range(len(scores)), key=lambda i: -margins[i])[: body.top_n]
    results: list[Json] = [{"index": i, "relevance_score": scores[i]} for i in best]
    if body.return_documents and not is_text:  # Images are not sent back.
        for each in results:
            each["document"] = {"text": body.documents[each["index"]]}
    usage = _usage(queues, [body.query, *body.documents])
    return {"object": "rerank", "results": results, "model": queues.name, "usage": usage}
