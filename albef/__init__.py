"""ALBEF, a vision-language model: its parts, and two ways to use a trained one.

>>> import albef
>>> model = albef.load("products/models/retrieval")  # a checkpoint, in torch
>>> model = albef.runtime.load("products/exports/retrieval")  # an export, in ONNX Runtime

Both have the same calls: ``embed_image``, ``embed_text``, ``match``, ``match_logits``. Submodules
are imported on first use.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from albef import runtime as runtime
    from albef.export.torch_model import load as load

__all__ = ["load", "runtime"]

# ONNX Runtime sends usage data unless this is set before its import. It does so from a thread that
# a process may wait for at its end, and it stores an id of the machine.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    if name == "load":
        try:
            return importlib.import_module("albef.export.torch_model").load
        except ModuleNotFoundError as error:
            raise ImportError(
                f"albef.load needs {error.name}: install the extra train (in a clone, `pip install "
                "'.[train]'`); albef.runtime.load puts an export to use without"
            ) from None
    if name == "runtime":
        return importlib.import_module("albef.runtime")
    raise AttributeError(f"module 'albef' has no attribute {name!r}")
