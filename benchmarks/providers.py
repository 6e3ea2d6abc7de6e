"""Time an export's encoders on several providers of ONNX Runtime, in turns.

    python -m benchmarks.providers --size base --provider OpenVINOExecutionProvider

The model has random weights, and is exported with opset 22, which OpenVINO can read. The CPU's
provider is always measured beside the named ones.
"""

import argparse
import io
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from albef.runtime import load
from albef.runtime.sessions import CPU
from benchmarks.serving import SIZES, write_export
from benchmarks.timing import Call, alternate, machine, ratio, spread

_TEXT = "a photo of two red apples left of a green bottle on a wooden table"


def main() -> None:
    """Print a table: seconds to load, milliseconds per call, ratio to the CPU, difference."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--provider", action="append", required=True)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    models: dict[str, Any] = {}
    loading = {}
    with tempfile.TemporaryDirectory() as folder:
        write_export(Path(folder), given.size, [given.precision], opset=22)
        for name in dict.fromkeys([CPU, *given.provider]):
            start = time.perf_counter()
            models[name] = load(Path(folder) / "export", [name], threads=given.threads)
            loading[name] = time.perf_counter() - start
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    inputs: dict[str, list[Any]] = {"image": [buffer.getvalue()], "text": [_TEXT]}
    print(f"{machine()}, ONNX Runtime {onnxruntime.__version__}\n")
    print("| call | provider | load, s | ms | times the CPU's | difference |")
    print("|---|---|---|---|---|---|")
    for kind, batch in (("text", 1), ("text", 8), ("image", 1), ("image", 8)):
        calls: dict[str, Call] = {
            name: partial(getattr(model, f"embed_{kind}"), inputs[kind] * batch)
            for name, model in models.items()
        }
        times = alternate(calls, given.rounds)
        expected: Any = calls[CPU]()
        for name, call in calls.items():
            difference = float(np.abs(np.asarray(call()) - expected).max())
            shown = spread([1000 * each for each in times[name]])
            print(
                f"| {kind}, {batch} | {name.removesuffix('ExecutionProvider')} | "
                f"{loading[name]:.1f} | {shown} | {ratio(times[name], times[CPU])} | "
                f"{difference:.0e} |"
            )


if __name__ == "__main__":
    main()
