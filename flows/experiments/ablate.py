"""``albef ablate``: run the steps of an ablation as experiments and compare them.

Each step runs for every caption noise and every seed. The comparison sets each step against the one
before it.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from albef.config import ParamsError, Section, read_preset, read_yaml, validate
from albef.layout import Runtime
from flows import git, values
from flows.experiments import compare, variations
from flows.experiments.clone import Variation, recorded
from flows.experiments.gather import gather
from flows.experiments.revisions import CODE

LADDERS = Path("ablations")
log = logging.getLogger("albef")


class Step(Section):
    """Step of an ablation: a set of values."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Name of the step, which is part of the names of its experiments."""
    values: dict[str, Any]
    """Values that the step changes in the preset, by dotted key."""
    earlier: str | None = None
    """Name of an earlier step. Its pre-trained checkpoint is copied to ``.albef/earlier``."""


class Ladder(Section):
    """Steps of an ablation. Each step is compared with the one before it."""

    run: str
    """Key of the entry in ``tasks`` that is evaluated."""
    steps: Annotated[tuple[Step, ...], Field(min_length=2)]
    """Steps in the order in which they are compared; at least two."""

    @model_validator(mode="after")
    def _consistent(self) -> "Ladder":
        names = [step.name for step in self.steps]
        if len(set(names)) < len(names):
            raise ValueError("two steps have the same name")
        for index, step in enumerate(self.steps):
            if step.earlier and step.earlier not in names[:index]:
                raise ValueError(f"step {step.name}: {step.earlier} is no step before it")
        return self


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
    """Train the missing experiments and compare all of them.

    See :func:`flows.cli.ablate` for the values.

    Raises:
        ParamsError: a value is wrong, or the preset does not fit the steps.
        Failure: trainings failed.
    """
    preset = values.find_yaml(values.PRESETS, preset_name, "preset")
    file = values.find_yaml(LADDERS, ladder_name, "ladder")
    ladder = _read(file)
    commit = git.git("rev-parse", "HEAD") if show else variations.clean()
    name = name or preset_name
    by_noise = {n: list(_by_seed(name, preset, file, n, seeds)) for n in sorted(set(noises))}
    runs = [run for by_seed in by_noise.values() for steps in by_seed for run in steps]
    missing = [run for run in runs if recorded(run, commit, CODE) is None]
    if missing and not show:
        log.info("%d trainings, %d of them there already", len(runs), len(runs) - len(missing))
        jobs = jobs or _jobs(read_preset(preset))
        variations.run(missing, [f"evaluate@{ladder.run}"], jobs)
    for noise, by_seed in by_noise.items():
        runs = [run for at_step in zip(*by_seed, strict=True) for run in at_step]
        refs = [ref for run in runs if (ref := recorded(run, commit, CODE))]
        print(f"caption noise {noise:g}: {len(refs)} of {len(runs)} trainings\n")
        if len(refs) > 1:
            comparison, _ = gather(refs, None, 0, stepwise=True)
            page = compare.write(comparison, compare.OUT / f"{name}-noise{noise:g}.html")
            print(f"{compare.results(comparison)}\n\npage: {page}\n")


def _read(file: Path) -> Ladder:
    return validate(Ladder, read_yaml(file), where=str(file))


def _jobs(params: Mapping[str, Any]) -> int:
    runtime = validate(Runtime, params.get("runtime", {}), where="params", key="runtime")
    cores = os.cpu_count() or 1
    return max(1, cores // (runtime.threads or cores)) if runtime.device == "cpu" else 1


def _by_seed(
    name: str, preset: Path, file: Path, noise: float, seeds: int
) -> Iterator[list[Variation]]:
    """Yield the variations of all steps at one caption noise, seed by seed."""
    params, base_text, ladder = read_preset(preset), values.compose(preset), _read(file)
    if ladder.run not in params.get("tasks", {}):
        raise ParamsError(f"{file}: run {ladder.run} is not one of the tasks of {preset}")
    noisy = _noisy_sources(params, preset)
    for seed in range(params["seed"], params["seed"] + seeds):
        runs: dict[str, Variation] = {}
        for step in ladder.steps:
            overrides = [f"seed={seed}", f"data_seed={seed}"]
            overrides += [f"{key}={noise}" for key in noisy]
            overrides += [f"{key}={json.dumps(value)}" for key, value in step.values.items()]
            text = values.overridden(base_text, overrides, f"{file}, step {step.name}")
            group = f"noise{noise:g}-seed{seed}"
            earlier = runs[step.earlier] if step.earlier else None
            runs[step.name] = Variation(f"{name}-{step.name}-{group}", text, group, earlier)
        yield list(runs.values())


def _noisy_sources(params: Mapping[str, Any], preset: Path) -> list[str]:
    """Return the keys of the caption noise of the pre-training dataset."""
    dataset, views = params["pretrain"]["dataset"], params.get("curate", {})
    for _ in views:  # A filtered dataset may be filtered from another one.
        dataset = views.get(dataset, {}).get("dataset", dataset)
    keys = [
        f"datasets.{dataset}.sources.{source}.caption_noise"
        for source, section in params["datasets"][dataset]["sources"].items()
        if "caption_noise" in section
    ]
    if not keys:
        raise ParamsError(
            f"{preset}: no source of data set {dataset} has caption_noise, so there is no noise to "
            "vary; take a preset on built-in data"
        )
    return keys
