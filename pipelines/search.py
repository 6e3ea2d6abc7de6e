"""Search the ranges of a run with Optuna; an interrupted search goes on where it was."""

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from albef.config import choose, ranges
from albef.search.samplers import SearchConfig
from albef.search.study import Study, place_of
from albef.search.summary import best_of, evidence, rows
from pipelines.launch import launch
from pipelines.runs import init_of, run_of
from pipelines.stage import WORKER, Stage, first, main, write_json
from pipelines.trainer import (
    counted,
    device_of,
    discard,
    fingerprint,
    mirror_of,
    provenance_of,
    training,
    verified_digest,
)
from pipelines.trial_reuse import hand_on
from pipelines.trials import Search, mirrored, run_trials
from pipelines.workers import work

log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Search a run's ranges and write the choice and the trials."""
    search = _search(stage)
    if search is None:
        if first():
            _write(stage, {}, {"trials": []})
        return
    mirror = mirror_of(stage, search.folder)
    if mirror and not search.journal.exists():
        mirror.pull(search.folder, search.journal.name)
    if stage.runtime.search_workers > 1:
        study: Study | None = search.study(stage)  # made, or refused, before the workers start
        with counted(stage, device_of(stage), stage.runtime.search_workers):
            work(stage, lambda: mirrored(mirror, search.journal), lambda: _complete(study))
    else:
        with training(stage) as device:
            study = search.study(stage) if first() else None
            run_trials(stage, search, study, device)
    if study:
        with contextlib.closing(study):
            _conclude(stage, search, study)


def begin(stage: Stage) -> bool:
    """Be a worker of a search, or start the processes that train together, if asked for."""
    if WORKER not in os.environ:
        return launch(stage)
    if search := _search(stage):
        with training(stage) as device, contextlib.closing(search.study(stage)) as study:
            run_trials(stage, search, study, device)
    return True


def _search(stage: Stage) -> Search | None:
    """What there is to search; None where no value is a range."""
    config, kind = run_of(stage)
    space = ranges(config)
    if not space:
        return None
    settings = stage.section("search", SearchConfig)
    data = verified_digest(stage, config.dataset)
    init = init_of(stage, config)
    key = fingerprint(
        {
            "values": config.model_dump(),
            "search": settings.model_dump(),
            "seed": stage.seed,
            "data": data,
            "init": init.digest,
        }
    )
    return Search(config, kind, settings, space, init, data, key, stage.scratch(key))


def _conclude(stage: Stage, search: Search, study: Study) -> None:
    """Write what was found, and leave the best training to fine-tuning where it is the same."""
    ended = study.ended
    try:
        best = best_of(ended, search.start)
    except ValueError:
        discard(stage, search.folder)  # what was amiss may be mended: the next search starts anew
        raise
    metric = search.kind.primary
    found = evidence(ended, search.start, metric, study.repeatable)
    _write(stage, best.params, {"evidence": found, "trials": rows(ended, search.start)})
    log.info("chosen: %s (%s)", json.dumps(best.params), _words(found))
    stage.record |= {"trials": len(ended), "search": found}
    if search.config.epochs == search.settings.epochs:
        config = choose(search.config, best.params)
        _, key = provenance_of(stage, config, search.data, search.init)
        scratch = stage.scratch_of(f"finetune@{stage.key}", key)
        hand_on(search.folder / place_of(best), scratch)
    discard(stage, search.folder)


def _words(found: Mapping[str, Any]) -> str:
    value, began = found["value"], found["start"]
    than = f"{began:.2f} at the start" if began is not None else "the start failed"
    if found["chosen"]["start"]:
        than = "the start, nothing is better"
    return f"{found['metric']} {value:.2f}, {than}; the best five span {found['spread']:.2f}"


def _complete(study: Study | None) -> bool:
    return bool(study and study.complete)


def _write(stage: Stage, choice: Mapping[str, float], trials: Mapping[str, Any]) -> None:
    target = stage.layout.search(stage.key)
    write_json(target / "choice.json", dict(choice))
    write_json(target / "trials.json", trials)
    stage.made(target / "choice.json", target / "trials.json")


if __name__ == "__main__":
    main(run, begin)
