"""Speed and utilization of a training; for its log, never for an artifact."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

PRODUCTS = 5
"""Number of matrix products whose best time gives the peak, after one to warm up."""


class Speed:
    """Time since construction, and operations of a micro-batch relative to the device's peak."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self.peak = product_peak(device, dtype)
        self.flops = 0  # of matrix products and attention in the first micro-batch
        self._waited = 0.0
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the context as spent waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count the operations inside the context, only at the first call."""
        if self.flops:
            yield
            return
        # Compiled code cannot be counted, and blocks called here first would stay uncompiled.
        counter = FlopCounterMode(display=False)
        with torch.compiler.set_stance("force_eager"), counter:
            yield
        self.flops = counter.get_total_flops()

    def rates(self, samples: int) -> dict[str, float]:
        """Return samples per second since the start, and the share of time spent waiting."""
        seconds = max(self.seconds, 1e-9)
        return {
            "samples_per_second": round(samples / seconds, 1),
            "waiting_percent": round(100 * self._waited / seconds, 1),
        }

    def usage(self, micro_batches: int) -> dict[str, float]:
        """Return the device's throughput over the micro-batches since the start, and its memory."""
        rate = self.flops * micro_batches / max(self.seconds, 1e-9)
        return {
            "tflops": float(f"{rate / 1e12:.3g}"),
            "utilisation_percent": round(100 * rate / self.peak, 1),
            "memory_mib": memory_mib(self._device),
        }


@cache
def product_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best floating-point rate per second of a product of two square matrices."""
    side = 8192 if device.type == "cuda" else 1024
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    seconds = []
    for _ in range(1 + PRODUCTS):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds[1:])


def memory_mib(device: torch.device) -> int:
    """Return the peak memory in MiB: of the GPU's allocator, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)  # bytes on macOS, KiB elsewhere
