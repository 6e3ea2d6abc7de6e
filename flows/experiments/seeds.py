"""``albef run --seeds N``: the same values under further seeds, each an experiment of its own.

The first seed is the run in the work tree. The others are trained and evaluated in clones; the
data, whose seed is another, are shared by all.
"""

import logging
from collections.abc import Sequence

from albef.config import ParamsError, read_yaml
from albef.layout import PARAMS
from albef.report.wording import format_duration
from flows import graph, values
from flows.experiments import variations
from flows.experiments.clone import Outcome, Variation
from flows.run import run

log = logging.getLogger("albef")


def run_seeds(
    preset: str | None,
    overrides: Sequence[str],
    name: str | None,
    count: int,
    unwanted: Sequence[str] = (),
) -> int:
    """Run the values here, and under further seeds in clones; the exit code.

    The names of the experiments begin with ``name``; ``unwanted`` are options that were given too,
    and that do not go with this.

    Raises:
        ParamsError: which option is in the way, or what is not committed.
        Failure: a training in a clone failed.
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
    values.prepare(preset, overrides)
    first = int(read_yaml(PARAMS)["seed"])
    names = {seed: f"{name}-seed{seed}" for seed in range(first, first + count)}
    if code := run(name=names[first]):
        return code
    _run_in_clones({seed: names[seed] for seed in names if seed != first})
    print(f"\nrecorded as experiments {', '.join(names.values())}")
    if len(names) > 1:
        print(f"`albef compare {' '.join(names.values())}` tells their spread")
    return 0


def _run_in_clones(names: dict[int, str]) -> None:
    """Train and evaluate seeds with the values of params.yaml, each an experiment of that name."""
    commit, lock, text = variations.clean(), graph.LOCK.read_text(), PARAMS.read_text()
    runs = [
        Variation(name, variations.varied(text, [f"seed={seed}"], "--seeds"), str(seed))
        for seed, name in names.items()
    ]
    targets = [node for node in graph.read() if node.partition("@")[0] == "evaluate"]
    ended: list[str] = []

    def on_end(variation: Variation, outcome: Outcome) -> None:
        ended.append(variation.name)
        ran = f"{len(outcome.ran)} stages ran" if outcome.ran else "all of it was there already"
        log.info(
            "%s: %s, %s; %d of %d",
            *(variation.name, ran, format_duration(outcome.seconds), len(ended) + 1, len(runs) + 1),
        )

    if runs:
        variations.check(runs)
        variations.run(runs, commit, targets, 1, on_end, lock=lock)
