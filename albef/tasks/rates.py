"""Recalls and accuracies that a training validates with.

An edit here makes trainings stale. A new metric belongs in albef/metrics.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

RANKS = (1, 5, 10)
"""Values of k: a recall counts right answers among the first k."""


class Validation(NamedTuple):
    """Measurements of a training on its validation split after an epoch."""

    metrics: dict[str, float]
    """Metrics by name, in percent; they become points of the curves."""
    chance: float
    """Expected value of the primary metric when guessing."""


def recalls(ranks_i2t: list[int], ranks_t2i: list[int]) -> dict[str, float]:
    """Return ``tr@k``, ``ir@k`` for k of 1, 5 and 10, and their mean ``r_mean``, in percent."""
    result = {}
    for name, ranks in (("tr", ranks_i2t), ("ir", ranks_t2i)):
        for k in RANKS:
            result[f"{name}@{k}"] = 100.0 * sum(rank < k for rank in ranks) / max(1, len(ranks))
    return result | {"r_mean": sum(result.values()) / len(result)}


def chance_recalls(images: int, texts: int) -> dict[str, float]:
    """Return expected :func:`recalls` of a random order with one relevant candidate per query."""
    result = {f"tr@{k}": 100.0 * min(k, texts) / texts for k in RANKS}
    result |= {f"ir@{k}": 100.0 * min(k, images) / images for k in RANKS}
    return result | {"r_mean": sum(result.values()) / len(result)}


def ranking_recalls(table: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """Return :func:`recalls` of the queries of a table, and those by one score alone.

    ``itc_`` is that by ITC, and ``itm_`` that by ITM if the ranking mixes both.
    """
    result: dict[str, float] = {}
    columns = {"": "rank", "itc_": "rank_itc", "itm_": "rank_itm"}
    for prefix, column in columns.items():
        if column not in table:
            continue
        ranks: dict[str, list[int]] = {"i2t": [], "t2i": []}
        for query, rank in zip(table["query"], table[column], strict=True):
            ranks[query].append(rank)
        found = recalls(ranks["i2t"], ranks["t2i"])
        result |= {f"{prefix}{name}": value for name, value in found.items()}
    return result


def validate_ranking(table: Mapping[str, Sequence[Any]]) -> Validation:
    """Return the recalls of a table of queries, with chance of ``r_mean``."""
    images, texts = (table["query"].count(name) for name in ("i2t", "t2i"))
    return Validation(ranking_recalls(table), chance_recalls(images, texts)["r_mean"])


def accuracies(
    scores: Sequence[float | None], groups: Sequence[str | None] | None
) -> dict[str, float]:
    """Return ``accuracy``, the mean score in percent, and ``accuracy_GROUP`` of each group.

    Rows with the score None are left out. A row whose group is "" or None has none.
    """
    rows = zip(scores, groups or [None] * len(scores), strict=True)
    scored = [(value, group) for value, group in rows if value is not None]
    if not scored:
        return {}
    right, groups = zip(*scored, strict=True)
    result = {"accuracy": 100.0 * sum(right) / len(right)}
    for group in sorted({group for group in groups if group}):
        of_group = [value for value, label in scored if label == group]
        name = re.sub(r"\W+", "_", group)
        result[f"accuracy_{name}"] = 100.0 * sum(of_group) / len(of_group)
    return result
