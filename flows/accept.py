"""``albef accept FILE``: nobody retrains a week for a comment.

An edit of code that is known to change no product is taken as it is: dvc.lock gets the file's new
hash for every stage that depends on it, if code is all that differs there, and nothing else.
``dvc commit`` would also swallow a changed value, without a word.
"""

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.serialize import to_single_stage_lockfile

from albef.config import ParamsError, nearest
from albef.layout import PARAMS
from flows import graph, values
from flows import run_lock as lease


@dataclass(frozen=True)
class Verdict:
    """What was done for one stage.

    Attributes:
        stage: its name.
        refused: what else differs there; empty if the edit was taken.
        edits: old and new hash of each file taken; the old one is None for a new dependency.
    """

    stage: str
    refused: tuple[str, ...]
    edits: Mapping[str, tuple[str | None, str]]


def main(files: Sequence[Path]) -> int:
    """Take edits, and say so; exit code 1 if a stage refused."""
    with lease.hold():
        verdicts = accept([file.as_posix() for file in files])
    for verdict in verdicts:
        if verdict.refused:
            print(f"{verdict.stage}: refused, since it also differs in:", file=sys.stderr)
            for reason in verdict.refused:
                print(f"  {reason}", file=sys.stderr)
        else:
            print(f"{verdict.stage}: accepted {', '.join(verdict.edits)}")
    return int(any(verdict.refused for verdict in verdicts))


def accept(files: list[str]) -> list[Verdict]:
    """Take the edits of ``files`` for every stage that depends on one of them.

    Raises:
        ParamsError: a file is no code of any stage, or none of them was edited.
    """
    try:
        with Repo(".") as repo, repo.lock:
            verdicts = _accept(repo, files)
    except DvcException as error:
        raise ParamsError(str(error)) from None
    taken = [verdict for verdict in verdicts if not verdict.refused]
    if taken:
        _record(taken)
    return verdicts


def _accept(repo: Any, files: list[str]) -> list[Verdict]:
    stages = [stage for stage in repo.index.stages if hasattr(stage, "name")]
    _refuse_strangers(stages, files)
    lock = graph.locked()
    producers = graph.producers_of(stages)
    verdicts = []
    for stage in stages:
        code = [dep for dep in stage.deps if str(dep) in files and dep.status()]
        if stage.name not in lock or not code:
            continue
        said = {f"{dep} {word}" for dep in code for word in ("changed", "is a new dependency")}
        reasons = graph.why(stage, lock[stage.name], producers)
        others = tuple(reason for reason in reasons if reason not in said)
        edits: dict[str, tuple[str | None, str]] = {}
        if not others:
            for dep in code:
                old = dep.hash_info.value if dep.hash_info else None
                dep.save()
                edits[str(dep)] = (old, dep.hash_info.value)
            _write(stage, lock[stage.name], set(edits))
            repo.stage_cache.save(stage)  # so that it also holds after a change and back
        verdicts.append(Verdict(stage.name, others, edits))
    if not verdicts:
        raise ParamsError(f"{', '.join(files)}: not edited since the stages that use it ran")
    return verdicts


def _refuse_strangers(stages: list[Any], files: list[str]) -> None:
    """Refuse what is not code of a stage."""
    products = graph.producers_of(stages)
    inputs = {
        str(dep) for stage in stages for dep in stage.deps if not isinstance(dep, ParamsDependency)
    }
    code = {name for name in inputs if name not in products and Path(name).suffix == ".py"}
    for name in files:
        if name in code:
            if not Path(name).exists():
                raise ParamsError(f"{name} does not exist")
            continue
        if name in products:
            raise ParamsError(f"{name} is a product of {products[name]}, not code")
        if name == str(PARAMS):
            raise ParamsError(f"{name} holds values, and those change products; only code can be")
        near = nearest(name, sorted(code))
        raise ParamsError(
            f"{name} is no code that a stage depends on"
            + (f"; did you mean {near}?" if near else "")
        )


def _write(stage: Any, before: Mapping[str, Any], edited: set[str]) -> None:
    """Write a stage's entry in dvc.lock, once it differs in the hash of ``edited`` alone."""
    after = to_single_stage_lockfile(stage)

    def rest(entry: Mapping[str, Any]) -> Any:
        plain = json.loads(json.dumps(entry))
        plain["deps"] = sorted(
            (dep for dep in plain.get("deps", []) if dep["path"] not in edited),
            key=lambda dep: str(dep["path"]),
        )
        return plain

    if rest(before) != rest(after):
        raise ParamsError(f"{stage.name}: its entry in dvc.lock is not of this dvc.yaml; run it")
    with contextlib.redirect_stdout(io.StringIO()):  # DVC announces each write
        stage.dump(update_pipeline=False)


def _record(taken: list[Verdict]) -> None:
    """Append what was taken to the run records, a line for each file."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    path = values.layout().root / "runs" / "accepted.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    edits = {(name, edit) for verdict in taken for name, edit in verdict.edits.items()}
    with path.open("a") as file:
        for name, (old, new) in sorted(edits, key=str):
            entry = {
                "file": name,
                "old": old,
                "new": new,
                "stages": [v.stage for v in taken if v.edits.get(name) == (old, new)],
                "git": git.stdout.strip() or None,
                "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            file.write(json.dumps(entry) + "\n")
