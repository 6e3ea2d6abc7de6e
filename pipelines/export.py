"""export@RUN: write a run's model for production, once it is known to compute what torch does."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from albef.config import Section
from albef.export.folder import export
from albef.export.verify import Difference
from albef.inference import load
from albef.runtime.manifest import FILES
from pipelines.stage import Stage, main

log = logging.getLogger("albef")


class ExportConfig(Section):
    """Values of every export."""

    runs: Annotated[tuple[str, ...], Field(min_length=1)]
    """Runs that are exported, of kinds that match images and texts."""
    opset: Annotated[int, Field(ge=18, le=23)]
    """Version of ONNX's operators; 23 keeps attention as one node and needs ONNX Runtime 1.23."""
    tolerance: Annotated[float, Field(gt=0)]
    """Largest absolute difference from torch with which an export may be finished."""


def run(stage: Stage) -> None:
    """Export the model of a run to ONNX and compare it with torch."""
    config = stage.section("export", ExportConfig)
    for name in ("onnxscript", "onnx_ir"):  # each tells of every node it folds
        logging.getLogger(name).setLevel(logging.WARNING)
    if stage.runtime.threads:
        torch.set_num_threads(stage.runtime.threads)
    model = load(stage.layout.model(stage.key))
    target = stage.layout.export(stage.key)
    with _finished(target) as folder:
        result = export(
            model,
            folder,
            run=stage.key,
            opset=config.opset,
            tolerance=config.tolerance,
            threads=stage.runtime.threads,
        )
    sizes = {name: (target / name).stat().st_size for name in FILES}
    largest = max(difference.largest for difference in result.differences)
    stage.record |= {
        "bytes": sizes,
        "largest_difference": largest,
        "differences": _by_graph(result.differences),
    }
    log.info(
        "%s: %.1f MB, at most %.1e from torch over %d shapes",
        target,
        sum(sizes.values()) / 1e6,
        largest,
        len(result.manifest.verified.shapes),
    )


def _by_graph(differences: Sequence[Difference]) -> dict[str, dict[str, float]]:
    """Largest differences by graph and shape, for the run record."""
    table: dict[str, dict[str, float]] = {}
    for item in differences:
        table.setdefault(item.graph, {})[f"{item.batch}x{item.length}"] = item.largest
    return table


@contextmanager
def _finished(target: Path) -> Iterator[Path]:
    """A folder that takes the place of ``target`` if nothing fails, and vanishes otherwise."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


if __name__ == "__main__":
    main(run)
