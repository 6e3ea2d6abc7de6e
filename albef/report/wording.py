"""Numbers, times and values in the words of the page."""

from collections.abc import Iterator, Mapping


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


def format_difference(value: float | None) -> str:
    """A difference of metrics for a reader; a dash for None."""
    return "–" if value is None else f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


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
