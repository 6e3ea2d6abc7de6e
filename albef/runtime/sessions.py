"""ONNX Runtime sessions of an export, on the best provider that works. No torch."""

import ctypes
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
    "install albef-pipeline with the extra cpu, or gpu for NVIDIA (in a clone: "
    "`pip install '.[serving,cpu]'`)"
)
try:
    import onnxruntime as ort
    from onnxruntime import InferenceSession
# The import also fails if both packages were installed and one was removed: files are missing.
except ImportError as error:
    raise ImportError(f"ONNX Runtime is not installed ({error}); {_INSTALL}") from None

log = logging.getLogger("albef")
_installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if any(distributions(name=name))]
if len(_installed) > 1:
    log.warning(
        "%s are both installed and overwrite each other's files; run `pip uninstall %s`, then %s",
        *(" and ".join(_installed), " ".join(_installed), _INSTALL),
    )
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ERRORS_ONLY = 3  # Severity level of ONNX Runtime's own log.


class OnDevice:
    """Keys or values that stay on the device where a graph computed them.

    It has the part of numpy's interface that graphs need. Indexing copies them to the host.
    """

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
        """Return the same values with another shape."""
        return OnDevice(self.value, shape)


class Sessions:
    """Sessions of ONNX Runtime that compute the graphs of an export.

    ``providers`` are in order of preference; None uses a GPU if one works. The attribute lists
    those that the sessions use. ``threads`` are those of one session; 0 uses all cores.

    On ``device``, keys and values stay between graphs, see :class:`OnDevice`. If it is None, all
    values pass through the host. ``options`` are the precision and the threads.

    Raises:
        ExportError: a named provider does not work on this machine, or a graph cannot be read.
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
        # Most of the loading of a large graph is serial, so graphs load in parallel.
        with ThreadPoolExecutor(len(graphs)) as pool:
            paths = [folder / graph_file(precision, graph) for graph in graphs]
            sessions = list(pool.map(lambda path: _session(path, chosen, threads), paths))
        self._sessions: dict[str, Any] = dict(zip(graphs, sessions, strict=True))
        self.providers: list[str] = sessions[0].get_providers()
        for session in sessions:
            _check_provider(session.get_providers()[0], chosen[0], explicit=providers is not None)
        self.device = "cuda" if self.providers[0] == CUDA else None
        self.options = f"{precision} {threads}"

    def inputs(self, graph: str) -> list[str]:
        """Return the names of a graph's inputs."""
        return [each.name for each in self._sessions[graph].get_inputs()]

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute a graph; see :meth:`albef.runtime.model.Backend.run`."""
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
    """Return the providers to request. ONNX Runtime lists CUDA even if the machine has no GPU."""
    available = ort.get_available_providers()
    if providers is None:
        return [CUDA, CPU] if CUDA in available and _has_cuda() else [CPU]
    unknown = [name for name in providers if name not in available]
    if unknown or not providers:
        raise ExportError(
            f"providers {list(providers)} are not in this ONNX Runtime, which has "
            f"{', '.join(available)}"
        )
    if CUDA in providers and not _has_cuda():
        raise ExportError(f"{CUDA} needs an NVIDIA driver with a device; this machine has none")
    return list(providers)


def _has_cuda() -> bool:
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
        # CUDA's libraries are in pip's folders, where the system loader does not search.
        ort.preload_dlls()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    # Threads that spin while they wait take cores from torch, decoding and other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return InferenceSession(str(path), options, providers=providers)
    # ONNX Runtime's exception classes have no common base except Exception.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot load {path}: {reason}") from None


def _check_provider(running: str, requested: str, *, explicit: bool) -> None:
    """Refuse a session on another provider if ``explicit``, else warn about it."""
    if running != requested:
        message = f"{requested} does not work on this machine; sessions run on {running}"
        if explicit:
            raise ExportError(message)
        log.warning(message)
