"""``albef ablate``: a ladder of variations over caption noise and seeds, as a table."""

import csv
import hashlib
import json
import logging
import math
import os
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.config import ParamsError, read_preset, read_yaml, validate
from albef.io import read_json, write_atomic, write_json
from albef.layout import Runtime
from albef.report.ablation import Ladder, Table, render_markdown
from albef.report.wording import format_duration
from flows import git, values
from flows.experiments import variations
from flows.experiments.clone import Outcome, Variation
from flows.results import table

LADDERS = Path("ablations")
OUT = Path(".albef/ablation")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
CODE = ("albef", "pipelines", "dvc.yaml")
"""What results depend on beside values."""
log = logging.getLogger("albef")


@dataclass(frozen=True)
class Cell:
    """A rung at a caption noise and a seed, and the variation that trains it."""

    rung: str
    noise: float
    seed: int
    variation: Variation


def ablate(
    noises: Sequence[float],
    seeds: int,
    preset_name: str,
    ladder_name: str,
    name: str | None = None,
    jobs: int | None = None,
    *,
    show: bool = False,
) -> None:
    """Train what is missing, and print the tables; see :func:`flows.cli.ablate` for the values.

    Raises:
        ParamsError: what cannot work.
        Failure: trainings failed.
    """
    for noise in noises:
        if not 0 <= noise <= 1:
            raise ParamsError(f"--noise is a share from 0 to 1, got {noise:g}")
    noises = sorted(set(noises))
    if seeds < 1:
        raise ParamsError(f"--seeds must be at least 1, got {seeds}")
    if jobs is not None and jobs < 1:
        raise ParamsError(f"--jobs must be at least 1, got {jobs}")
    if name and not NAME.fullmatch(name):
        raise ParamsError(
            f"--name is part of file and experiment names: letters, digits, . _ and -, got {name}"
        )
    preset = values.named(values.PRESETS, preset_name, "preset")
    file = values.named(LADDERS, ladder_name, "ladder")
    ladder = validate(Ladder, read_yaml(file), where=str(file))
    commit = git.git("rev-parse", "HEAD") if show else variations.clean()
    name = name or preset_name
    cells = list(_cells(name, preset, file, ladder, noises, seeds))
    results = _Results(OUT / name, ladder, cells)
    missing = results.missing()
    if missing and not show:
        variations.check([cell.variation for cell in missing])
        log.info(
            "%d trainings, %d of them there already; results go to %s",
            *(len(cells), len(cells) - len(missing), results.folder),
        )
        jobs = jobs or _jobs(read_preset(preset))
        seconds: list[float] = []

        def on_end(variation: Variation, outcome: Outcome) -> None:
            results.add(variation, outcome)
            results.write()
            seconds.append(outcome.seconds)
            remaining_s = math.ceil((len(missing) - len(seconds)) / jobs) * statistics.mean(seconds)
            log.info(
                "%s: %s; %d of %d, %s%s",
                *(variation.name, results.line(variation), len(seconds), len(missing)),
                *(
                    format_duration(outcome.seconds),
                    f", about {format_duration(remaining_s)} left" if remaining_s else "",
                ),
            )

        runs = [cell.variation for cell in missing]
        variations.run(runs, commit, [f"evaluate@{ladder.run}"], jobs, on_end)
    results.write()
    print(results.text())


def _jobs(params: Mapping[str, Any]) -> int:
    runtime = validate(Runtime, params.get("runtime", {}), where="params", key="runtime")
    cores = os.cpu_count() or 1
    return max(1, cores // (runtime.threads or cores)) if runtime.device == "cpu" else 1


def _cells(
    name: str, preset: Path, file: Path, ladder: Ladder, noises: Sequence[float], seeds: int
) -> Iterator[Cell]:
    """Every variation; those that share the most come one after the other."""
    params, base_text = read_preset(preset), values.compose(preset)
    if ladder.run not in params.get("tasks", {}):
        raise ParamsError(f"{file}: run {ladder.run} is not one of the tasks of {preset}")
    dataset, views = params["pretrain"]["dataset"], params.get("curate", {})
    for _ in views:  # a view may be of a view
        dataset = views.get(dataset, {}).get("dataset", dataset)
    noisy = [
        f"datasets.{dataset}.sources.{source}.caption_noise"
        for source, section in params["datasets"][dataset]["sources"].items()
        if "caption_noise" in section
    ]
    if not noisy:
        raise ParamsError(
            f"{preset}: no source of data set {dataset} has caption_noise, so there is no noise to "
            "vary; take a preset on built-in data"
        )
    for noise in noises:
        for seed in range(params["seed"], params["seed"] + seeds):
            runs: dict[str, Variation] = {}
            for rung in ladder.rungs:
                overrides = [f"seed={seed}", f"data_seed={seed}"]
                overrides += [f"{key}={noise}" for key in noisy]
                overrides += [f"{key}={json.dumps(value)}" for key, value in rung.values.items()]
                text = variations.varied(base_text, overrides, f"{file}, rung {rung.name}")
                group = f"noise{noise:g}-seed{seed}"
                runs[rung.name] = Variation(
                    f"{name}-{rung.name}-{group}",
                    *(text, group, f"seed{seed}"),
                    runs[rung.earlier] if rung.earlier else None,
                )
                yield Cell(rung.name, noise, seed, runs[rung.name])


class _Results:
    """What came of the variations, on disk."""

    def __init__(self, folder: Path, ladder: Ladder, cells: list[Cell]) -> None:
        self.folder = folder
        self._ladder = ladder
        self._cells = {cell.variation.name: cell for cell in cells}
        code = [git.ask("rev-parse", f"HEAD:{part}") or "" for part in CODE]
        self._keys = {
            cell.variation.name: hashlib.sha256(
                "\n".join([*code, repr(cell.variation)]).encode()
            ).hexdigest()
            for cell in cells
        }
        stored = read_json(folder / "results.json") or {}
        self._rows: dict[str, dict[str, Any]] = {
            name: stored[name]
            for name, key in self._keys.items()
            if stored.get(name, {}).get("key") == key
        }

    def missing(self) -> list[Cell]:
        """What has not been trained with this code and these values."""
        return [cell for name, cell in self._cells.items() if name not in self._rows]

    def add(self, variation: Variation, outcome: Outcome) -> None:
        """Keep an outcome."""
        cell = self._cells[variation.name]
        metrics = outcome.metrics[self._ladder.run]
        for metric in self._ladder.metrics:
            if metric.name not in metrics.get(metric.split, {}):
                raise ParamsError(
                    f"{self._ladder.run} has no metric {metric.name} on split {metric.split}"
                )
        self._rows[variation.name] = {
            "key": self._keys[variation.name],
            "rung": cell.rung,
            "noise": cell.noise,
            "seed": cell.seed,
            "metrics": metrics,
            "ran": list(outcome.ran),
            "seconds": round(outcome.seconds, 1),
        }
        write_json(self.folder / "results.json", self._rows)

    def write(self) -> None:
        """Write the tables anew."""
        if self._rows:
            write_atomic(self.folder / "table.md", render_markdown(self._table()))
            with (self.folder / "results.csv").open("w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("rung", "noise", "seed", "split", "metric", "value"))
                for row in (self._rows[name] for name in self._cells if name in self._rows):
                    for split, metrics in row["metrics"].items():
                        for name, value in metrics.items():
                            if isinstance(value, int | float):
                                cell = row["rung"], row["noise"], row["seed"]
                                writer.writerow((*cell, split, name, value))

    def line(self, variation: Variation) -> str:
        """A variation's metrics in a line."""
        metrics = self._rows[variation.name]["metrics"]
        return ", ".join(
            f"{metric.split} {metric.name} {metrics[metric.split][metric.name]:.2f}"
            for metric in self._ladder.metrics
        )

    def _table(self) -> Table:
        by_cell = {(r["rung"], r["noise"], r["seed"]): r["metrics"] for r in self._rows.values()}
        return Table(self._ladder, by_cell, len(self._cells))

    def text(self) -> str:
        """The tables for a terminal."""
        if not self._rows:
            return "no results yet"
        results, parts = self._table(), []
        for metric in self._ladder.metrics:
            head = f"{metric.title} (chance {results.chance(metric):.2f})\n\n"
            for header, rows in results.blocks(metric):
                parts.append(head + table(rows, header))
                head = ""
        if len(self._rows) < len(self._cells):
            parts.append(f"not finished: {len(self._rows)} of {len(self._cells)} trainings")
        parts.append(f"tables and results: {self.folder}")
        return "\n\n".join(parts)
