"""Estimated time of stages and of a whole run.

``python -m flows.estimates`` after the run of a preset adds its stages to typical.json, for clones
without records.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from albef import run_record
from albef.config import read_yaml
from albef.layout import PARAMS
from flows import values
from flows.graph import Node

TYPICAL = Path(__file__).with_name("typical.json")
_SECTIONS = ("pretrain", "tasks", "datasets")
START_S = 3.0
"""Seconds from the start of a stage until its process starts: DVC."""


def estimate(names: Iterable[str], params: Path = PARAMS) -> dict[str, float | None]:
    """Return the estimated seconds of stages: those of the last run, or None.

    If a stage has no run record, but the values of a measured preset, its seconds are those
    measured then, scaled by the speed of this machine.
    """
    typical, sections = json.loads(TYPICAL.read_text()), read_yaml(params)
    layout, scale = values.layout(params), cache(lambda: _probe_s() / typical["probe_s"])

    def seconds(name: str) -> float | None:
        if (record := run_record.read(layout.record(name))) and record.seconds is not None:
            return START_S + record.seconds
        measured = typical["stages"].get(name, {}).get(_digest(sections, name))
        return None if measured is None else (START_S + measured) * scale()

    return {name: seconds(name) for name in names}


def time_left(nodes: Mapping[str, Node], seconds: Mapping[str, float]) -> float:
    """Return the seconds until all stages end, of which each takes one of the CPU cores.

    Args:
        nodes: the graph.
        seconds: remaining seconds of the stages that have not ended; those that run are first.
    """
    free, ends, waiting = [0.0] * (os.cpu_count() or 1), {"": 0.0}, dict(seconds)
    while waiting:
        starts = {
            name: max(min(free), *(ends.get(other, 0.0) for other in ("", *nodes[name].upstream)))
            for name in waiting
            if waiting.keys().isdisjoint(nodes[name].upstream)
        }
        name = min(starts, key=starts.__getitem__)
        ends[name] = free[free.index(min(free))] = starts[name] + waiting.pop(name)
    return max(ends.values())


def _digest(params: Mapping[str, Any], stage_name: str) -> str:
    stage, _, key = stage_name.partition("@")
    pretrain, tasks, datasets = (params.get(name) or {} for name in _SECTIONS)
    run = pretrain if stage == "pretrain" else tasks.get(key, {})
    data, further = datasets.get(run.get("dataset", key)), map(params.get, ("search", "evaluate"))
    parts = [run, data, pretrain.get("model"), *further]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _probe_s() -> float:
    """Return the CPU seconds of a matrix product in float32.

    Their minimum hardly depends on what else runs, such as Prefect's server, which starts now.
    """
    matrix, times = np.ones((1024, 1024), np.float32), [time.process_time()]
    for _ in range(15):
        matrix @ matrix
        times.append(time.process_time())
    return float(np.diff(times).min())


def write_typical() -> None:
    """Add the run records of this project to :data:`TYPICAL`, in seconds of its machine."""
    typical = json.loads(TYPICAL.read_text())
    scale = typical["probe_s"] / _probe_s()
    files, params = (values.layout().root / "runs").glob("*.json"), read_yaml(PARAMS)
    records = [record for record in map(run_record.read, sorted(files)) if record]
    for record in records:
        by_values = typical["stages"].setdefault(record.stage, {})
        by_values[_digest(params, record.stage)] = round(scale * (record.seconds or 0.0), 1)
    TYPICAL.write_text(json.dumps(typical, indent=1) + "\n")


if __name__ == "__main__":
    write_typical()
