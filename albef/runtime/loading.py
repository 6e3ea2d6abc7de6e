"""Load the folder of an export as a model of its kind. No torch."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from albef.config import TYPO, did_you_mean
from albef.runtime import manifest as manifests
from albef.runtime.answering import Answering
from albef.runtime.classifying import Classifying, Comparing, Entailing
from albef.runtime.cleaning import read_tokenizer
from albef.runtime.manifest import ANSWERS, TOKENIZER, ExportError
from albef.runtime.matching import Grounding, Matching
from albef.runtime.model import Model
from albef.runtime.sessions import Sessions

CAPABILITIES: dict[str, type[Model]] = {
    "matching": Matching,
    "grounding": Grounding,
    "answering": Answering,
    "classifying": Classifying,
    "entailing": Entailing,
    "comparing": Comparing,
}
"""Model classes by their name in the manifest."""


def load(
    folder: str | os.PathLike[str],
    providers: Sequence[str] | None = None,
    *,
    threads: int = 0,
    precision: str | None = None,
    min_probability: float = 0.0,
) -> Model:
    """Load an export after checking that every needed file is unchanged.

    >>> model = albef.runtime.load("products/exports/retrieval")
    >>> model.match(["dog.png", "cat.png"], ["a dog", "a dog"])

    Args:
        folder: export folder with ``manifest.json``.
        providers: providers of ONNX Runtime in order of preference; None uses a GPU if one works.
        threads: threads of one session; 0 uses all cores.
        precision: a precision of the manifest; None uses the first.
        min_probability: minimum probability of an answer or class; if none reaches it, the model
            gives no answer.

    Raises:
        ExportError: the folder is not an export, a file was changed, or a named provider does not
            work on this machine.
    """
    folder = Path(folder)
    manifest = manifests.read(folder)
    facts = manifest.model
    chosen = precision or manifest.precisions[0]
    if chosen not in manifest.precisions:
        hint = did_you_mean(chosen, manifest.precisions, cutoff=TYPO)
        raise ExportError(f"{folder} has no precision {chosen}{hint}")
    if facts.capability not in CAPABILITIES:
        raise ExportError(
            f"{folder} has capability {facts.capability!r}, but this version of albef has "
            f"{', '.join(CAPABILITIES)}; install the version that exported it"
        )
    manifests.check(folder, manifest, chosen)
    backend = Sessions(folder, chosen, manifest.graphs, providers, threads)
    tokenizer = read_tokenizer(folder / TOKENIZER, manifest.preprocessing.text)
    answers = json.loads((folder / ANSWERS).read_text()) if facts.answering else ()
    capability = CAPABILITIES[facts.capability]
    model = capability(backend, tokenizer, facts, manifests.digest(folder), answers)
    model.min_probability = min_probability
    return model
