"""How soon fusion learns which of two things is on the left, where image tokens say what is where.

``python -m benchmarks.binding``: text and fusion encoder of the built-in sizes read "THING RELATION
THING" and a grid of tokens, each the embedding of what it shows plus its position. No image encoder
stands between, so what is slow here is slow because of fusion. Words are masked and guessed (MLM);
a row is a training, its numbers the share of guesses, over 100 steps, in which the right one of two
words ("left" or "right", the one thing or the other) is the likelier: 50 is chance.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from albef.config import read_preset, validate
from albef.losses.mlm import IGNORED
from albef.losses.wpa import wpa_loss
from albef.models.bert import attention_bias
from albef.models.fusion import FusionEncoder
from albef.models.text import MLMHead, TextEncoder
from albef.models.vision import sine_positions
from albef.tasks.pretraining import Config
from albef.training.optim import OPTIMIZERS

THINGS, BATCH, LR, WARMUP = 24, 32, 5e-4, 50
GRID, SIDE = 8, 3  # tokens of a side of the picture, and of a thing
CLS, MASK, FIRST = 2, 4, 5
RELATIONS = FIRST + THINGS  # left, right, above, below
PRESET = read_preset(Path("params.yaml"))["pretrain"]
SIZES = validate(Config, PRESET, where="params.yaml").model.fused


@dataclass(frozen=True)
class Case:
    """A training: of its texts, the share whose two things are masked in place of the relation."""

    title: str
    optimizer: str = "adamw"
    things: float = 0.0
    wpa: bool = False
    """Whether word-patch alignment is trained beside it."""


CASES = (
    Case("the relation is masked"),
    Case("... with Muon", optimizer="muon"),
    Case("... with word-patch alignment", wpa=True),
    Case("both things are masked", things=1.0),
    Case("one or the other is masked", things=0.5),
)


def batch(rng: np.random.Generator, things: float) -> tuple[Tensor, Tensor, Tensor]:
    """What the tokens show (B, N), masked ids (B, 4) and their labels (B, 4)."""
    shown = np.full((BATCH, GRID, GRID), THINGS)
    ids, labels = np.full((BATCH, 4), CLS), np.full((BATCH, 4), IGNORED)
    for row in range(BATCH):
        pair, relation = rng.choice(THINGS, 2, replace=False), rng.integers(4)
        near, far, across = rng.integers(0, 2), rng.integers(4, 6), rng.integers(0, 6, 2)
        along = [near, far] if relation % 2 == 0 else [far, near]
        for thing, place, other in zip(pair, along, across, strict=True):
            y, x = (other, place) if relation < 2 else (place, other)
            shown[row, y : y + SIDE, x : x + SIDE] = thing
        ids[row, 1:] = FIRST + pair[0], RELATIONS + relation, FIRST + pair[1]
        masked = [1, 3] if rng.random() < things else [2]
        labels[row, masked] = ids[row, masked]
        ids[row, masked] = MASK
    return torch.from_numpy(shown).flatten(1), torch.from_numpy(ids), torch.from_numpy(labels)


def learn(case: Case, steps: int, seed: int) -> list[tuple[float, float]]:
    """Shares of right guesses of each step: of relations, of things; NaN where none is masked."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    width, vocabulary = SIZES.width, RELATIONS + 4
    text, fusion = TextEncoder(SIZES, vocabulary), FusionEncoder(SIZES, width)
    head, norm, table = (
        MLMHead(width, vocabulary),
        nn.LayerNorm(width),
        nn.Embedding(THINGS + 1, width),
    )
    words = text.embeddings.word_embeddings.weight
    positions = sine_positions(GRID, width)
    optimizer = OPTIMIZERS[case.optimizer](
        nn.ModuleList([text, fusion, head, norm, table]), LR, 0.02
    )
    shares = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / WARMUP)
        shown, ids, labels = batch(rng, case.things)
        with torch.autocast("cpu", torch.bfloat16):
            bias = attention_bias(torch.ones_like(ids))
            image = fusion.image_key_values(norm(table(shown) + positions))
            states = fusion(text(ids, bias), bias, image)
            logits = head(states.float(), words)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
            if case.wpa:
                unmasked = torch.where(labels == IGNORED, ids, labels)
                query = fusion.first_query(fusion.begin(text(unmasked, bias), bias))
                own = torch.eye(BATCH, dtype=torch.bool)
                loss = loss + wpa_loss(query, image[0][0], torch.ones_like(ids), own)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        relation = labels[:, 2] != IGNORED
        true, first, third = labels[relation, 2], labels[~relation, 1], labels[~relation, 3]
        opposite = RELATIONS + ((true - RELATIONS) ^ 1)
        shares.append(
            (
                _likelier(logits[relation, 2], true, opposite),
                _likelier(logits[~relation, 1], first, third),
            )
        )
    return shares


def _likelier(logits: Tensor, right: Tensor, wrong: Tensor) -> float:
    both = logits.gather(1, torch.stack([right, wrong], dim=1))
    return (both[:, 0] > both[:, 1]).float().mean().item()


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.binding")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    ends = range(asked.steps // 3, asked.steps + 1, asked.steps // 3)
    print(f"| | {' | '.join(f'after {end} steps' for end in ends)} |\n|---|{'---|' * len(ends)}")
    for case in CASES:
        shares = 100 * np.array(learn(case, asked.steps, asked.seed))
        masked = shares[:, [case.things < 1, case.things > 0]]
        means = [np.nanmean(masked[max(0, end - 100) : end], axis=0) for end in ends]
        cells = [" / ".join(f"{share:.0f}" for share in mean) for mean in means]
        print(f"| {case.title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
