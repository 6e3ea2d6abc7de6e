"""Loading of an export: it must answer a test request of each call, on the faster processor."""

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from PIL import Image

from albef.io import read_json, write_json
from albef.runtime.manifest import ExportError
from albef.runtime.model import Model
from albef.runtime.sessions import CPU

Load = Callable[[Sequence[str] | None], Any]
"""Function that loads an export on providers of ONNX Runtime; None uses what works."""


def load_faster(
    load: Load, name: str, batch: int, clock: Callable[[], float] = time.perf_counter
) -> Any:
    """Return a model on a GPU if one works, or on the CPU if that answers sooner.

    Test requests with ``batch`` items are timed on both. The faster processor is kept in
    ``albef/providers.json`` of the user's cache folder, so an export is measured once for each
    precision and number of threads. ``name`` is that of the export in error messages.
    """
    model = load(None)
    provider = model.backend.providers[0]
    if provider == CPU:
        return model
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache, known = Path(folder) / "albef/providers.json", {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = dict(read_json(cache))
    options = f"{model.backend.options} {batch} {provider} {onnxruntime.__version__}"
    key = f"{model.digest} {options}"
    if key not in known:
        seconds = {}
        for each, on in ((provider, model), (CPU, load([CPU]))):
            check_answers(on, name, batch)  # The first request of a shape takes longer.
            start = clock()
            check_answers(on, name, batch)
            seconds[each] = clock() - start
        known[key] = min(seconds, key=seconds.__getitem__)
        with contextlib.suppress(OSError):  # The folder may be read-only.
            write_json(cache, known)
    return load([CPU]) if known[key] == CPU else model


def check_answers(model: Model, name: str, count: int = 1) -> None:
    """Check that a model answers a request of each call with ``count`` items, in finite numbers.

    Raises:
        ExportError: a call of the export ``name`` fails, or its answer is NaN or Inf.
    """
    for call in sorted(model.calls):
        try:
            answer = getattr(model, call)(*_arguments(model, call, count))
        except Exception as error:  # ONNX Runtime's exceptions have no common base.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ExportError(f"{name} cannot answer a test request of {call}: {reason}") from None
        try:
            json.dumps(answer, allow_nan=False, default=_plain)
        except ValueError:
            raise ExportError(f"{name} answers a test request of {call} with NaN or Inf") from None


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else vars(value)


def _arguments(model: Model, call: str, count: int) -> list[Sequence[Any]]:
    """Return arguments of a call. Texts are as long as the manifest allows."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    images, texts = [buffer.getvalue()] * count, [" ".join(["a"] * model.facts.max_words)] * count
    if call == "classify":  # The kind decides how many images a classifier reads.
        backend: Any = model.backend
        inputs = sum(name.endswith("_keys") for name in backend.inputs("classifier"))
        return [*[images] * inputs, texts]
    special: dict[str, list[Sequence[Any]]] = {
        "embed_image": [images],
        "embed_text": [texts],
        "zero_shot": [images, ["a", "b"]],
        "compare": [images, images, texts],
    }
    return special.get(call, [images, texts])
