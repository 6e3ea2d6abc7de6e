"""Formatting of numbers, times and values for the page."""

from collections.abc import Mapping
from math import isfinite

from albef.config import flatten


def format_number(value: float) -> str:
    """Format a number with three digits; small ones have an exponent."""
    if value and abs(value) < 0.001:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_metric(value: float | None) -> str:
    """Format a metric; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def format_difference(value: float | None) -> str:
    """Format a difference of metrics; a dash for None."""
    return "–" if value is None else f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def format_value(value: object) -> str:
    """Format a value as in params.yaml."""
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
    """Format seconds as a duration."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def web_address(url: str) -> str:
    """Return a web address that may be linked to, or "", because datasets are not trusted."""
    return url if url.startswith(("https://", "http://")) else ""


def training_first(splits: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes of splits in the order train, val, test, others; JSON sorts them by name."""
    known = ("train", "val", "test")
    rank = {split: index for index, split in enumerate(known)}
    return dict(sorted(splits.items(), key=lambda item: (rank.get(item[0], len(known)), item[0])))


def numbers(values: Mapping[str, object]) -> dict[str, float]:
    """Return the finite numbers in nested mappings by dotted name."""
    pairs = flatten(values)
    return {name: float(n) for name, n in pairs if isinstance(n, int | float) and isfinite(n)}
