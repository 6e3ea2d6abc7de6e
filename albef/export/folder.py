"""Folder that goes to production: graphs, tokenizer and manifest, written and verified."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from albef.data.record import Record
from albef.export.calibration import sketched
from albef.export.graphs import Parts, parts
from albef.export.onnx import convert, write_graphs
from albef.export.torch_model import TorchBackend, on_backend
from albef.export.verify import Difference, compare, shapes, verify
from albef.io import atomic, file_digest
from albef.models.weights import Checkpoint, load_checkpoint
from albef.preprocessing.text import TextTokenizer
from albef.runtime import manifest as manifests
from albef.runtime.cleaning import cleaning_of, write_tokenizer
from albef.runtime.manifest import Precision
from albef.runtime.model import Array, Backend, Model
from albef.runtime.sessions import CPU, Sessions
from albef.runtime.sketch import Sketch

OPSET = 23
"""Default version of ONNX's operators. It keeps attention as one node."""
TOLERANCE = 1e-3
"""Default of the largest absolute difference from torch that a float32 export may have."""
# Calls, and items per call, whose inputs of each graph are kept; few are enough for the ranges.
_CALLS, _ITEMS = 4, 16
_Inputs = dict[str, list[dict[str, Array]]]


def export_onnx(
    checkpoint: Checkpoint | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    precisions: Sequence[Precision] = ("float32",),
    records: Sequence[Record] = (),
) -> None:
    """Write a checkpoint as ONNX graphs, which :func:`albef.runtime.load` loads without torch.

    >>> albef.export_onnx("products/models/retrieval", "exported")
    >>> albef.runtime.load("exported").embed_text("a dog")

    The float32 graphs are compared with torch in several shapes before the folder appears.

    Args:
        checkpoint: checkpoint, or its folder.
        folder: folder to create.
        precisions: ``float32``, ``float16`` or ``int8``; the first is loaded by default.
        records: records that fix the ranges of int8; a few dozen that resemble the inputs.

    Raises:
        FileExistsError: ``folder`` exists.
        CheckpointError: the kind of checkpoint cannot be exported.
        VerificationError: the graphs differ from torch by more than 1e-3.
        ValueError: int8 has no records.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another folder")
    if "int8" in precisions and not records:
        raise ValueError("int8 needs records; pass some, or remove int8 from precisions")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(Path(checkpoint))
    with atomic(folder) as part:
        part.mkdir()
        export(
            checkpoint,
            part,
            run=folder.name,
            opset=OPSET,
            tolerance=TOLERANCE,
            precisions=precisions,
            sketch=lambda model: sketched(model, records),
        )


def export(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    run: str,
    opset: int,
    tolerance: float,
    precisions: Sequence[Precision],
    sketch: Callable[[Model], Sketch],
    threads: int = 0,
    provenance: Mapping[str, str] | None = None,
) -> tuple[manifests.Manifest, list[Difference]]:
    """Export a model, and return its manifest and all comparisons with torch.

    The manifest is written last. The comparisons depend on the machine.

    Args:
        checkpoint: checkpoint of a kind that can be exported.
        folder: an existing empty folder. If the export fails, it has no manifest and is not valid.
        run, opset, tolerance, precisions: as in the manifest and in ``export.runs``.
        sketch: runs the float32 model on validation data and returns a sketch of the data. The
            inputs of the graphs in these calls fix the ranges of int8.
        threads: threads of ONNX Runtime; 0 uses all cores.
        provenance: entries that the manifest adds to the checkpoint's provenance.

    Raises:
        CheckpointError: the kind cannot be exported.
        VerificationError: the graphs compute something else.
    """
    model, size = parts(checkpoint), checkpoint.tokenizer.vocab_size
    graphs, facts = model.graphs, model.facts
    versions = write_graphs(graphs, folder, opset, size)
    exported = Sessions(folder, "float32", list(graphs), [CPU], threads)
    differences = compare(graphs, TorchBackend(model), exported, shapes(facts.max_tokens), size)
    verified = verify(differences, tolerance)
    recorder = _Recorder(exported, graphs)
    input_sketch = sketch(on_backend(recorder, checkpoint, model))
    _convert(folder, recorder.inputs, precisions)
    _write_texts(folder, model, checkpoint.tokenizer)
    input_sketch.write(folder)
    origin = checkpoint.config.get("provenance", {}) | dict(provenance or {})
    manifest = manifests.Manifest(
        format=manifests.FORMAT,
        run=run,
        model=facts,
        graphs=tuple(graphs),
        precisions=tuple(precisions),
        preprocessing=manifests.preprocessing(facts.capability, public=checkpoint.tokenizer.public),
        files=_digests(folder),
        onnx=versions,
        verified=verified,
        provenance=origin | {"checkpoint": checkpoint.digest},
    )
    manifests.write(folder, manifest)
    return manifest, differences


def _convert(folder: Path, inputs: _Inputs, precisions: Sequence[Precision]) -> None:
    for graph in inputs:
        for precision in precisions:
            if precision != "float32":
                convert(folder, graph, precision, inputs[graph])
        if "float32" not in precisions:
            (folder / manifests.graph_file("float32", graph)).unlink()


def _write_texts(folder: Path, model: Parts, tokenizer: TextTokenizer) -> None:
    facts = model.facts
    cleaning = cleaning_of(facts.capability, public=tokenizer.public)
    path = folder / manifests.TOKENIZER
    write_tokenizer(path, tokenizer, cleaning, facts.max_words, facts.max_tokens)
    if facts.answering is not None:
        (folder / manifests.ANSWERS).write_text(json.dumps(model.answers, indent=0) + "\n")


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


class _Recorder:
    """Backend that records the inputs of each graph in its first calls.

    It also keeps each graph's last outputs, because a judged image is encoded three times in a row.
    """

    def __init__(self, backend: Backend, graphs: Iterable[str]) -> None:
        self._backend = backend
        self.inputs: _Inputs = {graph: [] for graph in graphs}
        self._last: dict[str, tuple[Mapping[str, Array], dict[str, Array]]] = {}

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See :meth:`albef.runtime.model.Backend.run`."""
        if len(self.inputs[graph]) < _CALLS:
            self.inputs[graph].append({name: array[:_ITEMS] for name, array in inputs.items()})
        last = self._last.get(graph)
        if not last or not all(np.array_equal(inputs[name], last[0][name]) for name in inputs):
            self._last[graph] = last = inputs, self._backend.run(graph, inputs)
        return last[1]
