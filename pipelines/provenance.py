"""What products say of their origin: functions of a stage's inputs alone."""

from pathlib import Path
from typing import Any

from albef.data.shards import describe
from albef.io import file_digest
from albef.lineage.code import code_digest
from albef.models.weights import Checkpoint
from pipelines.stage import Stage

_TOLD = ("splits", "captions", "sources", "licences")


def code_of(stage: Stage) -> dict[str, str]:
    """``code``, the digest of what the stage runs; empty where no dvc.yaml lists it."""
    found = code_digest(Path(), stage.address, stage.params)
    return {"code": found} if found else {}


def origin(stage: Stage, dataset: str, init: Checkpoint | None = None) -> dict[str, Any]:
    """What a checkpoint tells beside the digests of its data and parent.

    Whoever has nothing but the checkpoint, or its export, reads in it where it comes from.

    Args:
        stage: the running stage.
        dataset: that it learned from.
        init: the checkpoint that it started from, with the values that the search chose.
    """
    described = describe(stage.layout.data(dataset))
    told: dict[str, Any] = {
        **code_of(stage),
        "described": {key: described[key] for key in _TOLD if key in described},
    }
    if init is not None:
        told["choice"] = file_digest(stage.layout.search(stage.key) / "choice.json")
        told["parent_provenance"] = init.config.get("provenance", {})
    return told
