"""A worker of a search without a model, as a process of its own: ``python -m ... FOLDER [MODE]``.

``hang`` reports one epoch of its first trial, says so and waits to be killed.
"""

import math
import sys
import time
from pathlib import Path

from optuna.trial import TrialState

from albef.config import Range, validate
from albef.search import shared_study, study, study_storage
from albef.search.samplers import SearchConfig
from albef.search.study import Study

SPACE = {"lr": Range(low=1e-5, high=1e-3, log=True, start=1e-4)}
EPOCHS = 2


def opened(folder: Path, *, run: str = "toy", trials: int = 8, shared: bool = True) -> Study:
    values = {
        "trials": trials,
        "epochs": EPOCHS,
        "sampler": {"kind": "tpe", "startup_trials": 2, "candidates": 8, "multivariate": True},
        "pruner": {"kind": "none"},
    }
    return shared_study.open_study(
        folder / "journal",
        f"search@{run}",
        {"run": run, "space": "lr"},
        validate(SearchConfig, values, where="tests"),
        SPACE,
        seed=1,
        shared=shared,
    )


def hasten() -> None:
    """Signs of life every second; a look at the others at once."""
    study_storage.HEARTBEAT_S = shared_study.HEARTBEAT_S = 1
    study_storage.GRACE_S = 3
    study.POLL_S = 0.05


def work(found: Study, *, hang: bool = False, pause: float = 0.0) -> None:
    """Run trials until all have ended."""
    while asked := found.ask():
        for epoch in range(1, EPOCHS + 1):
            time.sleep(pause)
            found.report(epoch, epoch - abs(math.log(asked.values["lr"] / 3e-4)))
            if hang:
                print(asked.number, asked.values["lr"], flush=True)
                time.sleep(600)
        found.tell(TrialState.COMPLETE)


if __name__ == "__main__":
    hasten()
    work(opened(Path(sys.argv[1])), hang="hang" in sys.argv, pause=0.05)
