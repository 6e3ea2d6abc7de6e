"""``config.pbtxt`` of Triton Inference Server beside each graph, so that a precision's folder is a
model repository: ``tritonserver --model-repository EXPORT/float32``.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx

from albef.runtime.manifest import graph_file

LARGEST = 64
"""Most requests that are computed at once."""
_WAIT = 2000  # microseconds that a request waits for others
_TYPES = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.INT64: "TYPE_INT64",
}


def write_config(folder: Path, precision: str, graph: str) -> str:
    """Write the configuration of a graph, as its inputs and outputs are; its path in the folder."""
    file = graph_file(precision, graph)
    model = onnx.load(folder / file, load_external_data=False)
    lines = [
        f'name: "{graph}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {LARGEST}",
        *_tensors("input", model.graph.input),
        *_tensors("output", model.graph.output),
        f"dynamic_batching {{ max_queue_delay_microseconds: {_WAIT} }}",
    ]
    name = file.replace("1/model.onnx", "config.pbtxt")
    (folder / name).write_text("\n".join(lines) + "\n")
    return name


def _tensors(what: str, values: Iterable[Any]) -> list[str]:
    """A field each; the first axis, the batch, is Triton's own."""
    lines = []
    for value in values:
        tensor = value.type.tensor_type
        dims = ", ".join(str(dim.dim_value or -1) for dim in tensor.shape.dim[1:])
        lines.append(
            f'{what} {{ name: "{value.name}" data_type: {_TYPES[tensor.elem_type]} '
            f"dims: [ {dims} ] }}"
        )
    return lines
