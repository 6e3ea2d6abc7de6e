"""Test request of each call, which an export must answer before it is served."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from albef.runtime.manifest import ExportError
from albef.runtime.model import Model


def check_answers(model: Model, name: str) -> None:
    """Check that a model answers each of its calls, in finite numbers.

    Args:
        model: loaded export.
        name: name of the export, for the error message.

    Raises:
        ExportError: a call fails, or its answer is NaN or Inf.
    """
    for call in sorted(model.calls):
        try:
            answer = getattr(model, call)(*_arguments(model, call))
        except Exception as error:  # ONNX Runtime's exceptions have no common base.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ExportError(f"{name} cannot answer a test request of {call}: {reason}") from None
        if not _is_finite(answer):
            raise ExportError(f"{name} answers a test request of {call} with NaN or Inf")


def _arguments(model: Model, call: str) -> list[Sequence[Any]]:
    """Return arguments of a call. The text is as long as the manifest allows."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    images, texts = [buffer.getvalue()], [" ".join(["a"] * model.facts.max_words)]
    if call == "classify":  # The kind decides how many images a classifier reads.
        backend: Any = model.backend
        count = sum(name.endswith("_keys") for name in backend.inputs("classifier"))
        return [*[images] * count, texts]
    special: dict[str, list[Sequence[Any]]] = {
        "embed_image": [images],
        "embed_text": [texts],
        "zero_shot": [images, ["a", "b"]],
        "compare": [images, images, texts],
    }
    return special.get(call, [images, texts])


def _is_finite(answer: Any) -> bool:
    """Return whether all numbers in an answer of the runtime are finite."""
    if answer is None or isinstance(answer, str):
        return True
    if isinstance(answer, int | float | np.ndarray | np.number):
        return bool(np.isfinite(answer).all())
    if dataclasses.is_dataclass(answer):
        answer = vars(answer)
    return all(map(_is_finite, answer.values() if isinstance(answer, dict) else answer))
