"""search@RUN: choose the values that a run's section gives as ranges.

Most runs have none. This module therefore imports neither torch nor Optuna, which takes seconds.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pipelines.stage import Stage, main, write_json


def run(stage: Stage) -> None:
    """Search a run's ranges and write the choice and the trials; both are empty without ranges."""
    if _has_ranges(stage):
        from pipelines.trials import search_ranges

        search_ranges(stage, partial(write_choice, stage))
    elif stage.first:
        write_choice(stage, {}, {"trials": []})


def launch(stage: Stage) -> bool:
    """Run the search in several processes if they are requested; see ``pipelines/launch.py``."""
    if not _has_ranges(stage):
        return False
    from pipelines import launch

    return launch.launch(stage)


def _has_ranges(stage: Stage) -> bool:
    """Return whether a value of the run is a range. Fine-tuning validates the section."""
    return _has_range((stage.params.get("tasks") or {}).get(stage.key))


def _has_range(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return {"low", "high"} <= value.keys() or any(map(_has_range, value.values()))


def write_choice(stage: Stage, choice: Mapping[str, float], trials: Mapping[str, Any]) -> None:
    """Write the values that a search chose, and its trials."""
    target = stage.layout.search(stage.key)
    write_json(target / "choice.json", dict(choice))
    write_json(target / "trials.json", trials)
    stage.made(target / "choice.json", target / "trials.json")


if __name__ == "__main__":
    main(run, launch)
