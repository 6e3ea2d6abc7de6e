"""``albef accept FILE`` and ``albef data accept NAME``: accept code edits or data as the reference.

dvc.lock gets the new hash of an accepted file for every stage that depends on it, if nothing but
code differs there. ``dvc commit`` would silently accept a changed value too. Code of metrics is
accepted for trainings only, because evaluation writes a metric that was added.
"""

import contextlib
import io
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from albef.config import ParamsError, did_you_mean, read_yaml
from albef.io import read_json, write_json
from albef.layout import PARAMS, PROFILES
from flows import graph, run_lock, values

METRICS = ("albef/metrics", "albef/tasks/rates.py", "albef/tasks/vqa_accuracy.py")
"""Code whose edits are accepted for trainings only: other stages must compute metrics again."""
_TRAININGS = ("pretrain", "search", "finetune")
log = logging.getLogger("albef")


@dataclass(frozen=True)
class Verdict:
    """Outcome for one stage: the accepted edits, or the other differences for a refusal."""

    stage: str
    refused: tuple[str, ...]
    edits: tuple[graph.Edit, ...]


def accept_files(files: Sequence[Path]) -> int:
    """Accept edits and print them; return exit code 1 if a stage refused."""
    read_yaml(PARAMS)  # DVC's error of a damaged file names dvc.yaml.
    with run_lock.acquire():
        verdicts = accept([file.as_posix() for file in files])
    for verdict in verdicts:
        if verdict.refused:
            reasons = "".join(f"\n  {reason}" for reason in verdict.refused)
            print(f"{verdict.stage}: refused, because it also differs:{reasons}", file=sys.stderr)
        else:
            print(f"{verdict.stage}: accepted {', '.join(edit.path for edit in verdict.edits)}")
    return int(any(verdict.refused for verdict in verdicts))


def accept(paths: Sequence[str]) -> list[Verdict]:
    """Accept edits of files, or of all files in folders, for every stage that depends on them.

    Raises:
        ParamsError: no path is edited code of a stage. The message lists the edited files.
    """
    with _stages() as (stages, producers):
        lock = graph.locked()
        judged = [_judge(stage, lock.get(stage.name), producers, paths) for stage in stages]
        verdicts = [verdict for verdict in judged if verdict]
        if not verdicts:
            changed = (graph.code_edits(stage, producers).values() for stage in stages)
            edits = {edit.path for found in changed for edits in found for edit in edits}
            raise ParamsError(
                f"{', '.join(paths)}: no stage ran with an earlier version of this code; "
                f"edited code: {', '.join(sorted(edits)) or 'none'}"
            )
    return verdicts


def accept_harmless(nodes: Mapping[str, graph.Node]) -> None:
    """Accept edits that change no artifact, and log them in one line; see :class:`graph.Edit`."""
    edited = {name: node.harmless for name, node in nodes.items() if node.harmless}
    if not edited:
        return
    with _stages() as (stages, producers):
        lock = graph.locked()
        judged = [
            _judge(stage, lock.get(stage.name), producers, edited[stage.name])
            for stage in stages
            if stage.name in edited
        ]
    verdicts = [verdict for verdict in judged if verdict and verdict.edits]
    if verdicts:
        paths = dict.fromkeys(edit.path for verdict in verdicts for edit in verdict.edits)
        names = ", ".join(verdict.stage for verdict in verdicts)
        log.info("%s changed without effect: accepted for %s", ", ".join(paths), names)


@contextlib.contextmanager
def _stages() -> Iterator[tuple[list[Any], dict[str, str]]]:
    """Yield the stages of dvc.yaml and the producer of each artifact, while holding DVC's lock."""
    try:
        with Repo(".", _wait_for_lock=True) as repo, repo.lock:
            stages = [stage for stage in repo.index.stages if hasattr(stage, "name")]
            yield stages, graph.producers_of(stages)
    except DvcException as error:
        raise ParamsError(graph.one_line(error)) from None


def _judge(
    stage: Any, entry: Any, producers: Mapping[str, str], paths: Sequence[str]
) -> Verdict | None:
    """Accept the edits for a stage if nothing else differs; return None if it has none of them.

    ``entry`` is that of the stage in dvc.lock, or None.
    """
    if entry is None:
        return None
    edited = graph.code_edits(stage, producers)
    edits = [edit for found in edited.values() for edit in found]
    if not any(graph.overlap(edit.path, path) for edit in edits for path in paths):
        return None
    accepted = tuple(e for e in edits if any(Path(e.path).is_relative_to(path) for path in paths))
    reasons = graph.reasons_of(stage, entry, producers, edited)
    refused = [reason for reason in reasons if reason not in map(str, accepted)]
    refused += [
        f"{edit.path} computes metrics; run the stage, since only this writes a new or changed one"
        for edit in accepted
        if stage.name.partition("@")[0] not in _TRAININGS
        and any(Path(edit.path).is_relative_to(path) for path in METRICS)
        and not edit.harmless
    ]
    if refused:
        return Verdict(stage.name, tuple(refused), ())
    for dep, found in edited.items():
        if found:
            dep.save()
    with contextlib.redirect_stdout(io.StringIO()):  # DVC prints a message for each write.
        stage.dump(update_pipeline=False)
    # The run cache then still matches after the code is changed and changed back.
    stage.repo.stage_cache.save(stage)
    _update_record(stage.name, accepted)
    return Verdict(stage.name, (), accepted)


def _update_record(stage: str, edits: Iterable[graph.Edit]) -> None:
    path = values.layout().record(stage)
    if record := read_json(path):
        code = {**record.get("code", {}), **{edit.path: edit.after for edit in edits}}
        record["code"] = {name: md5 for name, md5 in code.items() if md5 is not None}
        record["code_digest"] = graph.code_digest(stage)
        write_json(path, record)


def accept_data(name: str) -> str:
    """Accept the profile of a dataset as the reference and return a message about it.

    If params.yaml names no accepted profile of the dataset, it is a new file below
    :data:`PROFILES`, and params.yaml names it from then on.

    Raises:
        ParamsError: the dataset is unknown, or its profile is missing or belongs to other data.
        ShardError: the dataset is missing.
    """
    from albef.data.shards import describe  # Imports pyarrow.

    params, layout = read_yaml(PARAMS), values.layout()
    datasets = params.get("datasets") or {}
    if name not in datasets:
        raise ParamsError(f"{PARAMS} has no dataset {name}{did_you_mean(name, datasets)}")
    profile_path = layout.validation(name) / "profile.json"
    digest, profile = describe(layout.data(name))["digest"], read_json(profile_path)
    if profile is None or profile["digest"] != digest:
        problem = "is missing" if profile is None else f"describes an earlier version of {name}"
        raise ParamsError(f"{profile_path} {problem}; run `albef run --only validate@{name}` first")
    current = ((params.get("validate") or {}).get("accepted") or {}).get(name)
    accepted_path = Path(current or PROFILES / f"{name}.json")
    if current is None and accepted_path.exists():
        raise ParamsError(
            f"{accepted_path} exists, but {PARAMS} does not name it; delete it, or name it in "
            "validate.accepted"
        )
    write_json(accepted_path, profile)
    if current is None:
        values.override(PARAMS, [f"validate.accepted.{name}={accepted_path.as_posix()}"])
    refused = "" if layout.verdict(name).exists() else f" It refused this version of {name}."
    return (
        f"wrote the profile of {name} to {accepted_path}; commit it with {PARAMS}. "
        f"validate@{name} compares every later version with it.{refused}"
    )
