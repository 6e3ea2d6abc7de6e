"""``albef benchmark``: the row of a model in the table of a public benchmark."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from albef.benchmarks import captions, zero_shot
from albef.commands.embed import load_model
from albef.config import did_you_mean
from albef.data.rejection import Rejection
from albef.io import printable, write_json
from albef.runtime.matching import as_matching

RUNS = {name: each.run for name, each in captions.BENCHMARKS.items()} | {"zero-shot": zero_shot.run}
"""Function that scores a model, of each benchmark."""
_LISTED = 20  # rejected rows that a row lists, and groups that the table shows


def main(name: str, weights: Path, data: Path, images: Path, out: Path, device: str) -> None:
    """Score a checkpoint or export, and print the table of the benchmark with its row.

    ``out`` is the JSON file of rows; an earlier row of the same model is replaced.

    Raises:
        ValueError: the benchmark does not exist, its files are missing or invalid, no case can be
            scored, or the model does not match images and texts.
    """
    if name not in RUNS:
        raise ValueError(f"there is no benchmark {name}{did_you_mean(name, RUNS)}")
    rows = _read(out)
    model = as_matching(load_model(weights, device), str(weights))
    result = RUNS[name](model, data, images)
    problems = [_problem(rejection) for rejection in result.rejected]
    if not result.cases:
        first = f"; the first: {problems[0]}" if problems else ""
        raise ValueError(f"{data} has no case that can be scored with {images}{first}")
    rows = [row for row in rows if (row["benchmark"], row["digest"]) != (name, model.digest)]
    rows.append(
        {
            "benchmark": name,
            "model": str(weights),
            "digest": model.digest,
            "cases": result.cases,
            "rejected": len(problems),
            "problems": problems[:_LISTED],
            "metrics": result.metrics,
            "groups": result.groups,
        }
    )
    write_json(out, rows)
    print(render_table([row for row in rows if row["benchmark"] == name]))
    if problems:
        print(f"\n{len(problems)} rows are rejected, so the numbers are not comparable:")
        print("\n".join(problems[:_LISTED]))
    print(f"\n{out}")


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: folder {path.parent} does not exist")
    try:
        rows = json.loads(path.read_text()) if path.exists() else []
        return [row for row in rows if row["benchmark"] and row["digest"]]
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            f"{path} is not a table of benchmarks; set --out to another file"
        ) from None


def _problem(rejection: Rejection) -> str:
    key = f" ({rejection.key})" if rejection.key else ""
    return printable(f"row {rejection.line}{key}: {rejection.detail}")


def render_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table with a column for each row of a benchmark, and a line for each metric."""
    lines = [["", *(row["model"] for row in rows)]]
    for name in ("cases", "rejected"):
        lines.append([name, *(f"{row[name]:,}" for row in rows)])
    for metric in rows[-1]["metrics"]:
        lines.append([metric, *(_cell(row["metrics"].get(metric)) for row in rows)])
    groups = rows[-1]["groups"]
    for group, values in groups.items() if 1 < len(groups) <= _LISTED else ():
        for metric in [name for name in values if name != "cases"]:
            cells = (_cell(row["groups"].get(group, {}).get(metric)) for row in rows)
            lines.append([f"{group} {metric}", *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
