"""Weights & Biases, online or offline (``WANDB_MODE``)."""

import os
from collections.abc import Mapping

import wandb

from albef.trackers import PROJECT, Run

_WAIT_S = 30.0
_STEP = "step"


class Tracker:
    """Run of W&B. Points have their own step, because W&B's may not decrease after a resume."""

    def __init__(self, run: Run, id: str | None) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=id,
            resume="allow",
            dir=run.folder,
            config={**run.values, **{f"links.{name}": link for name, link in run.links.items()}},
            settings=wandb.Settings(console="off", silent=True, init_timeout=_WAIT_S),
        )
        self.id = str(self._run.id)
        self._run.define_metric("*", step_metric=_STEP)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._run.log({**values, _STEP: step})

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Add the final metrics to the summary."""
        self._run.summary.update(dict(metrics))
        self._run.finish()
