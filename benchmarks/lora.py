"""LoRA against training all weights, at the paper's size: memory, time, training checkpoints.

``python -m benchmarks.lora`` prints a table in Markdown. Memory of a GPU is that of ``albef plan``;
steps are computed on this CPU, each way in a process of its own. It needs 8 GiB.
"""

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch.utils._pytree import tree_leaves

from albef.tasks.task import LoraConfig
from benchmarks.timing import machine, memory_peak
from pipelines.params import load
from pipelines.plan import RESERVED_GIB, Training, Trainings

PRESET, RUN = Path("presets/paper-4m.yaml"), "coco"
WAYS = {"all weights": None, "adapters of rank 8": LoraConfig()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.lora")
    parser.add_argument("--pairs", type=int, default=4, help="in a step on this machine")
    parser.add_argument("--rounds", type=int, default=2, help="counted steps, after one to warm up")
    options = parser.parse_args()
    trainings = _trainings(None)
    run, size = trainings.configs[RUN], trainings.configs[RUN].micro_batch_size
    print(f"{machine()}; medians of {options.rounds}\n")
    print(f"A step of {RUN} ({PRESET}): {run.image_size} px, bfloat16\n")  # type: ignore[attr-defined]
    print(
        f"| what learns | million weights | training checkpoint, MiB | GPU at {size} pairs, GiB "
        f"| step of {options.pairs} pairs, CPU s | its process, GiB |\n|---|---|---|---|---|---|"
    )
    for name, lora in WAYS.items():
        peak = _trainings(lora).need(RUN, size).peak / 2**30 + RESERVED_GIB
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            learn, saved, seconds, memory = pool.submit(
                _measured, lora, options.pairs, options.rounds
            ).result()
        print(
            f"| {name} | {learn:.1f} | {saved:.0f} | {peak:.1f} | {seconds:.1f} | {memory} |",
            flush=True,
        )


def _trainings(lora: LoraConfig | None) -> Trainings:
    """Return the trainings of the preset with or without LoRA in the run."""
    params = load(PRESET, related=False)
    run = params.tasks[RUN].model_copy(update={"lora": lora})
    return Trainings(params.model_copy(update={"tasks": params.tasks | {RUN: run}}), 1)


def _measured(lora: LoraConfig | None, pairs: int, rounds: int) -> tuple[float, float, float, str]:
    """Return millions of weights that learn, MiB saved, CPU seconds of a step, peak memory."""
    trainings, seconds = _trainings(lora), []
    training = Training(
        trainings.task(RUN), trainings.params.runtime, trainings.records("retrieval"), None
    )
    for _ in range(1 + rounds):
        start = time.process_time()
        training.step(pairs)
        seconds.append(time.process_time() - start)
    learn = sum(p.numel() for p in training.task.parameters() if p.requires_grad) / 1e6
    state = training.task.state_dict(), training.trainer.optimizer.state_dict()
    saved = sum(t.nbytes for t in tree_leaves(state) if isinstance(t, torch.Tensor)) / 2**20
    return learn, saved, statistics.median(seconds[1:]), memory_peak().removesuffix(" GiB")


if __name__ == "__main__":
    main()
