"""Timing of calls that take turns, and the machine they ran on."""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[], object]


def alternate(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each of ``rounds`` rounds, after one to warm up.

    They take turns, so that a machine whose speed drifts slows all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def spread(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """The median, and the least and the most."""
    median, least, most = (
        f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return f"{median}{unit} ({least} to {most})"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """Slow over fast in each round, as :func:`spread`."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def flops(call: Call) -> int:
    """Floating-point operations of the matrix products and attention that a call executes."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def product_peak(dtype: torch.dtype, rounds: int, side: int = 2048) -> float:
    """FLOP/s of a product of two square matrices, the median of the rounds."""
    left, right = torch.randn(side, side, dtype=dtype), torch.randn(side, side, dtype=dtype)
    times = alternate({"product": lambda: torch.mm(left, right)}, rounds)["product"]
    return float(2 * side**3 / statistics.median(times))


def machine() -> str:
    """The processor, threads and versions, in a line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    kinds = {"AVX-512 BF16": torch.cpu._is_avx512_bf16_supported(),
             "AMX": torch.cpu._is_amx_tile_supported()}  # fmt: skip
    has = [kind for kind, there in kinds.items() if there]
    return (
        f"{name} ({', '.join(has) or 'no 16-bit products'}), {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def memory_peak() -> str:
    """The most memory that this process has held."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
