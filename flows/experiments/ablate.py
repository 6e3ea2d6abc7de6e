"""``albef ablate``: run the steps of an ablation as experiments and compare them.

Each step runs for every seed. The comparison sets each step against the one before it.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from ruamel.yaml import YAML

from albef.config import ParamsError, Section, read_yaml, validate
from albef.layout import Runtime
from flows import values
from flows.experiments import compare, variations
from flows.experiments.clone import Variation, recorded
from flows.experiments.gather import gather

ABLATIONS = Path("ablations")
log = logging.getLogger("albef")


class Step(Section):
    """Step of an ablation: a set of values."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Name of the step, which is part of the names of its experiments."""
    values: dict[str, Any]
    """Values that the step changes in the preset, by dotted key."""


class Ablation(Section):
    """Steps of an ablation. Each step is compared with the one before it."""

    run: str
    """Key of the entry in ``tasks`` that is evaluated."""
    steps: Annotated[tuple[Step, ...], Field(min_length=2)]
    """Steps in the order in which they are compared; at least two."""

    @model_validator(mode="after")
    def _consistent(self) -> "Ablation":
        names = [step.name for step in self.steps]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two steps have the name {twice}")
        return self


def ablate(
    overrides: Sequence[str],
    seeds: int,
    preset_name: str,
    steps_name: str,
    name: str | None = None,
    jobs: int | None = None,
) -> None:
    """Train the missing experiments and compare all of them.

    See :func:`flows.cli.ablate` for the values.

    Raises:
        ParamsError: a value is wrong, or the preset does not fit the steps.
        CloneError: trainings failed.
    """
    preset = values.file_of(preset_name)
    file = values.find_yaml(ABLATIONS, steps_name, "file of steps")
    ablation = validate(Ablation, read_yaml(file), where=str(file))
    text = values.overridden(values.compose(preset), overrides)
    params = YAML(typ="safe", pure=True).load(text)
    if ablation.run not in params.get("tasks", {}):
        raise ParamsError(f"{file}: run {ablation.run} is not in the tasks of {preset}")
    commit, name = variations.clean(), name or preset_name
    first = params["seed"]
    by_seed = [[*_steps(name, text, ablation, s)] for s in range(first, first + seeds)]
    missing = [[run for run in steps if not recorded(run, commit)] for steps in by_seed]
    if any(missing):
        log.info("%d of %d trainings are missing", sum(map(len, missing)), sum(map(len, by_seed)))
        targets = [f"evaluate@{ablation.run}"]
        variations.run([*filter(None, missing)], targets, jobs or _jobs(params))
    runs = [run for at_step in zip(*by_seed, strict=True) for run in at_step]
    comparison, _ = gather([*filter(None, (recorded(r, commit) for r in runs))], 0, stepwise=True)
    page = compare.write(comparison, compare.OUT / f"{name}.html")
    print(f"{compare.results(comparison)}\n\npage: {page}")


def _jobs(params: Mapping[str, Any]) -> int:
    runtime = validate(Runtime, params.get("runtime", {}), where="params", key="runtime")
    cores = os.cpu_count() or 1
    return max(1, cores // (runtime.threads or cores)) if runtime.device == "cpu" else 1


def _steps(name: str, preset: str, ablation: Ablation, seed: int) -> Iterator[Variation]:
    for step in ablation.steps:
        overrides = [f"seed={seed}", f"data_seed={seed}"]
        overrides += [f"{key}={json.dumps(value)}" for key, value in step.values.items()]
        text = values.overridden(preset, overrides, f"step {step.name}")
        yield Variation(f"{name}-{step.name}-seed{seed}", text)
