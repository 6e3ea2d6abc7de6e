"""What only a GPU can show, checked and measured once: ``make gpu``.

It ends with a table for benchmarks/README.md. The exit code is 1 if something is off, 2 without a
GPU. ``--device cpu --size tiny`` tries the parts themselves on any machine.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from albef.layout import Runtime
from albef.models.kernels import compile_blocks, evaluating
from albef.runtime.manifest import graph_file
from albef.runtime.sessions import CPU, CUDA
from albef.training.speed import product_peak
from benchmarks import serving
from benchmarks.servers import serve
from benchmarks.timing import alternate, flops, machine
from pipelines.params import load
from pipelines.plan import Training, Trainings

SIZES = {"paper": ("paper-4m", 32, "base"), "tiny": ("smoke", 4, "built-in")}
"""Preset whose pre-training is taken, its micro-batch, and the size of the export."""
LOOP = "tests/training/test_loop.py"
TESTS = (
    "tests/losses/test_losses.py",
    "tests/runtime/test_sessions.py",
    "tests/tasks/test_contract.py",
    "tests/tasks/test_determinism.py",
    "tests/tasks/test_retrieval.py",
    f"{LOOP}::test_a_run_that_is_killed_and_resumes_ends_as_one_that_never_stopped",
    f"{LOOP}::test_a_step_of_float16_whose_gradients_overflow_is_left_out",
)
NAMED = "cuda or gpu or card or killed or float16"
"""Tests of a GPU, and those that train twice and resume, for equal bytes."""
LEAST_OF_TIMM = 0.7
"""Least share of the utilization of timm's ViT that a training step must reach."""


@dataclass
class Check:
    """A run of the parts: its device and size, the rows of its table, and what is off."""

    device: torch.device
    size: str
    rounds: int
    folder: Path
    rows: list[tuple[str, str]] = field(default_factory=list)
    off: list[str] = field(default_factory=list)

    def expect(self, right: bool, message: str) -> None:
        """Note what is off unless it is right."""
        if not right:
            self.off.append(message)

    @property
    def on_gpu(self) -> bool:
        """True if speed and memory are those of a GPU."""
        return self.device.type == "cuda"

    @cached_property
    def trainings(self) -> Trainings:
        """The trainings of the preset."""
        return Trainings(load(Path(f"presets/{SIZES[self.size][0]}.yaml"), related=False), gpus=1)

    def training(self, *, compiled: bool) -> Training:
        """A real pre-training on the device."""
        torch.manual_seed(0)
        task = self.trainings.task("pretrained")
        if compiled:  # kernels for a CPU take minutes to compile
            compile_blocks(task, backend="inductor" if self.on_gpu else "eager")
        records = self.trainings.records("retrieval")
        return Training(task, Runtime(), records, None, self.device)


def tests(check: Check) -> None:
    """The tests of a GPU; a training that runs twice, and one that resumes, with equal bytes."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", NAMED]
    device = {"ALBEF_TEST_DEVICE": check.device.type, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    done = subprocess.run(
        [*command, *TESTS], env=os.environ | device, capture_output=True, text=True
    )
    lines = done.stdout.strip().splitlines() or [done.stderr]
    check.rows.append(("tests; a training twice, and resumed", lines[-1].strip("= ")))
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    check.expect(done.returncode == 0, "; ".join(failed) or lines[-1])


def step(check: Check) -> None:
    """Memory of a step beside its estimate; its time eager, compiled, and of timm's ViT alone."""
    size, eager = SIZES[check.size][1], check.training(compiled=False)
    need = check.trainings.training("pretrained").need(size, keep_gradients=False)
    text = f"estimated {need.peak / 2**20:.0f} MiB"
    if check.on_gpu:
        torch.cuda.reset_peak_memory_stats(check.device)
        eager.step(size)
        real = torch.cuda.max_memory_allocated(check.device)
        text = f"{real / 2**20:.0f} MiB, {text}"
        check.expect(abs(real / need.peak - 1) < 0.15, f"`albef plan` is wrong here: {text}")
    check.rows.append((f"memory of a step, {size} images", text))
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "step": (partial(eager.step, size), need.flops),
        "step, compiled": (partial(check.training(compiled=True).step, size), need.flops),
        "timm's ViT": _timm(eager, eager.batch(size)["image"].to(check.device).float()),
    }
    calls = {name: partial(_waited, check, call) for name, (call, _) in ways.items()}
    peak, shares = product_peak(check.device, torch.bfloat16), dict[str, float]()
    for name, times in alternate(calls, check.rounds).items():
        seconds = statistics.median(times)
        rate = ways[name][1] / seconds
        shares[name] = rate / peak
        text = f"{1000 * seconds:.1f} ms, {rate / 1e12:.3g} TFLOP/s, {100 * rate / peak:.0f} %"
        check.rows.append((f"{name}, {size} images", f"{text} of peak"))
    share = max(shares["step"], shares["step, compiled"]) / shares["timm's ViT"]
    check.expect(
        share >= LEAST_OF_TIMM or not check.on_gpu,
        f"a step reaches {share:.2f} of timm's utilization; see where it waits (torch.profiler)",
    )


def _waited(check: Check, call: Callable[[], object]) -> None:
    call()
    if check.on_gpu:
        torch.cuda.synchronize(check.device)


def _timm(training: Training, images: torch.Tensor) -> tuple[Callable[[], object], int]:
    """A step of timm's image encoder of the same sizes, and its operations."""
    from timm.models.vision_transformer import VisionTransformer

    sizes: Any = training.task.sizes.image
    device = images.device
    vit = VisionTransformer(
        img_size=sizes.image_size, patch_size=sizes.patch_size, embed_dim=sizes.width,
        depth=sizes.depth, num_heads=sizes.heads, num_classes=0,
    ).to(device)  # fmt: skip
    optimizer = torch.optim.AdamW(vit.parameters(), fused=True)

    def call() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = vit(images).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return call, flops(call)


def evaluation(check: Check) -> None:
    """Features of the device beside those of the CPU."""
    task: Any = check.training(compiled=False).task.eval()
    images = torch.randn(SIZES[check.size][1], 3, *[task.image_size] * 2)
    found = []
    for device in (check.device, torch.device("cpu")):
        model = task.to(device).model
        with torch.no_grad(), evaluating("float32", device):
            found.append(model.image_feat(model.encode_image(images.to(device))).cpu())
    difference = float((found[0] - found[1]).abs().max())
    check.rows.append(("features, beside the CPU's", f"differ by at most {difference:.1e}"))
    check.expect(difference < 1e-3, f"features differ from the CPU's by {difference:.1e}")


def export(check: Check) -> None:
    """The float16 export on its provider, attention included, and its server."""
    logging.disable(logging.INFO)  # the exporter logs each node that it folds
    serving.write_export(check.folder, SIZES[check.size][2], ("float32", "float16"))
    provider = CUDA if check.on_gpu else CPU
    graph = check.folder / "export" / graph_file("float16", "image_encoder")
    placed = _placed(graph, provider, check.folder)
    names = {name for name, _ in placed}
    wrong = {name for name, where in placed if where != provider}
    # A provider without a kernel for attention computes it in parts; only its softmax has Exp.
    attention = {"Attention", "MultiHeadAttention", "Softmax", "Exp"} & names
    check.rows.append(
        ("float16 export", f"{len(names - wrong)} of {len(names)} operators on {provider}")
    )
    check.expect(bool(attention), "float16 export: no attention in the profile")
    for name in sorted(wrong & attention):
        check.expect(False, f"float16 export: {name} is not on {provider}")
    with serve(check.folder / "export") as served:
        check.rows.append(("server", f"first answer after {served.first:.1f} s"))


def _placed(graph: Path, provider: str, folder: Path) -> set[tuple[str, str]]:
    """The kinds of operators that a graph runs, each with its providers; writes to ``folder``."""
    onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    # In the export's folder, which holds only what its manifest lists, it would stop the server.
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(str(graph), options, providers=[provider, CPU])
    (given,) = session.get_inputs()
    side = [n if isinstance(n, int) else 2 for n in given.shape]
    kind = np.float16 if "float16" in given.type else np.float32
    session.run(None, {given.name: np.zeros(side, kind)})
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event["args"] for event in events if "provider" in event.get("args", {})]
    return {(node["op_name"], node["provider"]) for node in nodes}


PARTS = {"tests": tests, "step": step, "evaluation": evaluation, "export": export}


def main() -> None:
    """Run the parts, print the table, and exit with 1 if something is off."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--part", choices=PARTS, action="append", help="all unless named")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds, after one warm-up")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        print(
            f"no GPU: torch {torch.__version__} is {built} and finds none. Install a CUDA build of "
            "torch on a machine with an NVIDIA GPU, or try the parts with --device cpu --size tiny",
            file=sys.stderr,
        )
        raise SystemExit(2)
    with tempfile.TemporaryDirectory() as folder:
        check = Check(device, options.size, options.rounds, Path(folder))
        for name in options.part or PARTS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                PARTS[name](check)
            except Exception as error:  # The other parts run, and the exit code is 1.
                traceback.print_exc()
                check.off.append(f"{name}: {type(error).__name__}: {error}")
    gpu = f"{torch.cuda.get_device_name(device)}, " if check.on_gpu else ""
    print(f"{gpu}{machine()}; medians of {options.rounds}\n\n| | |\n|---|---|")
    for label, value in check.rows:
        print(f"| {label} | {value} |")
    for message in check.off:
        print(f"off: {message}", file=sys.stderr)
    raise SystemExit(1 if check.off else 0)


if __name__ == "__main__":
    main()
