"""State of DVC's graph: what depends on what, which stages are stale, and why.

The graph is defined in dvc.yaml only. This module runs no stage and writes no file.
"""

import copy
import functools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import dpath
import networkx as nx
from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.fs import LocalFileSystem
from dvc.repo import Repo
from dvc.utils.serialize import ParseError, load_yaml
from dvc.utils.strictyaml import YAMLValidationError
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree

from albef import run_record
from albef.config import ParamsError, did_you_mean, flatten, read_yaml
from albef.io import message_of
from albef.layout import PARAMS
from flows import run_lock, values

DVC, LOCK = Path("dvc.yaml"), Path("dvc.lock")
FAILED = Path(".dvc/tmp/albef-failed")
"""Folder with a file for each stage whose last run failed; it holds the error message."""
UNRECORDED = f"its artifacts exist, but {LOCK} has no entry"
"""Reason why a stage is stale if dvc.lock was cut off between two entries."""
PRETRAIN, PRETRAINED = "pretrain", "pretrained"
"""Stage of pre-training and the name of its checkpoint."""
_STATES = {
    "modified": "changed",
    "deleted": "is missing",
    "new": "is a new dependency",
    "not in cache": "is not in the cache",
    "added": "is new",
    "removed": "is gone",
    "folder": "changed (the run record does not list its files)",
}
"""Descriptions of DVC's states of a dependency, and of those of a file in one."""


@dataclass(frozen=True)
class Node:
    """A stage.

    Attributes:
        name: DVC's name of the stage, ``NAME`` or ``NAME@KEY``.
        upstream: stages whose artifacts it reads.
        outs: its artifacts, relative to the root of the project.
        reasons: reasons why it is stale by itself.
        waits: stale stages above it. Until they have run, it is unknown whether it must run.
        missing_from: stages above it whose artifacts it needs and that are missing locally.
        failure: error message of its last run if that failed, or "".
        running: id of the process that currently runs it, or None.
        needed: false for pre-training that no run starts from; it runs only when forced.
        harmless: edited files of its code that change no artifact; see :class:`Edit`.
    """

    name: str
    upstream: tuple[str, ...]
    outs: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    missing_from: tuple[str, ...] = ()
    failure: str = ""
    running: int | None = None
    needed: bool = True
    harmless: tuple[str, ...] = ()

    @property
    def stale(self) -> bool:
        """Return whether a run has work for the stage: it is stale, or waits for a stale one."""
        return bool(self.reasons or self.waits)


class Edit(NamedTuple):
    """A code file that differs from the one a stage ran, or a folder if its files are not known.

    ``before`` and ``after`` are DVC's hashes, None without a file. ``state`` is a key of
    :data:`_STATES`. An edit is ``harmless`` if it changes only comments, docstrings or blank lines,
    or a file that the stage's kind does not use.
    """

    path: str
    before: str | None
    after: str | None
    state: str
    harmless: bool = False

    def __str__(self) -> str:
        return f"{self.path} {_STATES.get(self.state, self.state)}"


class _OtherValues(LocalFileSystem):  # type: ignore[misc]
    """Local file system in which another file replaces params.yaml."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def open(self, path: Any, mode: str = "r", **options: Any) -> Any:
        is_params = Path(path).resolve() == PARAMS.resolve()
        return super().open(str(self._file) if is_params else path, mode, **options)


# DVC checks only a part of dvc.lock.
_UNREADABLE = DvcException, AttributeError, KeyError, TypeError


def read(params: Path = PARAMS) -> dict[str, Node]:
    """Return all stages by name in the order of the graph, compared with the values of a file.

    Raises:
        ParamsError: dvc.yaml, dvc.lock or params.yaml cannot be read.
    """
    try:
        with Repo(".", fs=_OtherValues(params), _wait_for_lock=True) as repo:
            try:
                return _nodes(repo, params)
            except (*_UNREADABLE, ParamsError):  # DVC may be writing dvc.lock, under its lock.
                with repo.lock, Repo(".", fs=repo.fs) as again:
                    return _nodes(again, params)
    except DvcException as error:
        raise ParamsError(one_line(error)) from None
    except _UNREADABLE as error:
        raise ParamsError(f"{LOCK} is damaged; run `git checkout {LOCK}`") from error


def one_line(error: BaseException) -> str:
    """Return DVC's message of an error without line breaks."""
    text = " ".join(message_of(error.__cause__ or error).split())
    if not isinstance(error, ParseError | YAMLValidationError):
        return text
    path = Path(os.path.relpath(error.path))
    remedy = f"; if it was cut off, run `git checkout {path}`"
    if path.is_file() and "<<<<<<< " in path.read_text():
        remedy = "; resolve its git conflict"
    return f"{path} is not valid: {text}{remedy}"


def _nodes(repo: Any, params: Path) -> dict[str, Node]:
    graph = repo.index.graph
    order = {stage: index for index, stage in enumerate(repo.index.stages)}
    lock, producers, starts = locked(), producers_of(order), _initial_checkpoints(params)
    busy = _writing(Path(repo.root_dir))
    nodes: dict[str, Node] = {}
    for stage in nx.lexicographical_topological_sort(graph.reverse(copy=False), order.get):
        if not hasattr(stage, "name"):  # A .dvc file tracks data that no stage makes.
            continue
        above = sorted(graph.successors(stage), key=order.__getitem__)
        upstream = tuple(other.name for other in above if hasattr(other, "name"))
        outs = tuple(str(out) for out in stage.outs)
        running = next((busy[out] for out in outs if out in busy), None)
        if stage.name == PRETRAIN and PRETRAINED not in starts:
            nodes[stage.name] = Node(stage.name, upstream, outs, running=running, needed=False)
            continue
        waits = tuple(name for name in upstream if nodes[name].stale or nodes[name].running)
        entry, failure = lock.get(stage.name), FAILED / stage.name
        edits = code_edits(stage, producers) if entry is not None and not running else {}
        reasons = () if running else reasons_of(stage, entry, producers, edits, waits, params)
        harmless = (edit.path for found in edits.values() for edit in found if edit.harmless)
        nodes[stage.name] = Node(
            stage.name,
            upstream,
            outs,
            tuple(reasons),
            waits,
            missing_from=tuple(_producers_of_missing(stage, upstream, nodes)),
            failure=failure.read_text() if failure.is_file() else "",
            running=running,
            harmless=tuple(harmless),
        )
    return nodes


def _producers_of_missing(
    stage: Any, upstream: Iterable[str], nodes: Mapping[str, Node]
) -> Iterator[str]:
    inputs = (dep for dep in stage.deps if not isinstance(dep, ParamsDependency))
    absent = [str(dep) for dep in inputs if not dep.exists]
    for name in upstream:
        if any(overlap(out, dep) for out in nodes[name].outs for dep in absent):
            yield name


def overlap(one: str, other: str) -> bool:
    """Return whether one of two paths contains the other or both are equal."""
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)


def _initial_checkpoints(params: Path) -> set[str]:
    sections, models = read_yaml(params), values.layout(params).paths.models
    names = [str(run.get("init")) for run in (sections.get("tasks") or {}).values()]
    filtered = (sections.get("curate") or {}).values()
    names += [os.path.relpath(str(entry.get("by")), models) for entry in filtered]
    return {name.partition("/")[0] for name in names}


def locked() -> dict[str, Any]:
    """Return the entries of dvc.lock by stage; empty before the first run."""
    try:
        return dict(load_yaml(LOCK).get("stages", {})) if LOCK.exists() else {}
    except DvcException as error:
        raise ParamsError(one_line(error)) from None
    except (AttributeError, TypeError, ValueError):
        raise ParamsError(f"{LOCK} is damaged; run `git checkout {LOCK}`") from None


def _writing(root: Path) -> dict[str, int]:
    """Return the artifacts that live DVC processes are about to write, with the process ids."""
    try:
        writers = json.loads(run_lock.RWLOCK.read_text()).get("write", {})
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    pids = {os.path.relpath(path, root): info["pid"] for path, info in writers.items()}
    return {path: pid for path, pid in pids.items() if run_lock.is_dvc(pid)}


def producers_of(stages: Iterable[Any]) -> dict[str, str]:
    """Return the name of the stage that makes each artifact."""
    named = [stage for stage in stages if hasattr(stage, "name")]
    return {str(out): stage.name for stage in named for out in stage.outs}


def reasons_of(
    stage: Any,
    entry: Mapping[str, Any] | None,
    producers: Mapping[str, str],
    edits: Mapping[Any, Iterable[Edit]],
    waits: Collection[str] = (),
    params: Path = PARAMS,
) -> Iterator[str]:
    """Yield the reasons why a stage differs from its entry in dvc.lock.

    Args:
        stage: DVC's stage.
        entry: entry of the stage in dvc.lock; None if it never ran.
        producers: stage that makes each artifact.
        edits: result of :func:`code_edits`.
        waits: stages whose artifacts are not compared, because they will be made again.
        params: file with the values.
    """
    if entry is None:
        yield UNRECORDED if any(out.exists for out in stage.outs) else "never run"
        return
    if stage.cmd_changed:
        yield "its command changed"
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            yield from _value_reasons(dep, read_yaml(params))
        elif dep in edits:
            yield from (str(edit) for edit in edits[dep] if not edit.harmless)
        elif producers[str(dep)] not in waits and (state := dep.status().get(str(dep))):
            yield f"{dep} of {producers[str(dep)]} {_STATES.get(state, state)}"
    yield from _artifact_reasons(stage)


def code_edits(stage: Any, producers: Collection[str]) -> dict[Any, list[Edit]]:
    """Return the edits of code and other external inputs of a stage, by dependency."""
    read_record = functools.cache(lambda: run_record.read(values.layout().record(stage.name)))
    edits = {
        dep: _edits(dep, read_record)
        for dep in stage.deps
        if not isinstance(dep, ParamsDependency) and str(dep) not in producers
    }
    if not any(edits.values()):
        return edits
    used, record = _used_files(stage.name), read_record()
    is_same = record and record.code_digest and record.code_digest == run_record.code_digest(used)
    ran = record.code if record and is_same else {}

    def is_harmless(edit: Edit) -> bool:
        in_comments = edit.path.endswith(".py") and ran.get(edit.path, "") == edit.before
        return in_comments or run_record.is_unused(Path(edit.path), used)

    return {
        dep: [edit._replace(harmless=is_harmless(edit)) for edit in found]
        for dep, found in edits.items()
    }


def code_digest(stage: str) -> str:
    """Return the digest of the code that a stage uses, as it is now."""
    return run_record.code_digest(_used_files(stage))


def _used_files(stage: str) -> set[Path]:
    return run_record.used_files(read_yaml(DVC)["stages"], stage, read_yaml(PARAMS))


def _edits(dep: Any, read_record: Callable[[], run_record.RunRecord | None]) -> list[Edit]:
    """Return the edits of an external dependency since the stage ran.

    DVC has one hash for a folder. Those of its files come from a run record of the same version.
    """
    name, before = str(dep), dep.hash_info.value if dep.hash_info else None
    state = dep.status().get(name)
    if state is None:
        return []
    if not dep.exists:
        return [Edit(name, before, None, state)]
    now = copy.copy(dep)
    now.save()
    if not isinstance(now.obj, Tree):
        return [Edit(name, before, now.hash_info.value, state)]
    record, folder = read_record(), f"{name}/"
    code = record.code if record else {}
    ran = {path: md5 for path, md5 in code.items() if path.startswith(folder)}
    if _tree_hash(folder, ran) != before:
        return [Edit(name, before, now.hash_info.value, "folder" if before else state)]
    files = {folder + "/".join(key): info.value for key, _, info in now.obj}
    edits = []
    for path in sorted(path for path in ran | files if ran.get(path) != files.get(path)):
        state = "added" if path not in ran else "modified" if path in files else "removed"
        edits.append(Edit(path, ran.get(path), files.get(path), state))
    return edits


def _tree_hash(folder: str, files: Mapping[str, str]) -> str:
    """Return DVC's hash of a folder with these files, given by their MD5."""
    tree = Tree()
    for path, md5 in files.items():
        tree.add(tuple(path.removeprefix(folder).split("/")), None, HashInfo("md5", md5))
    tree.digest()
    return str(tree.hash_info.value)


def is_missing_locally(reason: str) -> bool:
    """Return whether a reason of :func:`reasons_of` only says that a file is missing locally."""
    said = reason.partition(";")[0]  # after it: whether DVC's cache has the file
    return said.endswith((_STATES["deleted"], _STATES["not in cache"]))


def outdated(nodes: Mapping[str, Node]) -> dict[str, str]:
    """Return the stages whose artifacts, if present, do not match values, data or code, and why."""
    reasons: dict[str, str] = {}
    causes: dict[str, str] = {}
    for name, node in nodes.items():
        own = [reason for reason in node.reasons if not is_missing_locally(reason)]
        own += ["is running"] if node.running else []
        if own:
            reasons[name], causes[name] = own[0], f"{name} is stale ({own[0]})"
        elif above := [other for other in node.upstream if other in causes]:
            reasons[name] = causes[name] = causes[above[0]]
    return reasons


def _value_reasons(dep: Any, sections: dict[str, Any]) -> Iterator[str]:
    # DVC would parse the file again for each stage.
    unset = object()
    found = {key: dpath.get(sections, key, ".", default=unset) for key in dep.params}
    current = {key: value for key, value in found.items() if value is not unset}
    before, after = (dict(flatten(it)) for it in (dep.hash_info.value or {}, current))
    for key in before | after:
        was, now = (repr(side[key]) if key in side else "unset" for side in (before, after))
        if was != now:
            yield f"{key} {was} -> {now}"


def _artifact_reasons(stage: Any) -> Iterator[str]:
    for out in stage.outs:
        if state := out.status().get(str(out)):
            text = "was changed by hand" if state == "modified" else _STATES.get(state, state)
            is_cached = out.use_cache and not out.changed_cache()
            yield f"{out} {text}" + ("; DVC's cache has the original" if is_cached else "")


def dependents(nodes: Mapping[str, Node]) -> dict[str, int]:
    """Return the number of stages that depend on each stage, directly or not."""
    graph = nx.DiGraph({name: node.upstream for name, node in nodes.items()})
    return {name: len(nx.ancestors(graph, name)) for name in nodes}


def select(
    nodes: Mapping[str, Node], only: Iterable[str], force: Iterable[str]
) -> tuple[set[str], set[str]]:
    """Return the stages that a run may start, and those of them that it starts even if fresh.

    The first ones are those of ``only`` and ``force`` with those that make their missing inputs,
    or all stages without ``only``.

    Raises:
        ParamsError: a stage does not exist. The message suggests the nearest name.
    """
    chosen, forced = _choose(nodes, only, "--only"), _choose(nodes, force, "--force")
    start = {*chosen, *forced} if chosen else nodes
    return with_above(start, {name: node.missing_from for name, node in nodes.items()}), set(forced)


def with_above(names: Iterable[str], above: Mapping[str, Iterable[str]]) -> set[str]:
    """Return stages with all stages above them, given those directly above each."""
    graph = nx.DiGraph(above)
    return {other for name in names for other in (name, *nx.descendants(graph, name))}


def _choose(nodes: Mapping[str, Node], names: Iterable[str], option: str) -> list[str]:
    """Return stages by name; NAME means every NAME@KEY."""
    chosen: dict[str, None] = {}
    for name in names:
        matches = [node for node in nodes if name in (node, node.partition("@")[0])]
        if not matches:
            known = dict.fromkeys(part for node in nodes for part in (node, node.partition("@")[0]))
            raise ParamsError(f"{option}: there is no stage {name}{did_you_mean(name, known)}")
        chosen |= dict.fromkeys(matches)
    return list(chosen)
