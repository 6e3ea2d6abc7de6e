"""How long a training waits for its state, at the paper's size: written before it goes on, and
copied to be written beside it.

``python -m benchmarks.state`` prints a table in Markdown; it needs 8 GiB of memory and 7 GiB of
disk in the temporary folder.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from albef.config import validate
from albef.tasks.pretraining import Config, Task
from albef.training.optim import adamw
from albef.training.state import TrainingState
from benchmarks.step import PAPER
from benchmarks.timing import machine, memory_peak, spread
from tests.original import vocabulary


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.state")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    values = {"dataset": "web", "epochs": 1, "global_batch_size": 1, "lr": 1e-4, "warmup_steps": 0}
    config = validate(Config, values | PAPER, where="benchmark")
    task = Task(config, vocabulary(config.tokenizer.vocab_size))
    optimizer = adamw(task, 1e-4, 0.02)
    for parameter in task.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    optimizer.zero_grad()
    copied, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        state = TrainingState(Path(folder))
        for step in range(options.rounds):
            began = time.perf_counter()
            state.save(step, task, optimizer, {})
            copied.append(time.perf_counter() - began)
            state.wait()
            whole.append(time.perf_counter() - began)
        size = state.files()[0].stat().st_size
    print(f"{machine()}; medians of {options.rounds}\n")
    print(f"A state of {size / 2**30:.2f} GiB; memory {memory_peak()}\n")
    print("| training waits | s (least to most) |\n|---|---|")
    for way, times in (("until it is written", whole), ("until it is copied", copied)):
        print(f"| {way} | {spread(times)} |")


if __name__ == "__main__":
    main()
