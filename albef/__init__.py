"""ALBEF, a vision-language model: its parts, and two ways to use a trained one.

>>> import albef
>>> model = albef.load("products/models/retrieval")  # a checkpoint, in torch
>>> model = albef.runtime.load("products/exports/retrieval")  # an export, in ONNX Runtime

Both have the same calls: ``embed_image``, ``embed_text``, ``match``, ``match_logits``. The public
names are those of ``albef.__all__``. They are listed in ``__init__.pyi``, and each is imported when
it is first used.
"""

import os
from typing import Any

import lazy_loader

# ONNX Runtime sends usage data unless this is set before its import. It does so from a thread that
# a process may wait for at its end, and it stores an id of the machine.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_import_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'albef' has no attribute {name!r}")
    try:
        return _import_name(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"albef.{name} needs {error.name}: install the extra train (in a clone, `pip install "
            "'.[train]'`); albef.runtime.load puts an export to use without"
        ) from None
