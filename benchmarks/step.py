"""The pre-training step against the plain or the compiled one, in float32 and bfloat16, in turns.

``python -m benchmarks.step`` prints a table in Markdown: at the built-in size, and with
``--size paper`` at ViT-B/16, BERT-base and 256 pixels.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from albef.config import read_preset, validate
from albef.loading.reading import Batch
from albef.models.kernels import compile_blocks
from albef.preprocessing.text import SPECIAL
from albef.tasks.pretraining import Config, Task
from albef.training.optim import OPTIMIZERS
from benchmarks import reference as plain
from benchmarks.timing import alternate, flops, machine, memory_peak, product_peak, ratio
from tests.original import vocabulary

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MASKED_SHARE = 0.15
PRESET = read_preset(Path("presets/paper-4m.yaml"))["pretrain"]
PAPER = validate(Config, PRESET, where="presets/paper-4m.yaml").model_dump(
    include={"model", "tokenizer", "queue_size", "queue_from"}
)
SIZES: dict[str, tuple[dict[str, Any], int, int]] = {
    "built-in": ({}, 32, 12),
    "paper": (PAPER, 8, 16),
}
"""What differs from params.yaml, the pairs of a step, and the tokens of a caption."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.step")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--size", choices=SIZES, default="built-in")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds, after one warm-up")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw", help="of the fast step")
    parser.add_argument("--against", choices=("plain", "compiled"), default="plain")
    parser.add_argument("--type", choices=TYPES, action="append", help="both unless named")
    options = parser.parse_args()
    values = read_preset(options.params)
    torch.set_num_threads(values["runtime"]["threads"] or torch.get_num_threads())
    changed, size, length = SIZES[options.size]
    own = {"wpa": 0.0, "exchanged": []}  # the plain step has neither
    pretrain = values["pretrain"] | changed | own
    config = validate(Config, pretrain, where="benchmark", key="pretrain")
    batch, types, other = _batch(config, size, length), options.type or [*TYPES], options.against

    steps: dict[str, _Step] = {}
    fast = partial(_fast, optimizer=OPTIMIZERS[options.optimizer])
    for way, make in (("fast", fast), (other, _plain if other == "plain" else fast)):
        for name in types:
            torch.manual_seed(0)
            task = _task(config)
            if way == "compiled":
                compile_blocks(task)
            steps[f"{way} {name}"] = make(task, batch, TYPES[name])
    with torch.compiler.set_stance("force_eager"):  # compiled code cannot be counted
        counted = {name: flops(step) for name, step in steps.items()}
    start = time.perf_counter()
    times = alternate(steps, options.rounds)
    spent = time.perf_counter() - start - sum(map(sum, times.values()))
    peaks = {name: product_peak(TYPES[name], options.rounds) for name in types}

    print(f"{machine()}; medians of {options.rounds}, after a round of {spent:.0f} s\n")
    image = config.model.image
    print(
        f"A step of {size} pairs at {image.image_size} px, width {config.model.fused.width}, "
        f"{length} tokens, queue {config.queue_size}\n"
    )
    print("| step | s | pairs/s | GFLOP | GFLOP/s | of the product's peak |")
    print("|---|---|---|---|---|---|")
    for name, rounds in times.items():
        seconds = statistics.median(rounds)
        rate = counted[name] / seconds
        peak = peaks[name.split()[1]]
        print(
            f"| {name} | {seconds:.3f} | {size / seconds:.1f} | {counted[name] / 1e9:.1f} "
            f"| {rate / 1e9:.0f} | {100 * rate / peak:.0f} % of {peak / 1e9:.0f} |"
        )
    print("\n| ratio of times, median over rounds (least to most) | |\n|---|---|")
    pairs = [(f"{other} {name}", f"fast {name}") for name in types]
    if len(types) > 1:
        pairs += [(f"{way} float32", "fast bfloat16") for way in (other, "fast")]
    for slow, quick in pairs:
        print(f"| {slow} / {quick} | {ratio(times[slow], times[quick])} |")
    ratios = " | ".join(f"{other} / fast, {name}" for name in types)
    print(f"\n| phase, ms | {' | '.join(steps)} | {ratios} |")
    print("|---" * (len(steps) + len(types) + 1) + "|")
    for phase in steps[f"fast {types[0]}"].seconds:
        ms = {
            way: 1000 * statistics.median(step.seconds[phase][-options.rounds :])
            for way, step in steps.items()
        }
        cells = [*(f"{value:.1f}" for value in ms.values())]
        cells += [f"{ms[f'{other} {name}'] / ms[f'fast {name}']:.2f}" for name in types]
        print(f"| {phase} | {' | '.join(cells)} |")
    share = counted[f"fast {types[0]}"] / counted[f"{other} {types[0]}"]
    print(f"\nFLOPs of the fast step over the {other} one: {share:.3f}; memory {memory_peak()}")


def _task(config: Config) -> Task:
    return Task(config, vocabulary(config.tokenizer.vocab_size)).train()


class _Step:
    """A training step in phases, each of which it times."""

    def __init__(self, **phases: Callable[[], object]) -> None:
        self._phases = phases
        self.seconds: dict[str, list[float]] = {name: [] for name in phases}

    def __call__(self) -> None:
        for name, phase in self._phases.items():
            start = time.perf_counter()
            phase()
            self.seconds[name].append(time.perf_counter() - start)


def _fast(
    task: Task, batch: Batch, dtype: torch.dtype, optimizer: Callable[..., torch.optim.Optimizer]
) -> _Step:
    moves = optimizer(task, 1e-4, 0.02)
    output: dict[str, torch.Tensor] = {}

    def forward() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output.update(task(batch, 1.0))

    def enqueue() -> None:
        task.end_step([{name: value.detach() for name, value in output.items()}])

    return _Step(
        momentum_model=task.begin_step,
        forward=forward,
        backward=lambda: output["loss"].backward(),
        queue=enqueue,
        optimizer=lambda: (moves.step(), moves.zero_grad()),
    )


def _plain(task: Task, batch: Batch, dtype: torch.dtype) -> _Step:
    optimizer = plain.optimizer(task, 1e-4, 0.02)
    output: dict[str, torch.Tensor] = {}

    def forward() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output.update(plain.losses(task, batch, 1.0))

    return _Step(
        momentum_model=lambda: plain.begin_step(task),
        forward=forward,
        backward=lambda: output["loss"].backward(),
        queue=lambda: plain.enqueue(task.queue, output["image_feat_m"], output["text_feat_m"]),
        optimizer=lambda: (optimizer.step(), optimizer.zero_grad()),
    )


def _batch(config: Config, size: int, length: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    side, vocab = config.model.image.image_size, config.tokenizer.vocab_size
    masked = max(1, round(MASKED_SHARE * length))
    ids = torch.randint(len(SPECIAL), vocab, (size, length), generator=generator)
    positions = torch.stack(
        [torch.randperm(length - 1, generator=generator)[:masked] + 1 for _ in range(size)]
    )
    return {
        "image": torch.randn(size, 3, side, side, generator=generator),
        "ids": ids,
        "text_mask": torch.ones_like(ids),
        "masked_ids": ids,
        "mlm_positions": positions,
        "mlm_labels": ids.gather(1, positions),
        "text_ids": torch.arange(size)[:, None].repeat(1, 17),
    }


if __name__ == "__main__":
    main()
