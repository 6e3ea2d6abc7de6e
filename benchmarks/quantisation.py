"""Eight bits in three ways, side by side on the test split of a run of this project.

``python -m benchmarks.quantisation RUN``: ranges of activations fixed by validation data (``int8``,
as exported), weights alone (``int8_weights``), and ranges taken from each batch (``dynamic``, which
no export has), beside float32: the run's primary metric, milliseconds of a whole call, size, and
how much a number of an answer changes with what is computed beside it.
"""

import argparse
import logging
import shutil
import tempfile
from functools import partial
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from albef.data.shards import Shards
from albef.export.folder import export
from albef.io import file_digest
from albef.loading.reading import Part
from albef.models.weights import load_checkpoint
from albef.release.measuring import BATCHES, measure
from albef.runtime import manifest
from albef.runtime.manifest import Precision, graph_file
from benchmarks.timing import machine
from pipelines.export import RunExport, _calibrate
from pipelines.stage import Stage, run_of

PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "int8_weights")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.quantisation")
    parser.add_argument("run", nargs="+", help="runs of export.runs, trained")
    print(f"{machine()}\n")
    columns = [f"ms, batch {batch}" for batch in BATCHES]
    print(f"| run | | metric | {' | '.join(columns)} | MB | change with company |")
    print(f"|{'---|' * (5 + len(columns))}")
    for run in parser.parse_args().run:
        stage = Stage("export", run)
        settings = stage.section(f"export.runs.{run}", RunExport)
        config, kind = run_of(stage)
        checkpoint = load_checkpoint(stage.layout.model(run))
        records = Part(
            Shards(stage.layout.data(settings.dataset), settings.split), 0, settings.examples
        )
        with tempfile.TemporaryDirectory() as name:
            ours, dynamic = Path(name) / "ours", Path(name) / "dynamic"
            ours.mkdir()
            written, _ = export(
                checkpoint,
                ours,
                run=run,
                opset=settings.opset,
                tolerance=settings.tolerance,
                precisions=PRECISIONS,
                calibrate=partial(_calibrate, stage, settings),
                threads=stage.runtime.threads,
            )
            shutil.copytree(ours, dynamic)
            _by_batch(dynamic, written)
            task = kind.restore(config, checkpoint).eval()
            mine, other = measure([ours, dynamic], task, records, stage.runtime.threads)
        for way, figures in {**mine, "dynamic": other["int8"]}.items():
            ms = " | ".join(f"{figures.ms[batch]:.2f}" for batch in BATCHES)
            value = f"{kind.primary} {figures.metrics[kind.primary]:.2f}"
            size = f"{figures.bytes / 1e6:.2f}"
            print(f"| {run} | {way} | {value} | {ms} | {size} | {figures.company:.1e} |")


def _by_batch(folder: Path, written: manifest.Manifest) -> None:
    """Let int8 of an export take the ranges of activations from each batch."""
    for graph in written.graphs:
        path = folder / graph_file("int8", graph)
        quantize_dynamic(
            onnx.load(folder / graph_file("float32", graph)),
            path,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    files = {name: file_digest(folder / name) for name in written.files}
    only = {"files": files, "precisions": ("int8",)}
    manifest.write(folder, written.model_copy(update=only))


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # of products that have no weights in them
    main()
