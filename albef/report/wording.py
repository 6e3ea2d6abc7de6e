"""Numbers, texts and the names of metrics in the words of the page."""

import re
from collections.abc import Iterator, Mapping

ITC = "itc_"
"""Prefix of a metric of the ranking by ITC alone, beside the re-ranked one."""
_METRICS = (
    (r"tr@1", "picture to text, first place"),
    (r"tr@(\d+)", "picture to text, first {}"),
    (r"ir@1", "text to picture, first place"),
    (r"ir@(\d+)", "text to picture, first {}"),
    (r"r_mean", "mean of the six recalls"),
    (r"map_accuracy", "right boxes from the map alone"),
    (r"map_iou", "mean overlap of the map's own box"),
    (r"zero_shot_accuracy", "right classes by their names"),
    (r"zero_shot_balanced_accuracy", "right classes by their names, each class alike"),
    (r"accuracy_(\w+)", "right decisions, {}"),
    (r"accuracy", "right decisions"),
)
FIRST_GROUPS = ("r_mean", "accuracy", "overall", "tr", "ir")
"""Groups of metrics that are looked at first, in this order."""


def format_number(value: float) -> str:
    """A number for a reader: three digits, small ones with an exponent."""
    if value and abs(value) < 0.001:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_metric(value: float | None) -> str:
    """A metric for a reader; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def format_difference(value: float) -> str:
    """A difference of metrics for a reader."""
    return f"{value:+.1f}".replace("-", "−")


def format_range(least: float, median: float, most: float) -> str:
    """Where values lie, for a reader."""
    return f"{least:g}" if least == most else f"{least:g} to {most:g}, median {median:g}"


def format_value(value: object) -> str:
    """A value of params.yaml as it would stand there."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_value, value))}]"
    return str(value)


def format_duration(seconds: float) -> str:
    """Seconds for a reader."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def format_memory(mib: float) -> str:
    """MiB for a reader."""
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.2f} GiB"


def web_address(url: str) -> str:
    """An address that may be linked to, or "": what a data set names is not trusted."""
    return url if url.startswith(("https://", "http://")) else ""


def flatten(values: Mapping[str, object], key: str = "") -> Iterator[tuple[str, object]]:
    """(dotted name, value) of every leaf of nested mappings, in order."""
    for name, value in values.items():
        dotted = f"{key}.{name}" if key else str(name)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, dotted)
        else:
            yield dotted, value


def metric_words(name: str) -> str:
    """What a metric says, or ""."""
    for pattern, text in _METRICS:
        if match := re.fullmatch(pattern, name):
            return text.format(*match.groups())
    return ""


def metric_group(name: str) -> str:
    """What a metric shares a figure with: ``tr`` of ``itc_tr@5``."""
    return name.removeprefix(ITC).partition("@")[0]


def metric_order(name: str) -> tuple[int, str, int]:
    """Key to sort metrics by: known groups first, numbers by size."""
    group = metric_group(name)
    rank = FIRST_GROUPS.index(group) if group in FIRST_GROUPS else len(FIRST_GROUPS)
    number = re.search(r"\d+$", name)
    return rank, re.sub(r"\d+$", "", name), int(number.group()) if number else 0
