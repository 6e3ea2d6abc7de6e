"""A search without a model; as a process, a worker of it: ``python -m ... FOLDER [hang]``.

``hang`` reports one epoch of its first trial, says so and waits to be killed.
"""

import math
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from albef.config import Range, validate
from albef.search import study, study_storage
from albef.search.samplers import SearchConfig
from albef.search.study import Study

LR = {"lr": Range(low=1e-5, high=1e-3, log=True, start=1e-4)}
TWO = LR | {"alpha": Range(low=0.0, high=1.0, log=False, start=0.4)}
TPE = {"kind": "tpe", "startup_trials": 2, "candidates": 24, "multivariate": False}
GP = {"kind": "gp", "startup_trials": 2}
MEDIAN = {"kind": "median", "startup_trials": 2, "warmup_epochs": 0}
HYPERBAND = {"kind": "hyperband", "min_epochs": 1, "reduction_factor": 2}
NONE = {"kind": "none"}


def settings(**changed: Any) -> SearchConfig:
    values = {"trials": 6, "epochs": 4, "sampler": TPE, "pruner": MEDIAN, **changed}
    return validate(SearchConfig, values, where="tests", key="search")


def opened(
    folder: Path,
    chosen: SearchConfig | None = None,
    space: Mapping[str, Range] = LR,
    *,
    seed: int = 1,
    run: str = "toy",
    shared: bool = False,
) -> Study:
    folder.mkdir(exist_ok=True)
    chosen = chosen or settings()
    return Study(folder / "journal", f"search@{run}", chosen, space, seed=seed, shared=shared)


def worth(values: Mapping[str, float], epoch: int) -> float:
    """A bump at lr 3e-4 and alpha 0.4."""
    return epoch - abs(math.log(values["lr"] / 3e-4)) - abs(values.get("alpha", 0.4) - 0.4)


def search(study: Study, *, trials: int = 99, hang: bool = False) -> list[FrozenTrial]:
    """Maximise the bump through the same calls as the stage; the trials that ended."""
    for _ in range(trials):
        if not (asked := study.ask()):
            break
        reports = range(1, study._settings.epochs + 1)
        for epoch in reports:
            if study.report(epoch, worth(asked.params, epoch)):
                break
            if hang:
                print(asked.number, asked.params["lr"], flush=True)
                threading.Event().wait()
        else:
            study.complete_trial()
    ended = study.ended
    study.close()
    return ended


SHARED = settings(trials=8, epochs=2, pruner=NONE)
"""Of a study that several work on."""


def hasten() -> None:
    """Signs of life every second; a look at the others at once."""
    study_storage.HEARTBEAT_S, study_storage.GRACE_S = 1, 3
    study.POLL_S = 0.2


if __name__ == "__main__":
    hasten()
    search(opened(Path(sys.argv[1]), SHARED, shared=True), hang="hang" in sys.argv)
