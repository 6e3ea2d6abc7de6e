"""export@RUN: export a run's model for production after checking that it is the evaluated one."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from albef.config import Section
from albef.data.shards import Shards, describe
from albef.export import calibration
from albef.export.folder import OPSET, TOLERANCE, export
from albef.export.torch_model import model_of
from albef.export.verify import VerificationError
from albef.loading.reading import Part, Records
from albef.metrics.family import family_of
from albef.models.weights import Checkpoint, load_checkpoint
from albef.runtime.loading import load
from albef.runtime.manifest import NAME, Precision
from albef.runtime.model import Model
from albef.runtime.sketch import Sketch
from pipelines.device_lock import device_slot
from pipelines.stage import Stage, main, run_of, write_json

log = logging.getLogger("albef")
_BATCH = 32  # Number of records in a batch of the task's prediction.
_VALIDATION = 1000  # Maximum number of records for the ranges of int8.


class RunExport(Section):
    """Export of one run."""

    dataset: str
    """Dataset on which the export is evaluated."""
    split: str = "test"
    """Split of the dataset. Its answers must be known."""
    examples: Annotated[int, Field(ge=1)] | None = None
    """Number of records that are evaluated, from the start of the split. null evaluates all."""
    precisions: Annotated[dict[Precision, Annotated[float, Field(ge=0)]], Field(min_length=1)] = (
        Field({"float32": 0.3, "int8": 3.0})
    )
    """Precisions to write, with the points of the primary metric that each may lose against torch.
    The first one is loaded by default."""
    opset: Annotated[int, Field(ge=18, le=23)] = OPSET
    """Version of ONNX's operators. 23 keeps attention as one node and needs ONNX Runtime 1.23."""
    tolerance: Annotated[float, Field(gt=0)] = TOLERANCE
    """Largest absolute difference from torch that a float32 export may have."""


class ExportConfig(Section):
    """Exports of runs."""

    runs: Annotated[dict[str, RunExport], Field(min_length=1)]
    """Runs to export, by name."""


def run(stage: Stage) -> None:
    """Export the model of a run to ONNX, compare it with torch, and evaluate it, on the CPU."""
    # If it shared its cores with a training, both would take many times as long.
    with device_slot("cpu", stage.runtime.threads):
        _export(stage)


def _export(stage: Stage) -> None:
    settings = stage.section(f"export.runs.{stage.key}", RunExport)
    if threads := stage.runtime.threads:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(stage.layout.model(stage.key))
    target, metrics = stage.layout.export(stage.key), stage.layout.export_metrics(stage.key)
    with _finished(target) as folder:
        manifest, differences = export(
            checkpoint,
            folder,
            run=stage.key,
            opset=settings.opset,
            tolerance=settings.tolerance,
            precisions=tuple(settings.precisions),
            sketch=partial(_sketch, stage, settings),
            threads=threads,
            provenance={"export_code": code} if (code := stage.code) else None,
        )
        scores = _evaluated(stage, settings, checkpoint, folder, manifest.model.temperature)
    sizes = {
        precision: sum(path.stat().st_size for path in (target / precision).rglob("*.onnx"))
        for precision in settings.precisions
    }
    write_json(metrics, {**scores, "bytes": sizes})
    stage.made(target / NAME, metrics)
    largest = max(difference.largest for difference in differences)
    by_graph: dict[str, dict[str, float]] = {}
    for graph, shape, difference in differences:
        by_graph.setdefault(graph, {})["x".join(map(str, shape))] = difference
    stage.record |= {"largest_difference": largest, "differences": by_graph}
    log.info(
        "%s: differs from torch by at most %.1e in %d shapes; %s",
        target,
        largest,
        len(manifest.verified.shapes),
        ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items()),
    )


def _sketch(stage: Stage, settings: RunExport, model: Model) -> Sketch:
    """Return a sketch of a model's inputs and answers, from records that are not evaluated.

    Raises:
        ValueError: no records remain, but int8 needs some.
    """
    data = stage.layout.data(settings.dataset)
    records: Records = []
    if "val" in describe(data)["splits"]:
        records = Shards(data, "val")
        used = settings.examples or len(records) if settings.split == "val" else 0
        records = Part(records, used, used + _VALIDATION)
    if not len(records) and "int8" in settings.precisions:
        raise ValueError(
            f"int8 needs records of split val of dataset {settings.dataset} that are not "
            f"evaluated; remove int8 from export.runs.{stage.key}.precisions, add such a split, or "
            "reduce `examples`"
        )
    return calibration.sketched(model, records)


def _evaluated(
    stage: Stage, settings: RunExport, checkpoint: Checkpoint, folder: Path, temperature: float
) -> dict[str, Any]:
    """Return metrics of torch and of each precision, and the calibration of the default precision.

    Raises:
        VerificationError: a precision loses more of the primary metric than allowed.
    """
    config, kind = run_of(stage)
    data = stage.layout.data(settings.dataset)
    records = Part(Shards(data, settings.split), 0, settings.examples)
    task = kind.restore(config, checkpoint).eval()
    score = family_of(kind).score
    scores: dict[str, Any] = {"torch": score(task.predict(records, _BATCH))}
    models: dict[str, Model] = {}
    # The export cannot use the gradient, so its loss is measured against torch without it.
    if task.gradient:
        scores[f"torch_{task.gradient}"] = scores["torch"]
        models["torch"] = model_of(checkpoint)
    threads = stage.runtime.threads
    models |= {name: load(folder, threads=threads, precision=name) for name in settings.precisions}
    for name, model in models.items():
        scores[name] = score(task.predict(records, _BATCH, model))
    values = {name: metrics[kind.primary] for name, metrics in scores.items()}
    log.info(
        "%s of %d records of %s in %s: %s",
        kind.primary, len(records), settings.split, settings.dataset,
        ", ".join(f"{name} {value:.2f}" for name, value in values.items()),
    )  # fmt: skip
    check(kind.primary, values, settings.precisions)
    first = models[next(iter(settings.precisions))]
    if calibration.is_calibrated(first):
        scores["calibration"] = calibration.describe(calibration.judge(first, records), temperature)
    return scores


def check(primary: str, values: Mapping[str, float], allowed: Mapping[Precision, float]) -> None:
    """Raise VerificationError if a precision loses more points against torch than allowed."""
    for name, max_loss in allowed.items():
        loss = values["torch"] - values[name]
        if not loss <= max_loss:
            raise VerificationError(
                f"{name} loses {loss:.2f} points of {primary} ({values[name]:.2f}; torch has "
                f"{values['torch']:.2f}), more than the {max_loss:g} allowed by "
                "export.runs.RUN.precisions; nothing was exported"
            )


@contextmanager
def _finished(target: Path) -> Iterator[Path]:
    """Yield a folder that replaces ``target`` on success and is removed on failure."""
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
