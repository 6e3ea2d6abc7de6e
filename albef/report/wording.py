"""Numbers and texts in the words of the page."""

from albef.report import figures
from albef.report.metrics import Row


def number(value: float | None) -> str:
    """A metric for a reader; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def signed(value: float) -> str:
    """A difference for a reader."""
    return f"{value:+.1f}".replace("-", "−")


def plain(value: object) -> str:
    """A value of params.yaml as it would stand there."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, float):
        return figures.show(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(plain, value))}]"
    return str(value)


def duration(seconds: float) -> str:
    """Seconds for a reader."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def memory(mib: float) -> str:
    """MiB for a reader."""
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.2f} GiB"


def address(url: str) -> str:
    """An address that may be linked to, or "": what a data set names is not trusted."""
    return url if url.startswith(("https://", "http://")) else ""


def against(row: Row) -> str:
    """How far a metric is above chance, in words; "" where that is not known."""
    if not row.chance or row.value <= row.chance:
        return f"chance is {number(row.chance)} %" if row.chance else ""
    times = row.value / row.chance
    if times >= 3:
        return f"{times:.0f} times chance ({number(row.chance)} %)"
    return f"{row.value - row.chance:.1f} points above chance ({number(row.chance)} %)"
