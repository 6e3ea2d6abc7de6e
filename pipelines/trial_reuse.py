"""The finished training of a trial, which fine-tuning takes over as its own."""

import json
import logging
import shutil
from pathlib import Path

import torch

from albef.training.state import PATTERN
from pipelines.stage import Stage, first, write_json
from pipelines.trainer import circumstances

_TOLD = "trial.json"
log = logging.getLogger("albef")


def sign(stage: Stage, place: Path, number: int, device: torch.device) -> None:
    """Write down whose training is finished in ``place`` and how; of its states the last stays."""
    for old in sorted(place.glob(PATTERN), reverse=True)[1:]:
        old.unlink()
    write_json(place / _TOLD, {"trial": number, "how": circumstances(stage, device)})


def hand_on(place: Path, scratch: Path) -> None:
    """Leave a finished training where fine-tuning looks for what it has begun."""
    if (place / _TOLD).exists():
        shutil.rmtree(scratch, ignore_errors=True)
        place.rename(scratch)


def take_trial(stage: Stage, folder: Path, device: torch.device) -> None:
    """Whether ``folder`` is a trial's finished training is said and recorded; one whose last digits
    may differ from those of a training here is removed."""
    told = folder / _TOLD
    if not first() or not told.exists():
        return
    values = json.loads(told.read_text())
    if values["how"] == circumstances(stage, device):
        log.info("%s: trial %d of the search trained this", stage.address, values["trial"] + 1)
        stage.record["reused"] = f"trial {values['trial'] + 1} of search@{stage.key}"
    else:
        log.info("%s: the search trained this in another way; it is trained anew", stage.address)
        shutil.rmtree(folder)
        folder.mkdir()
