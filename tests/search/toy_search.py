"""A search without a model.

``python -m ... FOLDER [hang]`` takes part in it. With ``hang``, it reports one epoch of its next
trial, says so and waits to be killed.
"""

import contextlib
import math
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from albef.config import Range, validate
from albef.search import study
from albef.search.samplers import SearchConfig
from albef.search.study import Report, Study, TrialRequest

LR = {"lr": Range(low=1e-5, high=1e-3, log=True, start=1e-4)}
TWO = LR | {"alpha": Range(low=0.0, high=1.0, log=False, start=0.4)}
TPE = {"kind": "tpe", "startup_trials": 2, "candidates": 24, "multivariate": False}
MEDIAN = {"kind": "median", "startup_trials": 2, "warmup_epochs": 0}
NONE = {"kind": "none"}
EPOCHS = 4


def settings(**changed: Any) -> SearchConfig:
    values = {"trials": 6, "epochs": EPOCHS, "sampler": TPE, "pruner": MEDIAN, **changed}
    return validate(SearchConfig, values, where="tests", key="search")


def opened(
    folder: Path,
    chosen: SearchConfig | None = None,
    space: Mapping[str, Range] = LR,
    *,
    seed: int = 1,
) -> Study:
    folder.mkdir(exist_ok=True)
    return Study(folder / "study.db", "search@toy", chosen or settings(), space, seed)


def worth(values: Mapping[str, float], epoch: int) -> float:
    """A bump at lr 3e-4 and alpha 0.4."""
    return epoch - abs(math.log(values["lr"] / 3e-4)) - abs(values.get("alpha", 0.4) - 0.4)


def train(asked: TrialRequest, report: Report) -> None:
    for epoch in range(1, EPOCHS + 1):
        if report(epoch, worth(asked.values, epoch)):
            raise optuna.TrialPruned


def hang(asked: TrialRequest, report: Report) -> None:
    report(1, worth(asked.values, 1))
    print(asked.position, asked.values["lr"], flush=True)
    threading.Event().wait()


def search(
    study: Study, trials: int = 99, train: Callable[[TrialRequest, Report], None] = train
) -> list[FrozenTrial]:
    """Run trials, close the study and return those that ended. An error also closes it."""
    with contextlib.closing(study):
        for _ in range(trials):
            if not study.run_trial(train):
                break
        return study.ended


EIGHT = settings(trials=8, pruner=NONE)


def hasten() -> None:
    study.HEARTBEAT_S, study.GRACE_S, study.POLL_S = 1, 3, 0.2


if __name__ == "__main__":
    hasten()
    search(opened(Path(sys.argv[1]), EIGHT), train=hang if "hang" in sys.argv else train)
