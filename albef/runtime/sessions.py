"""ONNX Runtime sessions of an export, on the best provider that really works here; no torch."""

import ctypes
import ctypes.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from albef.data.text import TextTokenizer
from albef.runtime import manifest as manifests
from albef.runtime.manifest import ExportError, Manifest
from albef.runtime.model import Floats, Ints, Model

log = logging.getLogger("albef")
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ERRORS_ONLY = 3  # of ONNX Runtime's own log


class OnnxModel(Model):
    """An export, computed by ONNX Runtime.

    Args:
        folder: with the graphs and ``tokenizer.json``; :func:`load` checks it first.
        image_size: see :class:`Model`.
        max_tokens: see :class:`Model`.
        max_words: see :class:`Model`.
        embed_dim: see :class:`Model`.
        providers: by ONNX Runtime's names, first choice first; None takes a GPU if one works.
        threads: of one session; 0 takes all cores.

    Attributes:
        providers: what the sessions run on.

    Raises:
        ExportError: a named provider does not work here, or a graph cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        image_size: int,
        max_tokens: int,
        max_words: int,
        embed_dim: int,
        providers: Sequence[str] | None = None,
        threads: int = 0,
    ) -> None:
        super().__init__(
            TextTokenizer.load(folder / manifests.TOKENIZER),
            image_size=image_size,
            max_tokens=max_tokens,
            max_words=max_words,
            embed_dim=embed_dim,
        )
        chosen = _choose(providers)
        sessions = []
        for graph in manifests.GRAPHS:
            session = _session(folder / manifests.graph_file(graph), chosen, threads)
            chosen = _checked(session.get_providers(), chosen, named=providers is not None)
            sessions.append(session)
        self._image, self._text, self._matcher = sessions
        self.providers: list[str] = self._matcher.get_providers()

    def encode_image(self, pixels: Floats) -> tuple[Floats, Floats]:
        """See :meth:`Model.encode_image`."""
        states, feat = self._image.run(None, {"image": pixels})
        return states, feat

    def encode_text(self, ids: Ints, text_mask: Ints) -> tuple[Floats, Floats]:
        """See :meth:`Model.encode_text`."""
        states, feat = self._text.run(None, {"ids": ids, "text_mask": text_mask})
        return states, feat

    def score(self, text_states: Floats, text_mask: Ints, image_states: Floats) -> Floats:
        """See :meth:`Model.score`."""
        inputs = {"text_states": text_states, "text_mask": text_mask, "image_states": image_states}
        logits: Floats = self._matcher.run(None, inputs)[0]
        return logits


class Exported(OnnxModel):
    """A finished export.

    Attributes:
        manifest: what it is.
        digest: SHA-256 of the whole.
    """

    def __init__(self, folder: Path, providers: Sequence[str] | None, threads: int) -> None:
        self.manifest: Manifest = manifests.read(folder)
        self.digest = manifests.digest(folder)
        super().__init__(
            folder,
            image_size=self.manifest.image_size,
            max_tokens=self.manifest.max_tokens,
            max_words=self.manifest.max_words,
            embed_dim=self.manifest.embed_dim,
            providers=providers,
            threads=threads,
        )


def load(
    folder: str | os.PathLike[str],
    providers: Sequence[str] | None = None,
    *,
    threads: int = 0,
) -> Exported:
    """Load an export once every file in it is known to be the one that was written.

    >>> model = albef.runtime.load("products/exports/retrieval")
    >>> model.match(["dog.png", "cat.png"], ["a dog", "a dog"])

    Args:
        folder: with ``manifest.json``.
        providers: ONNX Runtime's, first choice first; None takes a GPU if one really works here.
        threads: of one session; 0 takes all cores.

    Raises:
        ExportError: no export, a changed file, or a named provider that does not work here.
    """
    return Exported(Path(folder), providers, threads)


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
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own classes derive from Exception, one by one
        reason = " ".join(str(error).split())
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot load {path}: {reason}") from None


def _checked(running: list[str], asked: list[str], *, named: bool) -> list[str]:
    """The providers for the next session: a session falls back to the CPU without an error."""
    if running[0] == asked[0]:
        return asked
    if named:
        raise ExportError(f"{asked[0]} does not work here: the session runs on {running[0]}")
    log.warning("%s does not work here; running on %s", asked[0], running[0])
    return [CPU]
