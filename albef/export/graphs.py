"""Parts of a finished model that are each computed in one call, for every kind of model.

They run in torch (:mod:`albef.export.modules`) or as ONNX graphs. :mod:`albef.runtime` prepares
their input and loops over them.
"""

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal, NamedTuple

from torch import nn

from albef.export.modules import (
    Classifier,
    ImageEncoder,
    Matcher,
    QuestionEncoder,
    TextEncoder,
    TextsMatcher,
    TreeDecoder,
)
from albef.models.albef import ALBEF, ModelConfig
from albef.models.weights import Checkpoint, CheckpointError
from albef.runtime.classifying import PREFIXES
from albef.runtime.manifest import Answering, Facts
from albef.tasks.task import MAX_WORDS


class Input(NamedTuple):
    """Input of a graph."""

    content: Literal["floats", "ids", "mask", "positions", "sees"]
    """Numbers, token ids, their mask, positions in an answer, or a mask of nodes."""
    dims: tuple[int | str, ...]
    """Axes of the input. Those with a name are dynamic."""


class Graph(NamedTuple):
    """Part of a model whose module takes its inputs and returns its outputs in order."""

    module: nn.Module
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]


class Parts(NamedTuple):
    """Parts of a checkpoint for inference; ``answers`` is the list that a VQA model ranks."""

    facts: Facts
    graphs: dict[str, Graph]
    answers: tuple[str, ...] = ()


def parts(checkpoint: Checkpoint) -> Parts:
    """Return a checkpoint's graphs, on the CPU and in eval mode, and the facts needed to use it.

    Raises:
        CheckpointError: its kind cannot be exported.
    """
    capability = _kind(checkpoint).Task.capability
    if not capability:
        raise CheckpointError(
            f"{checkpoint.folder} is of kind {checkpoint.kind}, which cannot be exported or called"
        )
    model = _BUILDERS[capability](checkpoint)
    for graph in model.graphs.values():
        graph.module.eval().requires_grad_(False)
    return model


def _kind(checkpoint: Checkpoint) -> ModuleType:
    try:
        return importlib.import_module(f"albef.tasks.{checkpoint.kind}")
    except ImportError:
        raise CheckpointError(
            f"{checkpoint.folder} is of kind {checkpoint.kind}, which this version of albef lacks"
        ) from None


def config_of(checkpoint: Checkpoint) -> Any:
    """Return the values of a checkpoint as its kind reads them, with defaults for missing ones."""
    saved = checkpoint.config.get("values", {})
    # The values of pre-training have the model, too, as plain values.
    values = {"global_batch_size": 1, **saved, "model": checkpoint.model}
    return _kind(checkpoint).Config.model_construct(**values)


def _matching(checkpoint: Checkpoint) -> Parts:
    matcher, sizes = Matcher(checkpoint), checkpoint.model
    grounding = _kind(checkpoint).Task.capability == "grounding"
    itm = config_of(checkpoint).itm
    text = {
        "ids": Input("ids", ("batch", "length")),
        "text_mask": Input("mask", ("batch", "length")),
    }
    states = {
        "text_states": Input("floats", ("batch", "texts", "length", sizes.fused.width)),
        "text_mask": _TEXTS["text_mask"],
    }
    texts_matcher = TextsMatcher(matcher, attention_layer(checkpoint) if grounding else None)
    outputs = ("logits", "heat") if grounding else ("logits",)
    graphs = {
        "image_encoder": _image_encoder(matcher.model, checkpoint, feat=True),
        "text_encoder": Graph(TextEncoder(matcher.model), text, ("text_states", "text_feat")),
        "matcher": Graph(texts_matcher, states | _states(matcher.model, sizes, "image"), outputs),
    }
    if not itm:
        del graphs["matcher"]
    facts = facts_of(
        checkpoint,
        embed_dim=sizes.embed_dim,
        threshold=config_of(checkpoint).threshold if grounding else None,
        itc_temperature=float(checkpoint.tensors["temperature"]),
        itm=itm,
        itc_weight=checkpoint.config.get("facts", {}).get("itc_weight", 0.0),
    )
    return Parts(facts, graphs)


def attention_layer(checkpoint: Checkpoint) -> int:
    """Return the fusion layer whose attention locates a text.

    The layer is the one that the checkpoint was evaluated with, or the one below the middle, as in
    the paper (the third of six).
    """
    values = checkpoint.config.get("values", {})
    middle = (checkpoint.model.fused.fusion_depth - 1) // 2
    return middle if values.get("gradcam", "itc") == "itc" else int(values["layer"])


def _answering(checkpoint: Checkpoint) -> Parts:
    task = _kind(checkpoint).Task.restore(config_of(checkpoint), checkpoint)
    text = checkpoint.model.fused
    question = ("batch", text.fusion_depth, text.heads, "length", text.width // text.heads)
    graphs = {
        "image_encoder": _image_encoder(task.model, checkpoint, feat=False),
        "question_encoder": Graph(
            QuestionEncoder(task.model, task.answer_decoder),
            _TEXTS | _states(task.model, checkpoint.model, "image"),
            ("question_keys", "question_values"),
        ),
        "answer_decoder": Graph(
            TreeDecoder(task.answer_decoder),
            {
                "ids": Input("ids", ("batch", "nodes")),
                "positions": Input("positions", ("batch", "nodes")),
                "sees": Input("sees", ("batch", "nodes", "nodes")),
                "question_keys": Input("floats", question),
                "question_values": Input("floats", question),
                "question_mask": Input("mask", ("batch", "length")),
            },
            ("logits",),
        ),
    }
    config = task.config
    answering = Answering(
        by=config.answering, k=config.answer_k, beams=config.beams, max_tokens=task.written_tokens
    )
    lengths = {"max_tokens": text.max_positions, "max_words": task.asked_words}
    return Parts(facts_of(checkpoint, answering=answering, **lengths), graphs, tuple(task.answers))


def _classifying(checkpoint: Checkpoint) -> Parts:
    task = _kind(checkpoint).Task.restore(config_of(checkpoint), checkpoint)
    inputs = dict(_TEXTS)
    for prefix in PREFIXES[: task.images]:
        inputs |= _states(task.model, checkpoint.model, prefix)
    graphs = {
        "image_encoder": _image_encoder(task.model, checkpoint, feat=False),
        "classifier": Graph(Classifier(task.model, task.head), inputs, ("logits",)),
    }
    return Parts(facts_of(checkpoint, classes=task.classes), graphs)


_BUILDERS: dict[str, Callable[[Checkpoint], Parts]] = {
    "matching": _matching,
    "grounding": _matching,
    "answering": _answering,
    "classifying": _classifying,
    "entailing": _classifying,
    "comparing": _classifying,
}
"""Builder of a model's parts by its capability (:data:`albef.runtime.loading.CAPABILITIES`)."""
_TEXTS = {
    "ids": Input("ids", ("batch", "texts", "length")),
    "text_mask": Input("mask", ("batch", "texts", "length")),
}


def _image_encoder(model: ALBEF, checkpoint: Checkpoint, *, feat: bool) -> Graph:
    side = checkpoint.model.image.image_size
    outputs = ("image_keys", "image_values", *(("image_feat",) if feat else ()))
    image = {"image": Input("floats", ("batch", 3, side, side))}
    return Graph(ImageEncoder(model, feat=feat), image, outputs)


def _states(model: ALBEF, sizes: ModelConfig, prefix: str) -> dict[str, Input]:
    """Return the keys and values of an image, as inputs."""
    fused, tokens = sizes.fused, 1 + model.image_encoder.grid**2
    dims = ("batch", fused.fusion_depth, fused.heads, tokens, fused.width // fused.heads)
    return {f"{prefix}_{role}": Input("floats", dims) for role in ("keys", "values")}


def facts_of(checkpoint: Checkpoint, **kind_facts: Any) -> Facts:
    """Return the facts needed to use a model; ``kind_facts`` are specific to its kind.

    Raises:
        CheckpointError: its longest text does not fit the model.
    """
    positions = checkpoint.model.fused.max_positions
    longest = kind_facts.get("max_tokens", checkpoint.config.get("values", {}).get("max_tokens"))
    if not isinstance(longest, int) or not 0 < longest <= positions:
        raise CheckpointError(
            f"{checkpoint.folder}: max_tokens is {longest!r}, but must be 1 to {positions}, the "
            "model's text positions"
        )
    common = {
        "kind": checkpoint.kind,
        "capability": _kind(checkpoint).Task.capability,
        "image_size": checkpoint.model.image.image_size,
        "max_tokens": longest,
        "max_words": MAX_WORDS,
        "temperature": checkpoint.config.get("facts", {}).get("temperature", 1.0),
    }
    return Facts.model_validate(common | kind_facts)
