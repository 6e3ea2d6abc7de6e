"""``albef triton``: an export's graphs as a model repository of Triton Inference Server.

A graph is a model: ``GRAPH/config.pbtxt`` (Triton's ``ModelConfig``) and ``GRAPH/1/model.onnx``.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxruntime import InferenceSession

from albef.config import TYPO, did_you_mean
from albef.io import atomic
from albef.runtime import manifest as manifests
from albef.runtime.manifest import ExportError, graph_file

_TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(int64)": "TYPE_INT64",
    "tensor(bool)": "TYPE_BOOL",
}


def main(export: Path, out: Path, precision: str | None, batch: int) -> None:
    """Write the graphs of one precision (by default the first), each with its ``config.pbtxt``.

    Triton computes at most ``batch`` items together.
    """
    manifest = manifests.read(export)
    chosen = precision or manifest.precisions[0]
    if chosen not in manifest.precisions:
        hint = did_you_mean(chosen, manifest.precisions, cutoff=TYPO)
        raise ExportError(f"{export} has no precision {chosen}{hint}")
    manifests.check(export, manifest, chosen)
    if out.exists():
        raise ValueError(f"{out} exists; remove it or choose another folder")
    with atomic(out) as part:
        for graph in manifest.graphs:
            source = export / graph_file(chosen, graph)
            target = part / graph / "1" / source.name
            target.parent.mkdir(parents=True)
            shutil.copyfile(source, target)
            (part / graph / "config.pbtxt").write_text(_config(graph, source, batch))
    print(f"{out}: a model repository with {', '.join(manifest.graphs)}")


def _config(graph: str, path: Path, batch: int) -> str:
    session = InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    return "\n".join(
        [
            f'name: "{graph}"',
            'platform: "onnxruntime_onnx"',
            f"max_batch_size: {batch}",
            *_tensors("input", session.get_inputs()),
            *_tensors("output", session.get_outputs()),
            "dynamic_batching {}",
            "",
        ]
    )


def _tensors(field: str, tensors: Sequence[Any]) -> list[str]:
    lines = []
    for tensor in tensors:
        axes = [axis if isinstance(axis, int) else -1 for axis in tensor.shape[1:]]
        kind = _TYPES[tensor.type]
        lines.append(f'{field} {{ name: "{tensor.name}" data_type: {kind} dims: {axes} }}')
    return lines
