"""ONNX graphs of a model in 32, 16 and 8 bits.

Their bytes depend only on the model and on validation data. Every axis that has a name in
:class:`albef.export.graphs.Input` is dynamic and has that name in the graph.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from albef.export.graphs import Graph, Input
from albef.runtime.manifest import Onnx, Precision, graph_file
from albef.runtime.model import Array

# Sizes 0 and 1 would be frozen into the graph.
_EXAMPLE = {"batch": 2, "texts": 3, "length": 7, "nodes": 5}
_QUANTIZED = ["MatMul", "Gemm", "Gather"]
# Tensors passed between graphs have the precision of the weights.
_STATES = ("states", "keys", "values")


def example(inputs: Mapping[str, Input], sizes: Mapping[str, int], vocab_size: int) -> list[Array]:
    """Return example inputs of a graph, in order; the same every time.

    ``sizes`` are those of the axes that have a name.
    """
    rng = np.random.default_rng(0)
    arrays: list[Array] = []
    for content, dims in inputs.values():
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)
        lengths = rng.integers(1, shape[-1] + 1, shape[:-1])
        lengths.flat[0] = shape[-1]
        last_axis = np.arange(shape[-1])
        array: Array
        if content == "floats":
            array = rng.standard_normal(shape).astype(np.float32)
        elif content == "ids":
            array = rng.integers(0, vocab_size, shape)
        elif content == "mask":  # The first one has full length, the others are padded.
            array = (last_axis < lengths[..., None]).astype(np.int64)
        elif content == "positions":
            array = np.broadcast_to(last_axis % sizes["length"], shape).copy()
        else:  # Each node sees itself and some of the earlier ones.
            array = np.tril(rng.integers(0, 2, shape)) | np.eye(shape[-1], dtype=np.int64)
        arrays.append(array)
    return arrays


def write_graphs(graphs: Mapping[str, Graph], folder: Path, opset: int, vocab_size: int) -> Onnx:
    """Write the graphs in float32, on the CPU and in eval mode; return the versions of the format.

    A model that is exported twice gives equal bytes, without traces of place, time or build. From
    opset 23 on, attention stays one node.
    """
    for name, graph in graphs.items():
        inputs = (torch.from_numpy(array) for array in example(graph.inputs, _EXAMPLE, vocab_size))
        axes = tuple(
            {axis: dim for axis, dim in enumerate(dims) if dim in _EXAMPLE}
            for _, dims in graph.inputs.values()
        )
        # The exporter warns about its internals and about shared axes.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module,
                tuple(inputs),
                dynamo=True,
                dynamic_shapes=axes,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
        assert program is not None
        proto = _strip(program.model_proto)
        _save(proto, folder / graph_file("float32", name))
    return Onnx(opset=proto.opset_import[0].version, ir=proto.ir_version)


def convert(
    folder: Path, graph: str, precision: Precision, inputs: Sequence[Mapping[str, Array]] = ()
) -> None:
    """Write a graph of an export again, converted from float32 to fewer bits.

    Inputs and outputs keep their precision, except that ``float16`` also halves states. ``int8``
    has a scale per column of weights; ``inputs``, from validation data, fix the scales of
    activations, so no item changes another's numbers.
    """
    source, target = (folder / graph_file(bits, graph) for bits in ("float32", precision))
    proto = onnx.load(source)
    if precision == "float16":
        io_names = [value.name for value in (*proto.graph.input, *proto.graph.output)]
        float_io = [name for name in io_names if not name.endswith(_STATES)]
        # The conversion warns about weights too small for 16 bits, which become 0.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            half = convert_float_to_float16(proto, keep_io_types=float_io, disable_shape_infer=True)
        # The conversion puts its casts after the nodes that read them.
        OnnxModel(half).topological_sort()
        _save(_strip(half), target)
        return
    _isolate_products(proto)
    reader = SimpleNamespace(get_next=partial(next, iter(inputs), None))
    options = {"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": _QUANTIZED}
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        draft = Path(scratch) / "model.onnx"
        quantize_static(
            proto, draft, reader, op_types_to_quantize=_QUANTIZED, per_channel=True,
            activation_type=QuantType.QUInt8, extra_options=options,
        )  # fmt: skip
        _save(_strip(onnx.load(draft)), target)


def _isolate_products(proto: Any) -> None:
    """Let each product with weights read its input through a separate node.

    Otherwise other readers of that input, such as the residual of a layer, would get 8 bits too.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    nodes, copies = [], {}
    for node in proto.graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights:
            source = node.input[0]
            if source not in copies:
                copies[source] = f"{source}/product"
                nodes.append(onnx.helper.make_node("Identity", [source], [copies[source]]))
            node.input[0] = copies[source]
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's log, which has a line for every product without weights."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _save(proto: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _strip(model: Any) -> Any:
    """Return ``model`` without the exporter's notes: stack traces with paths, and torch's build."""
    graphs = [model.graph]
    model.producer_name, model.producer_version = "albef", ""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    while graphs:
        graph = graphs.pop()
        del graph.value_info[:]
        elements = [*graph.node, *graph.initializer, *graph.input, *graph.output]
        for element in (graph, *elements):
            element.ClearField("metadata_props")
            element.ClearField("doc_string")
        graphs += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    onnx.checker.check_model(model)
    return model
