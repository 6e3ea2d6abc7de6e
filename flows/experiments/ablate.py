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

ABLATIONS = Path("ablations")
log = logging.getLogger("albef")


class Step(Section):
    """Step of an ablation: a set of values."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Name of the step, which is part of the names of its experiments."""
    values: dict[str, Any]
    """Values that the step changes in the preset, by dotted key."""
    earlier: str | None = None
    """Name of an earlier step. Its pre-trained checkpoint is copied to ``.albef/earlier``."""


class Ablation(Section):
    """Steps of an ablation. Each step is compared with the one before it."""

    run: str
    """Key of the entry in ``tasks`` that is evaluated."""
    steps: Annotated[tuple[Step, ...], Field(min_length=2)]
    """Steps in the order in which they are compared; at least two."""

    @model_validator(mode="after")
    def _consistent(self) -> "Ablation":
        names = [step.name for step in self.steps]
        for index, step in enumerate(self.steps):
            if step.name in names[:index]:
                raise ValueError(f"two steps have the name {step.name}")
            if step.earlier and step.earlier not in names[:index]:
                raise ValueError(
                    f"step {step.name}: earlier: {step.earlier} is not a step above it"
                )
        return self


def ablate(
    noises: Sequence[float],
    seeds: int,
    preset_name: str,
    steps_name: str,
    name: str | None = None,
    jobs: int | None = None,
    *,
    show: bool = False,
) -> None:
    """Train the missing experiments and compare all of them.

    See :func:`flows.cli.ablate` for the values.

    Raises:
        ParamsError: a value is wrong, or the preset does not fit the steps.
        CloneError: trainings failed.
    """
    preset = values.find_yaml(values.PRESETS, preset_name, "preset")
    file = values.find_yaml(ABLATIONS, steps_name, "file of steps")
    ablation = validate(Ablation, read_yaml(file), where=str(file))
    if ablation.run not in read_preset(preset).get("tasks", {}):
        raise ParamsError(f"{file}: run {ablation.run} is not in the tasks of {preset}")
    commit = git.git("rev-parse", "HEAD") if show else variations.clean()
    name = name or preset_name
    by_noise = {n: list(_by_seed(name, preset, ablation, n, seeds)) for n in sorted(set(noises))}
    runs = [run for by_seed in by_noise.values() for steps in by_seed for run in steps]
    missing = [run for run in runs if recorded(run, commit) is None]
    if missing and not show:
        log.info("%d trainings, %d of them already recorded", len(runs), len(runs) - len(missing))
        variations.run(missing, [f"evaluate@{ablation.run}"], jobs or _jobs(read_preset(preset)))
    for noise, by_seed in by_noise.items():
        runs = [run for at_step in zip(*by_seed, strict=True) for run in at_step]
        refs = [ref for run in runs if (ref := recorded(run, commit))]
        print(f"caption noise {noise:g}: {len(refs)} of {len(runs)} trainings\n")
        if len(refs) > 1:
            comparison, _ = gather(refs, None, 0, stepwise=True)
            page = compare.write(comparison, compare.OUT / f"{name}-noise{noise:g}.html")
            print(f"{compare.results(comparison)}\n\npage: {page}\n")


def _jobs(params: Mapping[str, Any]) -> int:
    runtime = validate(Runtime, params.get("runtime", {}), where="params", key="runtime")
    cores = os.cpu_count() or 1
    return max(1, cores // (runtime.threads or cores)) if runtime.device == "cpu" else 1


def _by_seed(
    name: str, preset: Path, ablation: Ablation, noise: float, seeds: int
) -> Iterator[list[Variation]]:
    """Yield the variations of all steps at one caption noise, seed by seed."""
    params, base_text = read_preset(preset), values.compose(preset)
    noise_keys = _noise_keys(params, preset)
    for seed in range(params["seed"], params["seed"] + seeds):
        runs: dict[str, Variation] = {}
        for step in ablation.steps:
            overrides = [f"seed={seed}", f"data_seed={seed}"]
            overrides += [f"{key}={noise}" for key in noise_keys]
            overrides += [f"{key}={json.dumps(value)}" for key, value in step.values.items()]
            text = values.overridden(base_text, overrides, f"step {step.name}")
            group = f"noise{noise:g}-seed{seed}"
            earlier = runs[step.earlier] if step.earlier else None
            runs[step.name] = Variation(f"{name}-{step.name}-{group}", text, group, earlier)
        yield list(runs.values())


def _noise_keys(params: Mapping[str, Any], preset: Path) -> list[str]:
    """Return the keys of the caption noise of the pre-training dataset."""
    dataset, curated = params["pretrain"]["dataset"], params.get("curate", {})
    for _ in curated:  # A filtered dataset may be filtered from another one.
        dataset = curated.get(dataset, {}).get("dataset", dataset)
    sources = params["datasets"][dataset]["sources"]
    keys = [source for source, section in sources.items() if "caption_noise" in section]
    if not keys:
        raise ParamsError(
            f"{preset}: no source of dataset {dataset} has caption_noise; use a preset on built-in "
            "data"
        )
    return [f"datasets.{dataset}.sources.{source}.caption_noise" for source in keys]
