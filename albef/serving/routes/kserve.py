"""Endpoints of KServe's Open Inference Protocol, version 2 (REST with JSON tensors).

A model is a call of this server, such as ``embed_text``. Texts, and images as data URIs, are
``BYTES`` tensors of one axis.
"""

import importlib.metadata
from collections.abc import Sequence
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Path
from fastapi.routing import APIRouter
from pydantic import BaseModel, Field

from albef.serving.engine import current
from albef.serving.errors import BODY, ApiError, ErrorBody, describe_errors
from albef.serving.limits import IMAGES
from albef.serving.model_queues import ModelQueues
from albef.serving.routes.bodies import Body
from albef.serving.routes.compatible import Item


class TextError(BaseModel):
    """Error in the protocol's form."""

    error: str


router = APIRouter(
    tags=["compatible"],
    responses=describe_errors(404, 429, *BODY, body=ErrorBody | TextError),
    strict_content_type=False,  # Triton's client sends no Content-Type.
)
Json = dict[str, Any]
Name = Annotated[str, Path(max_length=80)]
_TEXT: dict[str, type] = {"text": str}
_IMAGE: dict[str, type] = {"image": bytes}
_INPUTS = {
    "embed_text": _TEXT,
    "embed_image": _IMAGE,
    **dict.fromkeys(("match", "ask", "entail", "compare", "classify"), _IMAGE | _TEXT),
}
"""Type of the elements of each input, by call."""
_LABEL = {"label": "BYTES", "probability": "FP32"}
_OUTPUTS = {
    "embed_text": {"embedding": "FP32"},
    "embed_image": {"embedding": "FP32"},
    "match": {"probability": "FP32"},
    **dict.fromkeys(("ask", "entail", "compare", "classify"), _LABEL),
}
"""Datatype of each output, by call. Label and probability are those of the best answer."""


class _Body(Body):
    """Body with parameters of an extension."""

    parameters: Json | None = None
    """Ignored."""


class Tensor(_Body):
    """An input tensor."""

    name: str
    """Name of the input."""
    shape: list[int] = Field(max_length=2)
    """Number of elements."""
    datatype: Literal["BYTES"]
    """Texts and data URIs are ``BYTES``."""
    data: list[Item] = Field(min_length=1, max_length=IMAGES)
    """Texts, or images as data URIs."""


class RequestedOutput(_Body):
    """An output to return."""

    name: str
    """Name of the output."""


class InferenceRequest(_Body):
    """Input tensors of a call."""

    inputs: list[Tensor] = Field(min_length=1, max_length=2)
    """The input tensors."""
    outputs: list[RequestedOutput] | None = Field(None, max_length=2)
    """The outputs to return; null returns all."""
    id: str | None = Field(None, max_length=200)
    """Returned with the response."""


def _find(name: str) -> ModelQueues:
    """Return the export that answers a call; raise ApiError 404 if none does."""
    available = sorted(_INPUTS.keys() & current().calls)
    if name not in available:
        text = f"unknown model; this server has {', '.join(available)}"
        raise ApiError(404, text, code="model_not_found")
    return current().calls[name]


@router.get("/v2")
async def describe_server() -> Json:
    """Describe the server."""
    version = importlib.metadata.version("albef-pipeline")
    return {"name": "albef", "version": version, "extensions": []}


@router.get("/v2/models/{name}")
async def describe_call(name: Name) -> Json:
    """Describe a call: its inputs and outputs."""
    queues = _find(name)
    width = [queues.model.embed_dim] if name.startswith("embed") else []
    return {
        "name": name,
        "versions": [queues.name],
        "platform": "albef",
        "inputs": [_meta(each, "BYTES", []) for each in _INPUTS[name]],
        "outputs": [_meta(each, kind, width) for each, kind in _OUTPUTS[name].items()],
    }


def _meta(name: str, datatype: str, width: list[int]) -> Json:
    return {"name": name, "datatype": datatype, "shape": [-1, *width]}


@router.get("/v2/models/{name}/ready")
async def call_ready(name: Name) -> Json:
    """Return 200 if an export has the call."""
    return {"name": name, "ready": bool(_find(name))}


@router.post("/v2/models/{name}/infer")
async def infer(name: Name, body: InferenceRequest) -> Json:
    """Compute a call."""
    queues, kinds = _find(name), _OUTPUTS[name]
    asked = [each.name for each in body.outputs or ()] or list(kinds)
    if unknown := set(asked) - set(kinds):
        raise ApiError(422, f"outputs: {name} has no {min(unknown)!r}", param="outputs")
    results = await _compute(name, _elements(name, body.inputs))
    outputs = [_tensor(each, kinds[each], results[each]) for each in asked]
    answer = {"model_name": name, "model_version": queues.name, "outputs": outputs}
    return answer if body.id is None else answer | {"id": body.id}


def _elements(name: str, tensors: Sequence[Tensor]) -> dict[str, list[Any]]:
    """Return the elements of each input; raise ApiError 422 if they do not fit the call."""
    types, given = _INPUTS[name], {each.name: each for each in tensors}
    if given.keys() != types.keys() or len(given) < len(tensors):
        raise ApiError(422, f"inputs: {name} has {' and '.join(types)}, once each", param="inputs")
    for each, tensor in given.items():
        if prod(tensor.shape) != len(tensor.data):
            text = f"inputs: {each} has {len(tensor.data)} elements, not shape {tensor.shape}"
            raise ApiError(422, text, param="inputs")
        if not all(isinstance(element, types[each]) for element in tensor.data):
            text = f"inputs: {each} must hold {'data URIs' if each == 'image' else 'texts'}"
            raise ApiError(422, text, param="inputs")
    return {each: tensor.data for each, tensor in given.items()}


async def _compute(name: str, given: dict[str, list[Any]]) -> dict[str, Any]:
    engine = current()
    if name == "embed_text":
        return {"embedding": await engine.embed_texts(given["text"])}
    if name == "embed_image":
        return {"embedding": await engine.embed_images(given["image"])}
    images, texts = given["image"], given["text"]
    if name == "match":
        return {"probability": await engine.match(images, texts)}
    wanted = {"ask": 1, "entail": 1, "compare": 2}.get(name, len(images))
    if len(images) != wanted:
        raise ApiError(422, f"inputs: {name} reads {wanted} images, not {len(images)}")
    best = [_best(answer) for answer in await engine.ask(name, images, texts)]
    return {"label": [label for label, _ in best], "probability": [share for _, share in best]}


def _best(answer: Any) -> tuple[str, float]:
    """Return the best answer or class and its probability; ``""`` and 0 if there is none."""
    pairs = answer.items() if isinstance(answer, dict) else answer
    return max(pairs, key=lambda pair: pair[1], default=("", 0.0))


def _tensor(name: str, datatype: str, values: Any) -> Json:
    array = np.asarray(values)
    data = array.ravel().tolist()
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}
