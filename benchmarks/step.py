"""The pre-training step of params.yaml in float32 and in bfloat16, side by side in one run.

``python -m benchmarks.step`` prints the matrix-product peak of each type on this machine and the
median time of a step; the two types take turns, so that a machine whose speed drifts slows both.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from albef.config import read_yaml, validate
from albef.data.text import SPECIAL, TextTokenizer
from albef.tasks.pretraining import Config, Task
from albef.tasks.task import Batch
from albef.training.loop import autocast_dtype
from albef.training.optim import adamw

TYPES = (torch.float32, torch.bfloat16)
WORDS = 12
"""Tokens of a caption, about the mean of the built-in data."""
MASKED = 2
"""Masked tokens of a caption."""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.step")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds, after one warm-up")
    options = parser.parse_args()
    values = read_yaml(options.params)
    torch.set_num_threads(values["runtime"]["threads"] or torch.get_num_threads())
    torch.manual_seed(0)
    config = validate(Config, values["pretrain"], where=str(options.params), key="pretrain")
    vocabulary = {f"w{i}": i for i in range(len(SPECIAL), config.tokenizer.vocab_size)}
    vocabulary |= {token: i for i, token in enumerate(SPECIAL)}
    task = Task(config, TextTokenizer(Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))))
    steps = {dtype: _step(task, _batch(config), dtype) for dtype in TYPES}
    times = _alternate(steps, options.rounds)
    products = {dtype: _product(dtype) for dtype in TYPES}
    peaks = _alternate(products, options.rounds)

    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; medians of {options.rounds}"
    )
    print(
        f"step of {config.micro_batch_size} pairs at {config.model.image.image_size} px; "
        f"precision auto is {autocast_dtype('auto', torch.device('cpu')) or torch.float32}"
    )
    for dtype in TYPES:
        median = statistics.median(times[dtype])
        peak = 2 * 2048**3 / statistics.median(peaks[dtype]) / 1e9
        print(
            f"{dtype!s:16}{1000 * median:8.0f} ms/step"
            f"{config.micro_batch_size / median:9.1f} pairs/s{peak:8.0f} GFLOP/s product peak"
        )
    ratios = [a / b for a, b in zip(times[torch.float32], times[torch.bfloat16], strict=True)]
    print(
        f"float32 over bfloat16, round by round: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def _alternate(
    calls: dict[torch.dtype, Callable[[], None]], rounds: int
) -> dict[torch.dtype, list[float]]:
    times: dict[torch.dtype, list[float]] = {dtype: [] for dtype in calls}
    for turn in range(rounds + 1):
        for dtype, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[dtype].append(time.perf_counter() - start)
    return times


def _step(task: Task, batch: Batch, dtype: torch.dtype) -> Callable[[], None]:
    optimizer = adamw(task, 1e-4, 0.02)
    task.train()

    def step() -> None:
        task.begin_step()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output = task(batch, 1.0)
        output["loss"].backward()
        task.end_step([{name: value.detach() for name, value in output.items()}])
        optimizer.step()
        optimizer.zero_grad()

    return step


def _batch(config: Config) -> Batch:
    size, side = config.micro_batch_size, config.model.image.image_size
    ids = torch.randint(len(SPECIAL), config.tokenizer.vocab_size, (size, WORDS))
    positions = torch.randint(1, WORDS, (size, MASKED))
    return {
        "image": torch.randn(size, 3, side, side),
        "ids": ids,
        "text_mask": torch.ones_like(ids),
        "masked_ids": ids,
        "mlm_positions": positions,
        "mlm_labels": ids.gather(1, positions),
    }


def _product(dtype: torch.dtype) -> Callable[[], None]:
    left, right = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)

    def product() -> None:
        torch.mm(left, right)

    return product


if __name__ == "__main__":
    main()
