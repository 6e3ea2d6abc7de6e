"""ONNX Runtime sessions of an export, on the best provider that really works here; no torch."""

import ctypes
import ctypes.util
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

from albef.runtime.manifest import ExportError, graph_file
from albef.runtime.model import Array

_INSTALL = (
    "install albef-pipeline with extra cpu, or with gpu for NVIDIA's (in a clone, "
    "`pip install '.[serving,cpu]'`)"
)
try:
    import onnxruntime as ort
    from onnxruntime import InferenceSession
except ImportError as error:  # also of what is left where one of two was taken out again
    raise ImportError(f"there is no ONNX Runtime here ({error}): {_INSTALL}") from None

log = logging.getLogger("albef")
_installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if any(distributions(name=name))]
if len(_installed) > 1:
    log.warning(
        "%s are both installed and overwrite each other's files: `pip uninstall %s`, then %s",
        *(" and ".join(_installed), " ".join(_installed), _INSTALL),
    )
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ERRORS_ONLY = 3  # of ONNX Runtime's own log


class OnDevice:
    """Keys or values that stay where a graph computed them, with as much of numpy as their way to
    the next graph needs; whoever indexes them has them copied to the host."""

    def __init__(self, value: Any, shape: Sequence[int]) -> None:
        self.value, self.shape = value, tuple(shape)
        self.nbytes: int = value.tensor_size_in_bytes()

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        rows: Array = np.array(self.value.numpy().reshape(self.shape), dtype)
        return rows

    def __getitem__(self, index: Any) -> Array:
        rows: Array = np.asarray(self)[index]
        return rows

    def reshape(self, shape: Sequence[int]) -> "OnDevice":
        """The same numbers under another shape."""
        return OnDevice(self.value, shape)


class Sessions:
    """The graphs of an export, computed by ONNX Runtime.

    ``providers`` are ONNX Runtime's, first choice first (None takes a GPU if one works), then what
    the sessions run on; ``threads`` those of one session, 0 all cores. On ``device``, ONNX
    Runtime's name for it, keys and values stay between graphs (:class:`OnDevice`); None hands
    everything over on the host.

    Raises:
        ExportError: a named provider does not work here, or a graph cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        precision: str,
        graphs: Sequence[str],
        providers: Sequence[str] | None = None,
        threads: int = 0,
    ) -> None:
        chosen = _choose(providers)
        with ThreadPoolExecutor(len(graphs)) as pool:  # most of a large graph's loading is serial
            paths = [folder / graph_file(precision, graph) for graph in graphs]
            sessions = list(pool.map(lambda path: _session(path, chosen, threads), paths))
        self._sessions: dict[str, Any] = dict(zip(graphs, sessions, strict=True))
        self.providers: list[str] = sessions[0].get_providers()
        for session in sessions:
            _check_provider(session.get_providers()[0], chosen[0], explicit=providers is not None)
        self.device = "cuda" if self.providers[0] == CUDA else None

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See :meth:`albef.runtime.model.Backend.run`."""
        session = self._sessions[graph]
        names = [output.name for output in session.get_outputs()]
        if self.device is None:
            return dict(zip(names, session.run(None, dict(inputs)), strict=True))
        binding, stays = session.io_binding(), [name.endswith(("keys", "values")) for name in names]
        for name, array in inputs.items():
            if isinstance(array, OnDevice):
                value = array.value
                buffer = value.device_name(), 0, value.element_type(), array.shape, value.data_ptr()
                binding.bind_input(name, *buffer)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name, stay in zip(names, stays, strict=True):
            binding.bind_output(name, self.device if stay else "cpu")
        session.run_with_iobinding(binding)
        out: dict[str, Any] = dict(zip(names, binding.get_outputs(), strict=True))
        for name, stay in zip(names, stays, strict=True):
            out[name] = OnDevice(out[name], out[name].shape()) if stay else out[name].numpy()
        return out


def _choose(providers: Sequence[str] | None) -> list[str]:
    """Providers to ask for; the package lists CUDA also where there is no GPU."""
    available = ort.get_available_providers()
    if providers is None:
        return [CUDA, CPU] if CUDA in available and _has_cuda() else [CPU]
    unknown = [name for name in providers if name not in available]
    if unknown or not providers:
        raise ExportError(
            f"this ONNX Runtime has no {', '.join(unknown) or 'provider of an empty list'}; "
            f"it has {', '.join(available)}"
        )
    if CUDA in providers and not _has_cuda():
        raise ExportError(f"{CUDA} was asked for, but there is no NVIDIA driver here")
    return list(providers)


def _has_cuda() -> bool:
    """Whether NVIDIA's driver is there and has a device."""
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        driver: Any = ctypes.CDLL(name)
    except OSError:
        return False
    count = ctypes.c_int(0)
    works = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return works and count.value > 0


def _session(path: Path, providers: list[str], threads: int) -> Any:
    if CUDA in providers:
        ort.preload_dlls()  # CUDA's libraries, from where pip put them
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    # Threads that spin while they wait take the cores from torch, decoding and other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own classes derive from Exception, one by one
        reason = " ".join(str(error).split())
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot load {path}: {reason}") from None


def _check_provider(running: str, requested: str, *, explicit: bool) -> None:
    """A session falls back to the CPU without an error: refuse it where ``explicit``."""
    if running == requested:
        return
    if explicit:
        raise ExportError(f"{requested} does not work here: the session runs on {running}")
    log.warning("%s does not work here; running on %s", requested, running)
