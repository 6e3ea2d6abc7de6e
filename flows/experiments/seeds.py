"""``albef run --seeds N``: the same values under further seeds, each an experiment of its own.

The first seed is the run in the work tree. The others are trained and evaluated in clones; the
data, whose seed is another, are shared by all.
"""

import logging
from collections.abc import Sequence

from albef.config import ParamsError, read_yaml
from albef.layout import PARAMS
from albef.report.wording import format_duration
from flows import graph
from flows.experiments import variations
from flows.experiments.clone import Outcome, Variation

log = logging.getLogger("albef")


def refuse(name: str | None, count: int, unwanted: Sequence[str]) -> str:
    """Refuse at once what cannot be repeated; the name.

    Raises:
        ParamsError: which option is in the way, or what is not committed.
    """
    if count < 1:
        raise ParamsError(f"--seeds must be at least 1, got {count}")
    if not name:
        raise ParamsError(
            "--seeds records each seed as an experiment; say its name with --name EXPERIMENT"
        )
    for option in unwanted:
        raise ParamsError(f"--seeds brings whole runs up to date and takes no {option}")
    variations.clean()
    return name


def name_of(name: str, seed: int) -> str:
    """Of the experiment of a seed."""
    return f"{name}-seed{seed}"


def first() -> int:
    """The seed of params.yaml."""
    return int(read_yaml(PARAMS)["seed"])


def others(name: str, count: int) -> list[str]:
    """Train and evaluate the seeds after the first one with the values of params.yaml.

    Returns:
        Names of all experiments, the first seed's too.

    Raises:
        ParamsError: the work tree changed meanwhile.
        Failure: a training failed.
    """
    commit, lock = variations.clean(), graph.LOCK.read_text()
    seeds = range(first(), first() + count)
    runs = [
        Variation(
            name=name_of(name, seed),
            params=variations.varied(PARAMS, [f"seed={seed}"], "--seeds"),
            group=str(seed),
            data=str(seed),
        )
        for seed in seeds[1:]
    ]
    wanted = [node for node in graph.read() if node.partition("@")[0] == "evaluate"]
    ended: list[str] = []

    def done(variation: Variation, outcome: Outcome) -> None:
        ended.append(variation.name)
        how = f"{len(outcome.ran)} stages ran" if outcome.ran else "all of it was there already"
        log.info(
            "%s: %s, %s; %d of %d",
            *(variation.name, how, format_duration(outcome.seconds), len(ended) + 1, count),
        )

    if runs:
        variations.check(runs)
        variations.run(runs, commit, wanted, 1, done, lock=lock)
    return [name_of(name, seed) for seed in seeds]
