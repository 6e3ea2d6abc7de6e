"""The result of a validation as one page of HTML that needs nothing else."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from albef.validation.profile import OTHER, parts_of
from albef.validation.result import Result, drifted, of_dataset

SUITES = {
    "image_text": "Every data set",
    "captions": "Captions",
    "questions": "Questions",
    "statements": "Statements",
    "comparisons": "Comparisons of two images",
    "expressions": "Expressions",
}
"""Titles of the suites."""
_REFERENCES = {
    "accepted": "from the accepted profile",
    "evaluation": "of the training split from the evaluation splits",
}


_WORDS = 24  # of the vocabulary
_Parts = Mapping[str, Mapping[str, Any]]


class Histogram(NamedTuple):
    """Shares by part and bin, from the first bin to the last that holds anything."""

    what: str
    edges: tuple[float, ...]
    shares: Mapping[str, tuple[float, ...]]
    middle: Mapping[str, float]
    """The median, by part."""


class Listed(NamedTuple):
    """The most frequent words, or labels."""

    what: str
    shares: Mapping[str, Mapping[str, float]]
    """By part, how often each is said, the most frequent of the first part first."""
    different: Mapping[str, int]
    """By part, how many there are."""

    def rows(self) -> list[list[str]]:
        """A row for each: its name, and its share in each part."""
        names = next(iter(self.shares.values()))
        return [
            [name, *(f"{100 * shares[name]:.2f} %" for shares in self.shares.values())]
            for name in names
        ]


def render_page(result: Result, profile: Mapping[str, Any]) -> str:
    """``result`` and the data set's profile as HTML; equal ones give equal pages."""
    environment = Environment(
        loader=PackageLoader("albef.validation", "."),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    rows = groupby(drifted(result.to_json()), key=lambda row: (row.reference, row.name))
    return environment.get_template("page.html").render(
        result=result,
        verdict=_verdict(result),
        suites=[(SUITES[k], list(g)) for k, g in groupby(result.checks, lambda c: c.suite)],
        numbers=[(name, _text(value)) for name, value in result.statistics.items()],
        parts=parts_of(profile),
        histograms=histograms(profile),
        listed=listed(profile),
        drifted=[(_REFERENCES[key] + of_dataset(name), list(group)) for (key, name), group in rows],
    )


def _verdict(result: Result) -> str:
    failed = sum(not check.passed for check in result.checks)
    stopped = sum(drift.level == "stopped" for drift in result.drift)
    if result.passed:
        return f"All {len(result.checks)} expectations are met."
    unmet = f"{failed} of {len(result.checks)} expectations are not met" if failed else ""
    far = f"{stopped} of {len(result.drift)} distributions moved too far" if stopped else ""
    return f"{' and '.join(filter(None, (unmet, far)))}; nothing is trained on it."


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def histograms(profile: Mapping[str, Any]) -> tuple[Histogram, ...]:
    """The histograms of a profile, those of both parts together."""
    return tuple(_histogram(what, by) for what, by in _by_part(profile, "numbers").items())


def _by_part(profile: Mapping[str, Any], kind: str) -> Mapping[str, _Parts]:
    """What is counted in a profile, and by part its counts."""
    counted: dict[str, dict[str, Mapping[str, Any]]] = {}
    for part, values in parts_of(profile):
        for counts in values[kind]:
            counted.setdefault(counts["what"], {})[part] = counts
    return counted


def _histogram(what: str, by: _Parts) -> Histogram:
    first, *_ = by.values()
    filled = [any(counts) for counts in zip(*(part["counts"] for part in by.values()), strict=True)]
    start, end = filled.index(True), len(filled) - filled[::-1].index(True)
    shares = {
        part: tuple(count / sum(values["counts"]) for count in values["counts"][start:end])
        for part, values in by.items()
    }
    middle = {
        part: values["quantiles"][len(values["quantiles"]) // 2] for part, values in by.items()
    }
    return Histogram(what, tuple(first["bins"][start : end + 1]), shares, middle)


def listed(profile: Mapping[str, Any]) -> tuple[Listed, ...]:
    """The most frequent words, and labels or answers."""
    lists = []
    for what, by in _by_part(profile, "categories").items():
        counts = {
            part: dict(zip(values["values"], values["counts"], strict=True))
            for part, values in by.items()
        }
        first, *_ = counts.values()
        names = [name for name in first if name != OTHER][:_WORDS]
        shares = {
            part: {name: counted.get(name, 0) / sum(counted.values()) for name in names}
            for part, counted in counts.items()
        }
        lists.append(Listed(what, shares, {part: int(v["different"]) for part, v in by.items()}))
    return tuple(lists)
