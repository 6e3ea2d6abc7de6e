"""``albef accept FILE`` and ``albef data accept NAME``: accept code edits or data as the reference.

Accept an edit of code if you know that it changes no artifact. ``albef run`` itself accepts edits
of comments only. dvc.lock gets the new hash for every stage that depends on the file, if nothing
but code differs there. ``dvc commit`` would also accept a changed value, without reporting it.
"""

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from albef import run_record
from albef.config import ParamsError, did_you_mean, read_yaml
from albef.data.shards import describe
from albef.io import read_json, write_atomic, write_json
from albef.layout import PARAMS
from albef.validation.drift import accepted_suite
from flows import graph, run_lock, values

PROFILES = Path("profiles")
log = logging.getLogger("albef")


@dataclass(frozen=True)
class Verdict:
    """Outcome for one stage: the accepted edits, or the other differences that prevent it."""

    stage: str
    refused: tuple[str, ...]
    edits: tuple[graph.Edit, ...]


def accept_files(files: Sequence[Path]) -> int:
    """Accept edits and print them; return exit code 1 if a stage refused."""
    with run_lock.acquire():
        verdicts = accept([file.as_posix() for file in files])
    for verdict in verdicts:
        if verdict.refused:
            print(f"{verdict.stage}: refused, since it also differs in:", file=sys.stderr)
            print("\n".join(f"  {reason}" for reason in verdict.refused), file=sys.stderr)
        else:
            print(f"{verdict.stage}: accepted {', '.join(edit.path for edit in verdict.edits)}")
    return int(any(verdict.refused for verdict in verdicts))


def accept(paths: Sequence[str]) -> list[Verdict]:
    """Accept edits of files, or of all files in folders, for every stage that depends on them.

    Raises:
        ParamsError: no path is edited code of a stage. The message lists the edited files.
    """
    with _stages() as (stages, producers):
        verdicts = [*filter(None, (_judge(stage, producers, paths) for stage in stages))]
        if not verdicts:
            changed = (graph.code_edits(stage, producers).values() for stage in stages)
            edits = {edit.path for found in changed for edits in found for edit in edits}
            raise ParamsError(
                f"{', '.join(paths)}: no code that was edited since a stage ran with it; "
                f"edited: {', '.join(sorted(edits)) or 'none'}"
            )
    return verdicts


def accept_comments(nodes: Mapping[str, graph.Node]) -> None:
    """Accept edits of comments, docstrings and blank lines only, and log them in one line."""
    edited = {name: node.comments for name, node in nodes.items() if node.comments}
    if not edited:
        return
    with _stages() as (stages, producers):
        judged = [_judge(s, producers, edited[s.name]) for s in stages if s.name in edited]
    verdicts = [verdict for verdict in judged if verdict and not verdict.refused]
    if verdicts:
        paths = dict.fromkeys(edit.path for verdict in verdicts for edit in verdict.edits)
        names = ", ".join(verdict.stage for verdict in verdicts)
        log.info("only comments changed in %s: accepted for %s", ", ".join(paths), names)


@contextlib.contextmanager
def _stages() -> Iterator[tuple[list[Any], dict[str, str]]]:
    """Yield the stages of dvc.yaml and the producer of each artifact, while holding DVC's lock."""
    try:
        with Repo(".", _wait_for_lock=True) as repo, repo.lock:
            stages = [stage for stage in repo.index.stages if hasattr(stage, "name")]
            yield stages, graph.producers_of(stages)
    except DvcException as error:
        raise ParamsError(str(error)) from None


def _contains(folder: str, path: str) -> bool:
    return Path(path).is_relative_to(folder)


def _judge(stage: Any, producers: Mapping[str, str], paths: Sequence[str]) -> Verdict | None:
    """Accept the edits for a stage if nothing else differs; return None if it has none of them."""
    if (entry := graph.locked().get(stage.name)) is None:
        return None
    edited = graph.code_edits(stage, producers)
    pairs = [(edit, path) for edits in edited.values() for edit in edits for path in paths]
    if not any(_contains(path, edit.path) or _contains(edit.path, path) for edit, path in pairs):
        return None
    accepted = tuple(dict.fromkeys(edit for edit, path in pairs if _contains(path, edit.path)))
    accepted_reasons = set(map(str, accepted))
    reasons = graph.reasons_of(stage, entry, producers, edited)
    if refused := tuple(reason for reason in reasons if reason not in accepted_reasons):
        return Verdict(stage.name, refused, ())
    for dep, edits in edited.items():
        if edits:
            dep.save()
    with contextlib.redirect_stdout(io.StringIO()):  # DVC prints a message for each write.
        stage.dump(update_pipeline=False)
    # The run cache then still matches after the code is changed and changed back.
    stage.repo.stage_cache.save(stage)
    _note(stage.name, accepted)
    return Verdict(stage.name, (), accepted)


def _note(stage: str, edits: Iterable[graph.Edit]) -> None:
    """Write the hashes of the accepted code to the stage's run record."""
    path = values.layout().record(stage)
    if path.is_file():
        record = json.loads(path.read_text())
        code = {**record.get("code", {}), **{edit.path: edit.after for edit in edits}}
        record["code"] = {name: md5 for name, md5 in code.items() if md5 is not None}
        record["code_digest"] = graph.code_digest(stage)
        write_json(path, record)
        run_record.keep(path)


def accept_data(name: str) -> str:
    """Write the profile of a dataset as a suite and return a message about it.

    The file is the one that params.yaml names for the dataset. If params.yaml names none, it is a
    new file below :data:`PROFILES`, and params.yaml names it from then on.

    Raises:
        ParamsError: the dataset is unknown, or its profile is missing or belongs to other data.
        ShardError: the dataset is missing.
    """
    params = read_yaml(PARAMS)
    datasets = params.get("datasets") or {}
    if name not in datasets:
        raise ParamsError(f"{PARAMS} has no data set {name}{did_you_mean(name, datasets)}")
    current = ((params.get("validate") or {}).get("accepted") or {}).get(name)
    profile = _read_profile(name)
    file = Path(current or PROFILES / f"{name}.json")
    if current is None and file.exists():
        raise ParamsError(
            f"{file} is there already, and {PARAMS} does not name it: it may be of another data "
            f"set {name}; delete it, or name it in validate.accepted"
        )
    text = accepted_suite(profile)
    write_atomic(file, text)
    if current is None:
        values.override(PARAMS, [f"validate.accepted.{name}={file.as_posix()}"])
    return (
        f"{file} holds {len(json.loads(text)['expectations'])} expectations of {name}; commit it "
        f"with {PARAMS}. validate@{name} holds every later version against it."
    )


def _read_profile(name: str) -> dict[str, Any]:
    """Return the profile of a dataset after checking that it belongs to the current data."""
    layout = values.layout()
    path = layout.validation(name) / "profile.json"
    remedy = f"run `albef run --only validate@{name}`, whatever it says, and accept it then"
    digest = describe(layout.data(name))["digest"]
    profile: dict[str, Any] | None = read_json(path)
    if profile is None:
        raise ParamsError(f"{path} is missing: {remedy}")
    if profile["digest"] != digest:
        raise ParamsError(f"{path} is the profile of an earlier version of {name}: {remedy}")
    return profile
