"""A tiny training that saves every step, here or as a process to be killed:
``python -m tests.chaos.victim DATA FOLDER MIRROR DELAY``; DELAY is of each copy, in seconds.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch

from albef.training.mirror import Mirror
from albef.training.state import TrainingState
from albef.training.tracking import Progress
from tests.training import toy_training

EPOCHS = 6


def train(
    data: Path,
    folder: Path,
    mirror: Path,
    progress: Progress = lambda step, total, means: None,
    delay: float = 0.0,
) -> dict[str, torch.Tensor]:
    """Train to the end, or until ``progress`` raises; the weights."""
    task = toy_training.task_of("retrieval")
    task.config = task.config.model_copy(update={"epochs": EPOCHS, "keep_epochs": (1, 2)})
    copies = Mirror(str(mirror), "states")
    put = copies._files.put_file

    def late(*args: str) -> None:
        time.sleep(delay)
        put(*args)

    save = TrainingState.save

    def each(state: TrainingState, *given: Any) -> None:
        """A slow disk leaves out none: the next one waits for the last, a step after it."""
        state._check(state._writes)
        save(state, *given)

    copies._files.put_file = late
    try:
        TrainingState.save = each  # type: ignore[method-assign]
        return toy_training.train_toy(task, data, folder, progress, every=1, mirror=copies)
    finally:
        TrainingState.save = save  # type: ignore[method-assign]
        copies.wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(*map(Path, sys.argv[1:4]), delay=float(sys.argv[4]))
