"""What a finished model is made of: the parts that are computed at once, for each kind.

They run in torch and are written as ONNX graphs; what prepares their input and loops over them is
in :mod:`albef.runtime`. The batch is the first axis of everything, as servers want it.

Shapes: B images (or questions), T texts of each, L text tokens, N image tokens, n = sqrt(N - 1)
patches a side, S image side, D width, E shared width, F layers that read the image, H heads, W
nodes of a tree of answers, V vocabulary, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from albef.config import validate
from albef.models.albef import ALBEF
from albef.models.bert import BertLayer, KeyValue, attention_bias
from albef.models.decoder import AnswerDecoder
from albef.models.fusion import FusionEncoder
from albef.models.pair import PairFusionEncoder
from albef.models.weights import CONFIG, Checkpoint, CheckpointError, load_strict
from albef.runtime.classifying import PLACES
from albef.runtime.manifest import GRAPHS, Answering, Facts
from albef.tasks import entailment, nlvr2, vqa
from albef.tasks.ranking import MAX_WORDS

_TRAINING_ONLY = ("model_m.", "mlm_head.", "mlm_head_m.", "queue.", "temperature")


class Input(NamedTuple):
    """An input of a graph.

    Attributes:
        holds: what it holds: numbers, token ids, a mask of them, places in an answer, or which
            nodes of a tree see which.
        dims: its axes; those with a name take any length.
    """

    holds: Literal["floats", "ids", "mask", "positions", "sees"]
    dims: tuple[int | str, ...]


class Graph(NamedTuple):
    """A part of a model.

    Attributes:
        module: takes the inputs in order, gives the outputs in order.
        inputs: by name.
        outputs: their names.
    """

    module: nn.Module
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]


class Parts(NamedTuple):
    """A checkpoint ready for use.

    Attributes:
        facts: what has to be known of it.
        graphs: by the names of :data:`GRAPHS`.
        answers: the list that a VQA model ranks.
    """

    facts: Facts
    graphs: dict[str, Graph]
    answers: tuple[str, ...] = ()


class Matcher(nn.Module):
    """Of a checkpoint that matches images and texts, what is needed after training."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        if "itm_head.weight" not in checkpoint.tensors:
            raise CheckpointError(
                f"{checkpoint.folder} is of kind {checkpoint.kind}, which has no image-text "
                "matching; give a checkpoint of pre-training or of a retrieval run"
            )
        self.model = ALBEF(checkpoint.model, checkpoint.tokenizer.vocab_size)
        self.itm_head = nn.Linear(checkpoint.model.text.width, 2)
        load_strict(self, checkpoint.tensors, where=str(checkpoint.folder), dropped=_TRAINING_ONLY)
        self.eval()
        self.requires_grad_(False)

    def forward(self, text_states: Tensor, text_mask: Tensor, image_states: Tensor) -> Tensor:
        """ITM logits (B, 2) of aligned texts (B, L, D) and images (B, N, D)."""
        image = self.model.fusion_encoder.image_key_values(image_states)
        logits: Tensor = self.itm_head(self.model.fused_cls(text_states, text_mask, image))
        return logits


class _ImageEncoder(nn.Module):
    """Pixels (B, 3, S, S) to keys and values (B, F, H, N, D / H), and ``image_feat`` (B, E)."""

    def __init__(self, model: ALBEF, *, feat: bool) -> None:
        super().__init__()
        self.model = model
        self.feat = feat

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        states, fusion = self.model.encode_image(image), self.model.fusion_encoder
        if isinstance(fusion, PairFusionEncoder):
            keys, values = _stacked(fusion.shared_key_values(states))
        else:
            keys, values = _stacked(fusion.image_key_values(states))
        return (keys, values, self.model.image_feat(states)) if self.feat else (keys, values)


class _TextEncoder(nn.Module):
    """Ids and mask (B, L) to ``text_states`` (B, L, D) and ``text_feat`` (B, E)."""

    def __init__(self, model: ALBEF) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        states = self.model.text_encoder(ids, _full_bias(text_mask))
        return states, self.model.text_feat(states)


class _Matcher(nn.Module):
    """ITM logits (B, T, 2) of T texts of each image; with ``layer``, their heat maps too."""

    def __init__(self, matcher: Matcher, layer: int | None) -> None:
        super().__init__()
        self.fusion = matcher.model.fusion_encoder
        self.itm_head = matcher.itm_head
        self.layer = layer

    def forward(
        self, text_states: Tensor, text_mask: Tensor, image_keys: Tensor, image_values: Tensor
    ) -> tuple[Tensor, ...]:
        states, mask = text_states.flatten(0, 1), text_mask.flatten(0, 1)
        image = _unstacked(image_keys, image_values)
        fused = _fuse(self.fusion, states, mask, image, slice(0, 1))
        logits: Tensor = self.itm_head(fused[:, 0]).unflatten(0, text_mask.shape[:2])
        if self.layer is None:
            return (logits,)
        return logits, self._heat(states, text_mask, image)

    def _heat(self, states: Tensor, text_mask: Tensor, image: list[KeyValue]) -> Tensor:
        """How much the tokens of each text attend to each patch: (B, T, n, n)."""
        assert self.layer is not None
        bias = _full_bias(text_mask.flatten(0, 1))
        for index in range(self.layer):
            states = self.fusion.layer[index](states, bias, image[index])
        layer = cast(BertLayer, self.fusion.layer[self.layer])
        _, weights = layer.cross_weights(states, bias, image[self.layer][0])  # (B, H, T * L, N)
        heat = weights.mean(1)[:, :, 1:].unflatten(1, text_mask.shape[1:])  # (B, T, L, n * n)
        side = round(heat.shape[-1] ** 0.5)
        square: Tensor = (heat * text_mask[..., None]).mean(2).unflatten(2, (side, side))
        return square


class _QuestionEncoder(nn.Module):
    """Ids and mask (B, T, L) of questions about B images to the decoder's keys and values of each,
    (B, T, F, H, L, D / H)."""

    def __init__(self, task: vqa.Task) -> None:
        super().__init__()
        self.model = task.model
        self.decoder = task.answer_decoder

    def forward(
        self, ids: Tensor, text_mask: Tensor, image_keys: Tensor, image_values: Tensor
    ) -> tuple[Tensor, Tensor]:
        mask = text_mask.flatten(0, 1)
        states = self.model.text_encoder(ids.flatten(0, 1), _full_bias(mask))
        image = _unstacked(image_keys, image_values)
        fused = _fuse(self.model.fusion_encoder, states, mask, image, None)
        keys, values = _stacked(self.decoder.question_key_values(fused))
        return keys.unflatten(0, ids.shape[:2]), values.unflatten(0, ids.shape[:2])


class _AnswerDecoder(nn.Module):
    """Logits (B, W, V) of the tokens after the nodes of a tree of answers to each question."""

    def __init__(self, decoder: AnswerDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        sees: Tensor,
        question_keys: Tensor,
        question_values: Tensor,
        question_mask: Tensor,
    ) -> Tensor:
        question = _unstacked(question_keys, question_values)
        states = self.decoder.tree_states(ids, positions, sees, question, question_mask)
        return self.decoder.logits(states)


class _Classifier(nn.Module):
    """Logits (B, T, C) of T statements about each picture, or each two pictures."""

    def __init__(self, model: ALBEF, head: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(
        self,
        ids: Tensor,
        text_mask: Tensor,
        image_keys: Tensor,
        image_values: Tensor,
        second_keys: Tensor | None = None,
        second_values: Tensor | None = None,
    ) -> Tensor:
        mask = text_mask.flatten(0, 1)
        states = self.model.text_encoder(ids.flatten(0, 1), _full_bias(mask))
        image = _unstacked(image_keys, image_values)
        if second_keys is not None and second_values is not None:  # layers read them by turns
            second = _unstacked(second_keys, second_values)
            image = [own for both in zip(image, second, strict=True) for own in both]
        fused = _fuse(self.model.fusion_encoder, states, mask, image, slice(0, 1))
        logits: Tensor = self.head(fused[:, 0]).unflatten(0, ids.shape[:2])
        return logits


def _stacked(layers: Sequence[KeyValue]) -> tuple[Tensor, Tensor]:
    """One pair a layer to keys and values (B, F, H, N, D / H)."""
    keys, values = zip(*layers, strict=True)
    return torch.stack(keys, 1), torch.stack(values, 1)


def _unstacked(keys: Tensor, values: Tensor) -> list[KeyValue]:
    return list(zip(keys.unbind(1), values.unbind(1), strict=True))


def _full_bias(text_mask: Tensor) -> Tensor:
    """(B, L) to (B, 1, L, L): ONNX Runtime's attention does not broadcast over the queries."""
    return attention_bias(text_mask).expand(-1, -1, text_mask.shape[1], -1)


def _fuse(
    fusion: FusionEncoder,
    states: Tensor,
    mask: Tensor,
    image: list[KeyValue],
    positions: slice | None,
) -> Tensor:
    """Texts (B * T, L, D) through the fusion layers; of the last one the rows at ``positions``."""
    *layers, last = zip(fusion.layer, image, strict=True)
    bias = _full_bias(mask)
    for layer, own in layers:
        states = layer(states, bias, own)
    layer, own = last
    return cast(Tensor, layer(states, attention_bias(mask) if positions else bias, own, positions))


def parts(checkpoint: Checkpoint) -> Parts:
    """A checkpoint's graphs, on the CPU and in eval mode, and what has to be known of it.

    Raises:
        CheckpointError: it is of a kind that has no use of its own.
    """
    kind = checkpoint.kind
    if kind not in GRAPHS:
        raise CheckpointError(
            f"{checkpoint.folder} is of kind {kind}, which has no use of its own; "
            f"{', '.join(GRAPHS)} have one"
        )
    build = _BUILDERS.get(kind, _matching)
    result = build(checkpoint)
    assert tuple(result.graphs) == GRAPHS[kind]
    for graph in result.graphs.values():
        graph.module.eval().requires_grad_(False)
    return result


def _matching(checkpoint: Checkpoint) -> Parts:
    matcher, sizes = Matcher(checkpoint), checkpoint.model
    grounding = checkpoint.kind == "grounding"
    width = sizes.text.width
    texts = {
        "text_states": Input("floats", ("batch", "texts", "length", width)),
        "text_mask": Input("mask", ("batch", "texts", "length")),
    }
    graphs = {
        "image_encoder": _image_encoder(matcher.model, checkpoint, feat=True),
        "text_encoder": Graph(
            _TextEncoder(matcher.model),
            {
                "ids": Input("ids", ("batch", "length")),
                "text_mask": Input("mask", ("batch", "length")),
            },
            ("text_states", "text_feat"),
        ),
        "matcher": Graph(
            _Matcher(matcher, looked_at(checkpoint) if grounding else None),
            {**texts, **_states(checkpoint, "image")},
            ("logits", "heat") if grounding else ("logits",),
        ),
    }
    threshold = _values(checkpoint)["threshold"] if grounding else None
    facts = facts_of(checkpoint, embed_dim=sizes.embed_dim, threshold=threshold)
    return Parts(facts, graphs)


def looked_at(checkpoint: Checkpoint) -> int:
    """The fusion layer whose attention shows where a text is found.

    The one that the checkpoint was evaluated with, or the one below the middle, as in the paper
    (the third of six).
    """
    values = _values(checkpoint)
    if values.get("gradcam") == "itm":
        return int(values["layer"])
    return (checkpoint.model.text.fusion_depth - 1) // 2


def _answering(checkpoint: Checkpoint) -> Parts:
    config = validate(
        vqa.Config, _values(checkpoint), where=str(checkpoint.folder / CONFIG), key="values"
    )
    task, text = vqa.Task.restore(config, checkpoint), checkpoint.model.text
    positions = text.max_positions
    question = ("batch", text.fusion_depth, text.heads, "length", text.width // text.heads)
    graphs = {
        "image_encoder": _image_encoder(task.model, checkpoint, feat=False),
        "question_encoder": Graph(
            _QuestionEncoder(task),
            {**_TEXTS, **_states(checkpoint, "image")},
            ("question_keys", "question_values"),
        ),
        "answer_decoder": Graph(
            _AnswerDecoder(task.answer_decoder),
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
    answering = Answering(
        by=config.answering,
        k=config.answer_k,
        beams=config.beams,
        max_tokens=min(vqa.WRITTEN_TOKENS, positions),
    )
    facts = facts_of(
        checkpoint, answering=answering, max_tokens=positions, max_words=vqa.ASKED_WORDS
    )
    return Parts(facts, graphs, tuple(task.answers))


def _classifying(checkpoint: Checkpoint) -> Parts:
    kind = {"entailment": entailment, "nlvr2": nlvr2}[checkpoint.kind]
    where = str(checkpoint.folder / CONFIG)
    config = validate(kind.Config, _values(checkpoint), where=where, key="values")
    task = kind.Task.restore(config, checkpoint)
    images = [_states(checkpoint, place) for place in PLACES[: task.images]]
    graphs = {
        "image_encoder": _image_encoder(task.model, checkpoint, feat=False),
        "classifier": Graph(
            _Classifier(task.model, task.head),
            {**_TEXTS, **{name: own for place in images for name, own in place.items()}},
            ("logits",),
        ),
    }
    return Parts(facts_of(checkpoint, classes=task.classes), graphs)


_BUILDERS = {"vqa": _answering, "entailment": _classifying, "nlvr2": _classifying}
_TEXTS = {
    "ids": Input("ids", ("batch", "texts", "length")),
    "text_mask": Input("mask", ("batch", "texts", "length")),
}


def _image_encoder(model: ALBEF, checkpoint: Checkpoint, *, feat: bool) -> Graph:
    side = checkpoint.model.image.image_size
    outputs = ("image_keys", "image_values", *(("image_feat",) if feat else ()))
    image = {"image": Input("floats", ("batch", 3, side, side))}
    return Graph(_ImageEncoder(model, feat=feat), image, outputs)


def _states(checkpoint: Checkpoint, place: str) -> dict[str, Input]:
    """Keys and values of a picture, as inputs."""
    image, text = checkpoint.model.image, checkpoint.model.text
    tokens = 1 + (image.image_size // image.patch_size) ** 2
    dims = ("batch", text.fusion_depth, text.heads, tokens, text.width // text.heads)
    return {f"{place}_{part}": Input("floats", dims) for part in ("keys", "values")}


def _values(checkpoint: Checkpoint) -> dict[str, Any]:
    values: dict[str, Any] = checkpoint.config.get("values", {})
    return values


def facts_of(checkpoint: Checkpoint, **own: Any) -> Facts:
    """What has to be known of a model to use it; ``own`` is of the kind.

    Raises:
        CheckpointError: its longest text does not fit the model.
    """
    positions = checkpoint.model.text.max_positions
    longest = own.get("max_tokens", _values(checkpoint).get("max_tokens"))
    if not isinstance(longest, int) or not 0 < longest <= positions:
        raise CheckpointError(
            f"{checkpoint.folder}: max_tokens is {longest!r}, but the model has {positions} "
            "text positions"
        )
    common = {
        "kind": checkpoint.kind,
        "image_size": checkpoint.model.image.image_size,
        "max_tokens": longest,
        "max_words": MAX_WORDS,
    }
    return Facts.model_validate(common | own)
