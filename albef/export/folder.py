"""The folder that goes to production: graphs, tokenizer and manifest, written and verified."""

from pathlib import Path
from typing import NamedTuple

from albef.digest import file_digest
from albef.export.onnx import export_graphs
from albef.export.verify import Difference, compare, shapes, verify
from albef.inference import TorchModel
from albef.runtime import manifest
from albef.runtime.sessions import CPU, OnnxModel


class Result(NamedTuple):
    """What was written.

    Attributes:
        manifest: of the folder.
        differences: every comparison with torch; the figures depend on the machine.
    """

    manifest: manifest.Manifest
    differences: list[Difference]


def export(
    model: TorchModel, folder: Path, *, run: str, opset: int, tolerance: float, threads: int = 0
) -> Result:
    """Export a model and compare the result with it; the manifest is written last.

    Args:
        model: on the CPU.
        folder: exists and is empty; where this fails it is no export, since it has no manifest.
        run: what the model is called.
        opset: version of ONNX's operators.
        tolerance: largest absolute difference allowed.
        threads: of ONNX Runtime; 0 takes all cores.

    Raises:
        VerificationError: the graphs compute something else.
    """
    checkpoint = model.checkpoint
    versions = export_graphs(model, folder, opset)
    checkpoint.tokenizer.save(folder / manifest.TOKENIZER)
    sizes = {
        "image_size": model.image_size,
        "max_tokens": model.max_tokens,
        "max_words": model.max_words,
        "embed_dim": model.embed_dim,
    }
    exported = OnnxModel(folder, providers=[CPU], threads=threads, **sizes)
    differences = list(compare(model, exported, shapes(model.max_tokens)))
    written = manifest.Manifest(
        format=manifest.FORMAT,
        kind=checkpoint.kind,
        preprocessing=manifest.PREPROCESSING,
        files={name: file_digest(folder / name) for name in manifest.FILES},
        onnx=versions,
        verified=verify(differences, tolerance),
        provenance={
            **checkpoint.config.get("provenance", {}),
            "run": run,
            "checkpoint": checkpoint.digest,
        },
        **sizes,
    )
    manifest.write(folder, written)
    return Result(written, differences)
