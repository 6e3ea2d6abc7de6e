"""Search the ranges of a run with Optuna; an interrupted search goes on where it was."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from typing import Any

from albef.config import choose
from albef.io import Locked, lock
from albef.search.study import Study, place_of
from albef.search.study_storage import DATABASE
from albef.search.summary import best_of, evidence, rows
from pipelines.launch import launch, sharing, work
from pipelines.stage import WORKER, Stage, first, lock_of, main, write_json
from pipelines.trainer import TRIAL, discard, parents_of, provenance_of
from pipelines.trials import Search, read_search, run_trials

log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Search a run's ranges and write the choice and the trials."""
    search = read_search(stage)
    if search is None:
        if first():
            _write(stage, {}, {"trials": []})
        return
    with stage.scratch(search.key, alone=DATABASE not in os.environ):
        _search(stage, search)


def _search(stage: Stage, search: Search) -> None:
    """Search in scratch, by this process or its workers, and write what came of it."""
    name = search.journal.name
    if search.mirror and not search.journal.exists() and search.mirror.names(name):
        search.mirror.fetch(name, search.journal)
    if stage.runtime.search_workers > 1:
        with contextlib.closing(search.study(stage)) as study:  # refused before workers start
            work(stage, search.mirror_journal, lambda: study.complete)
            _conclude(stage, search, study)
        return
    with sharing(stage) as device:
        if not first():
            run_trials(stage, search, None, device)
            return
        with contextlib.closing(search.study(stage)) as study:
            run_trials(stage, search, study, device)
            _conclude(stage, search, study)


def begin(stage: Stage) -> bool:
    """Be a worker of a search, or start the processes that train together, if asked for."""
    if WORKER not in os.environ:
        return launch(stage)
    if search := read_search(stage):
        with sharing(stage) as device, contextlib.closing(search.study(stage)) as study:
            run_trials(stage, search, study, device)
    return True


def _conclude(stage: Stage, search: Search, study: Study) -> None:
    """Write what was chosen, and leave the best training to fine-tuning where it is the same."""
    ended = study.ended
    try:
        best = best_of(ended, search.start)
    except ValueError:
        discard(stage, search.folder)  # what was amiss may be mended: the next search starts anew
        raise
    summary = evidence(ended, search.start, search.kind.primary, study.repeatable)
    _write(stage, best.params, {"evidence": summary, "trials": rows(ended, search.start)})
    log.info("chosen: %s (%s)", json.dumps(best.params), _format(summary))
    stage.record |= {"trials": len(ended), "search": summary}
    folder = search.folder / place_of(best)
    if search.config.epochs == search.settings.epochs and (folder / TRIAL).exists():
        config = choose(search.config, best.params)
        parents = parents_of(config, search.init)
        _, key = provenance_of(stage, config, config.dataset, **parents)
        scratch = stage.scratch_of(f"finetune@{stage.key}", key)
        # Another clone may fine-tune there just now, and another machine have taken it away.
        with contextlib.suppress(Locked, FileNotFoundError), lock(lock_of(scratch)):
            shutil.rmtree(scratch, ignore_errors=True)
            folder.rename(scratch)
            lock_of(scratch).unlink()
    discard(stage, search.folder)


def _format(summary: Mapping[str, Any]) -> str:
    value, began = summary["value"], summary["start"]
    than = f"{began:.2f} at the start" if began is not None else "the start failed"
    if summary["chosen"]["start"]:
        than = "the start, nothing is better"
    return f"{summary['metric']} {value:.2f}, {than}; the best five span {summary['spread']:.2f}"


def _write(stage: Stage, choice: Mapping[str, float], trials: Mapping[str, Any]) -> None:
    target = stage.layout.search(stage.key)
    write_json(target / "choice.json", dict(choice))
    write_json(target / "trials.json", trials)
    stage.made(target / "choice.json", target / "trials.json")


if __name__ == "__main__":
    main(run, begin)
