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
class Place:
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
    places = list(_places(name, preset, file, ladder, noises, seeds))
    results = _Results(OUT / name, ladder, places)
    left = results.missing()
    if left and not show:
        variations.check([place.variation for place in left])
        log.info(
            "%d trainings, %d of them there already; results go to %s",
            *(len(places), len(places) - len(left), results.folder),
        )
        jobs = jobs or _jobs(read_preset(preset))
        took: list[float] = []

        def done(variation: Variation, outcome: Outcome) -> None:
            results.add(variation, outcome)
            results.write()
            took.append(outcome.seconds)
            ahead = math.ceil((len(left) - len(took)) / jobs) * statistics.mean(took)
            log.info(
                "%s: %s; %d of %d, %s%s",
                *(variation.name, results.line(variation), len(took), len(left)),
                *(
                    format_duration(outcome.seconds),
                    f", about {format_duration(ahead)} left" if ahead else "",
                ),
            )

        runs = [place.variation for place in left]
        variations.run(runs, commit, [f"evaluate@{ladder.run}"], jobs, done)
    results.write()
    print(results.text())


def _jobs(params: Mapping[str, Any]) -> int:
    runtime = validate(Runtime, params.get("runtime", {}), where="params", key="runtime")
    cores = os.cpu_count() or 1
    return max(1, cores // (runtime.threads or cores)) if runtime.device == "cpu" else 1


def _places(
    name: str, preset: Path, file: Path, ladder: Ladder, noises: Sequence[float], seeds: int
) -> Iterator[Place]:
    """Every variation; those that share the most come one after the other."""
    params, whole = read_preset(preset), values.compose(preset)
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
                text = variations.varied(whole, overrides, f"{file}, rung {rung.name}")
                group = f"noise{noise:g}-seed{seed}"
                runs[rung.name] = Variation(
                    f"{name}-{rung.name}-{group}",
                    *(text, group, f"seed{seed}"),
                    runs[rung.earlier] if rung.earlier else None,
                )
                yield Place(rung.name, noise, seed, runs[rung.name])


class _Results:
    """What came of the variations, on disk."""

    def __init__(self, folder: Path, ladder: Ladder, places: list[Place]) -> None:
        self.folder = folder
        self._ladder = ladder
        self._places = {place.variation.name: place for place in places}
        code = [git.ask("rev-parse", f"HEAD:{part}") or "" for part in CODE]
        self._keys = {
            place.variation.name: hashlib.sha256(
                "\n".join([*code, repr(place.variation)]).encode()
            ).hexdigest()
            for place in places
        }
        stored = read_json(folder / "results.json") or {}
        self._rows: dict[str, dict[str, Any]] = {
            name: stored[name]
            for name, key in self._keys.items()
            if stored.get(name, {}).get("key") == key
        }

    def missing(self) -> list[Place]:
        """What has not been trained with this code and these values."""
        return [place for name, place in self._places.items() if name not in self._rows]

    def add(self, variation: Variation, outcome: Outcome) -> None:
        """Keep an outcome."""
        place = self._places[variation.name]
        metrics = outcome.metrics[self._ladder.run]
        for wanted in self._ladder.metrics:
            if wanted.name not in metrics.get(wanted.split, {}):
                raise ParamsError(
                    f"{self._ladder.run} has no metric {wanted.name} on split {wanted.split}"
                )
        self._rows[variation.name] = {
            "key": self._keys[variation.name],
            "rung": place.rung,
            "noise": place.noise,
            "seed": place.seed,
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
                out = csv.writer(file, lineterminator="\n")
                out.writerow(("rung", "noise", "seed", "split", "metric", "value"))
                for row in (self._rows[name] for name in self._places if name in self._rows):
                    for split, metrics in row["metrics"].items():
                        for name, value in metrics.items():
                            if isinstance(value, int | float):
                                place = row["rung"], row["noise"], row["seed"]
                                out.writerow((*place, split, name, value))

    def line(self, variation: Variation) -> str:
        """A variation's metrics in a line."""
        metrics = self._rows[variation.name]["metrics"]
        return ", ".join(
            f"{wanted.split} {wanted.name} {metrics[wanted.split][wanted.name]:.2f}"
            for wanted in self._ladder.metrics
        )

    def _table(self) -> Table:
        by_place = {(r["rung"], r["noise"], r["seed"]): r["metrics"] for r in self._rows.values()}
        return Table(self._ladder, by_place, len(self._places))

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
        if len(self._rows) < len(self._places):
            parts.append(f"not finished: {len(self._rows)} of {len(self._places)} trainings")
        parts.append(f"tables and results: {self.folder}")
        return "\n\n".join(parts)
