"""Metrics in the order and the words of the page; a metric that is not known here is shown too."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from albef.report.results import SplitResult

ITC = "itc_"
"""Prefix of a metric of the ranking by ITC alone, beside the re-ranked one."""
_WORDS = (
    (r"tr@1", "picture to text, first place"),
    (r"tr@(\d+)", "picture to text, first {}"),
    (r"ir@1", "text to picture, first place"),
    (r"ir@(\d+)", "text to picture, first {}"),
    (r"r_mean", "mean of the six recalls"),
    (r"map_accuracy", "right boxes from the map alone"),
    (r"map_iou", "mean overlap of the map's own box"),
    (r"accuracy_(\w+)", "right decisions, {}"),
    (r"accuracy", "right decisions"),
)
_GROUPS = ("r_mean", "accuracy", "overall", "tr", "ir")


@dataclass(frozen=True)
class Row:
    """A metric of a split; what is not known is None.

    Attributes:
        name: as the kind's score calls it.
        words: what it says, or "".
        value, itc, chance, random_weights, text_only: the result, that of ITC alone, and the
            three baselines.
        percent: whether all of them lie between 0 and 100.
    """

    name: str
    words: str
    value: float
    itc: float | None
    chance: float | None
    random_weights: float | None
    text_only: float | None

    @property
    def percent(self) -> bool:
        """Whether a bar from 0 to 100 can show the row."""
        known = (self.value, self.itc, self.chance, self.random_weights, self.text_only)
        return all(value is None or 0 <= value <= 100 for value in known)


def rows(split: SplitResult) -> list[Row]:
    """The metrics of a split, the primary one first; without those of ITC if they say the same."""
    itc = {n: v for n, v in split.metrics.items() if n.startswith(ITC)}
    if all(value == split.metrics.get(name.removeprefix(ITC)) for name, value in itc.items()):
        itc = {}  # nothing was re-ranked
    found = [
        Row(
            name=name,
            words=words(name),
            value=value,
            itc=itc.get(ITC + name),
            chance=split.chance.get(name),
            random_weights=split.random_weights.get(name),
            text_only=split.text_only.get(name),
        )
        for name, value in split.metrics.items()
        if not (name.startswith(ITC) and name.removeprefix(ITC) in split.metrics)
    ]
    return sorted(found, key=lambda row: (row.name != split.headline, order(row.name)))


def headline(split: SplitResult) -> Row | None:
    """The metric to name first; None without any."""
    return next(iter(rows(split)), None)


def words(name: str) -> str:
    """What a metric says, or ""."""
    for pattern, text in _WORDS:
        if match := re.fullmatch(pattern, name):
            return text.format(*match.groups())
    return ""


def group(name: str) -> str:
    """What a metric shares a figure with: ``tr`` of ``itc_tr@5``."""
    return name.removeprefix(ITC).partition("@")[0]


def order(name: str) -> tuple[int, str, int]:
    """Key to sort metrics by: known groups first, numbers by size."""
    own = group(name)
    place = _GROUPS.index(own) if own in _GROUPS else len(_GROUPS)
    number = re.search(r"\d+$", name)
    return place, re.sub(r"\d+$", "", name), int(number.group()) if number else 0


def flatten(values: Mapping[str, object], key: str = "") -> Iterable[tuple[str, object]]:
    """(dotted name, value) of every leaf of nested mappings, in order."""
    for name, value in values.items():
        dotted = f"{key}.{name}" if key else str(name)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, dotted)
        else:
            yield dotted, value
