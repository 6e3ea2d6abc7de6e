"""A model that matches images and texts, as three ONNX graphs whose bytes depend on it alone.

Shapes: see :mod:`albef.runtime.model`; batch and text length are dynamic in every graph.
"""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from torch import Tensor, nn

from albef.inference import Matcher, TorchModel
from albef.models.bert import attention_bias
from albef.runtime.manifest import GRAPHS, Onnx, graph_file

_BATCH, _LENGTH = 2, 7  # of the example: 0 and 1 would be frozen into the graph
_BATCH_AXIS = {0: "batch"}
_TEXT_AXES = {0: "batch", 1: "length"}


class _ImageEncoder(nn.Module):
    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.model = matcher.model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        states = self.model.encode_image(image)
        return states, self.model.image_feat(states)


class _TextEncoder(nn.Module):
    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.model = matcher.model

    def forward(self, ids: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        states = self.model.text_encoder(ids, _full_bias(text_mask))
        return states, self.model.text_feat(states)


class _Matcher(nn.Module):
    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.fusion = matcher.model.fusion_encoder
        self.itm_head = matcher.itm_head

    def forward(self, text_states: Tensor, text_mask: Tensor, image_states: Tensor) -> Tensor:
        *layers, last = self.fusion.layer
        *images, last_image = self.fusion.image_key_values(image_states)
        states, bias = text_states, _full_bias(text_mask)
        for layer, image in zip(layers, images, strict=True):
            states = layer(states, bias, image)
        first = text_mask.new_zeros(text_mask.shape[0], 1)
        fused = last(states, attention_bias(text_mask), last_image, first)  # (B, 1, D): [CLS] only
        logits: Tensor = self.itm_head(fused[:, 0])
        return logits


def _full_bias(text_mask: Tensor) -> Tensor:
    """(B, L) to (B, 1, L, L): ONNX Runtime's attention does not broadcast over the queries."""
    return attention_bias(text_mask).expand(-1, -1, text_mask.shape[1], -1)


class _Graph(NamedTuple):
    module: nn.Module
    inputs: Mapping[str, tuple[Tensor, dict[int, str]]]  # an example, and its dynamic axes
    outputs: tuple[str, ...]


def export_graphs(model: TorchModel, folder: Path, opset: int) -> Onnx:
    """Write ``image_encoder.onnx``, ``text_encoder.onnx`` and ``matcher.onnx``.

    Exported twice, a model gives equal bytes: no trace of where, when or by which build.

    Args:
        model: on the CPU.
        folder: exists; files in it are replaced.
        opset: version of the operators; from 23 attention stays one node.

    Returns:
        Versions of what was written.
    """
    versions = set()
    for graph, (module, inputs, outputs) in zip(GRAPHS, _graphs(model), strict=True):
        with warnings.catch_warnings():  # the exporter's, of its own insides and of shared axes
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(example for example, _ in inputs.values()),
                dynamo=True,
                dynamic_shapes=tuple(axes for _, axes in inputs.values()),
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
        assert program is not None
        proto = _bare(program.model_proto)
        versions.add((proto.opset_import[0].version, proto.ir_version))
        (folder / graph_file(graph)).write_bytes(proto.SerializeToString(deterministic=True))
    ((version, ir),) = versions
    return Onnx(opset=version, ir=ir)


def _graphs(model: TorchModel) -> Iterator[_Graph]:
    """The graphs, in the order of :data:`GRAPHS`."""
    matcher, sizes = model.matcher, model.checkpoint.model
    side = sizes.image.image_size
    tokens = 1 + (side // sizes.image.patch_size) ** 2
    length = min(_LENGTH, sizes.text.max_positions)
    mask = torch.ones(_BATCH, length, dtype=torch.long)
    ids, text_states = torch.zeros_like(mask), torch.zeros(_BATCH, length, sizes.text.width)
    image_states = torch.zeros(_BATCH, tokens, sizes.image.width)
    yield _Graph(
        _ImageEncoder(matcher),
        {"image": (torch.zeros(_BATCH, 3, side, side), _BATCH_AXIS)},
        ("image_states", "image_feat"),
    )
    yield _Graph(
        _TextEncoder(matcher),
        {"ids": (ids, _TEXT_AXES), "text_mask": (mask, _TEXT_AXES)},
        ("text_states", "text_feat"),
    )
    yield _Graph(
        _Matcher(matcher),
        {
            "text_states": (text_states, _TEXT_AXES),
            "text_mask": (mask, _TEXT_AXES),
            "image_states": (image_states, _BATCH_AXIS),
        },
        ("logits",),
    )


def _bare(model: Any) -> Any:
    """``model`` without what the exporter notes: stack traces with paths, the build of torch."""
    graphs = [model.graph]
    model.producer_name, model.producer_version = "albef", ""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    while graphs:
        graph = graphs.pop()
        del graph.value_info[:]
        parts = [*graph.node, *graph.initializer, *graph.input, *graph.output]
        for part in (graph, *parts):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
        graphs += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    onnx.checker.check_model(model)
    return model
