"""Folder that goes to production: graphs, tokenizer and manifest, written and verified."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from albef.export.graphs import parts
from albef.export.onnx import convert, write_graphs
from albef.export.torch_model import TorchBackend
from albef.export.verify import Difference, compare, shapes, verify
from albef.io import file_digest
from albef.models.weights import Checkpoint
from albef.runtime import manifest as manifests
from albef.runtime.loading import CAPABILITIES
from albef.runtime.manifest import Precision
from albef.runtime.model import Array, Backend, Model
from albef.runtime.sessions import CPU, Sessions
from albef.runtime.sketch import Sketch

# Calls and items per call that are kept as validation inputs of each graph; few fix the ranges.
_CALLS, _ITEMS = 4, 16


def export(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    run: str,
    opset: int,
    tolerance: float,
    precisions: Sequence[Precision],
    calibrate: Callable[[Model], tuple[float, Sketch]],
    threads: int = 0,
    provenance: Mapping[str, str] | None = None,
) -> tuple[manifests.Manifest, list[Difference]]:
    """Export a model and compare the result with torch. The manifest is written last.

    Args:
        checkpoint: checkpoint of a kind that can be exported.
        folder: an existing empty folder. If the export fails, it has no manifest and is not valid.
        run: name of the model.
        opset: version of ONNX's operators.
        tolerance: largest absolute difference allowed, in float32.
        precisions: precisions to write; the first one is loaded by default.
        calibrate: asks the float32 model about validation data. The inputs of the graphs fix the
            ranges of int8. It returns the temperature, and the sketch that the traffic of a server
            is compared with.
        threads: threads of ONNX Runtime; 0 takes all cores.
        provenance: entries that the manifest adds to the checkpoint and its provenance.

    Returns:
        The manifest, and every comparison with torch, whose values depend on the machine.

    Raises:
        CheckpointError: the kind cannot be exported.
        VerificationError: the graphs compute something else.
        ValueError: int8 is requested, and ``calibrate`` asked nothing.
    """
    model, vocab_size = parts(checkpoint), checkpoint.tokenizer.vocab_size
    graphs = model.graphs
    versions = write_graphs(graphs, folder, opset, vocab_size)
    exported = Sessions(folder, "float32", list(graphs), [CPU], threads)
    cases = shapes(model.facts.max_tokens)
    differences = list(compare(graphs, TorchBackend(model), exported, cases, vocab_size))
    verified = verify(differences, tolerance)
    recorder, capability = _Recorder(exported), CAPABILITIES[model.facts.capability]
    traced = capability(
        recorder, checkpoint.tokenizer, model.facts, checkpoint.digest, model.answers
    )
    temperature, sketch = calibrate(traced)
    facts = model.facts.model_copy(update={"temperature": temperature})
    sketch.write(folder)
    checkpoint.tokenizer.save(folder / manifests.TOKENIZER)
    if model.facts.answering is not None:
        (folder / manifests.ANSWERS).write_text(json.dumps(model.answers, indent=0) + "\n")
    for graph in graphs:
        _convert(folder, graph, precisions, recorder.inputs[graph])
    manifest = manifests.Manifest(
        format=manifests.FORMAT,
        run=run,
        model=facts,
        graphs=tuple(graphs),
        precisions=tuple(precisions),
        preprocessing=manifests.PREPROCESSING,
        files=_digests(folder),
        onnx=versions,
        verified=verified,
        provenance={
            **checkpoint.config.get("provenance", {}),
            **(provenance or {}),
            "checkpoint": checkpoint.digest,
        },
    )
    manifests.write(folder, manifest)
    return manifest, differences


def _convert(
    folder: Path,
    graph: str,
    precisions: Sequence[Precision],
    inputs: Sequence[Mapping[str, Array]],
) -> None:
    """Convert a graph from float32 to the requested precisions."""
    for precision in precisions:
        if precision != "float32":
            convert(folder, graph, precision, inputs)
    if "float32" not in precisions:
        (folder / manifests.graph_file("float32", graph)).unlink()


def _digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


class _Recorder:
    """Backend that records the inputs of each graph in its first calls."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.inputs: dict[str, list[dict[str, Array]]] = defaultdict(list)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See :meth:`albef.runtime.model.Backend.run`."""
        if len(self.inputs[graph]) < _CALLS:
            self.inputs[graph].append({name: array[:_ITEMS] for name, array in inputs.items()})
        return self._backend.run(graph, inputs)
