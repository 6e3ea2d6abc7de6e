"""DVC's graph as it stands: what depends on what, what is stale, and why.

The graph has one home, dvc.yaml; nothing here runs a stage or writes a file.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import load_yaml

from albef.config import ParamsError, nearest, read_yaml
from albef.layout import PARAMS

LOCK = Path("dvc.lock")
PRETRAIN, PRETRAINED = "pretrain", "pretrained"
"""The stage of pre-training and the checkpoint that it makes."""


@dataclass(frozen=True)
class Node:
    """A stage.

    Attributes:
        name: as DVC calls it, ``NAME`` or ``NAME@KEY``.
        upstream: stages whose products it reads.
        outs: its products, from the root of the project.
        reasons: why it is stale by itself; empty if it is not.
        waits: stale stages above it, which will run before it is known whether it must.
        running: the process that runs it now, or None.
        needed: false for pre-training that no run starts from; it runs only when forced.
    """

    name: str
    upstream: tuple[str, ...]
    outs: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    running: int | None = None
    needed: bool = True

    @property
    def stale(self) -> bool:
        """Whether a run has anything to do for it."""
        return bool(self.reasons or self.waits)


def read() -> dict[str, Node]:
    """All stages by name, each after those that it depends on.

    Raises:
        ParamsError: dvc.yaml, dvc.lock or params.yaml cannot be read.
    """
    try:
        with Repo(".") as repo:
            return nodes(repo)
    except DvcException as error:
        raise ParamsError(" ".join(str(error.__cause__ or error).split())) from None


def nodes(repo: Any) -> dict[str, Node]:
    """All stages of an open repository, as :func:`read`."""
    graph = repo.index.graph
    order = {stage: place for place, stage in enumerate(repo.index.stages)}
    lock = locked()
    busy = _busy(Path(repo.tmp_dir), Path(repo.root_dir))
    producers = producers_of(order)
    starts = _starts()
    found: dict[str, Node] = {}
    for stage in _sorted(graph, order):
        if not hasattr(stage, "name"):  # a .dvc file: data that no stage makes
            continue
        upstream = sorted(
            (above for above in graph.successors(stage) if hasattr(above, "name")),
            key=order.__getitem__,
        )
        node = Node(
            stage.name,
            tuple(above.name for above in upstream),
            tuple(str(out) for out in stage.outs),
        )
        node = replace(node, running=next((busy[out] for out in node.outs if out in busy), None))
        if node.name == PRETRAIN and PRETRAINED not in starts:
            found[stage.name] = replace(node, needed=False)
            continue
        waits = tuple(n for n in node.upstream if found[n].stale or found[n].running)
        if node.running is None:
            node = replace(node, reasons=tuple(why(stage, lock.get(stage.name), producers, waits)))
        found[stage.name] = replace(node, waits=waits)
    return found


def _starts() -> set[str]:
    """What the runs start from, as params.yaml says it."""
    tasks = read_yaml(PARAMS).get("tasks")
    runs = tasks.values() if isinstance(tasks, Mapping) else ()
    inits = [str(run.get("init")) for run in runs if isinstance(run, Mapping)]
    return {init.partition("/epochs/")[0] for init in inits}


def _sorted(graph: Any, order: Mapping[Any, int]) -> list[Any]:
    """Stages after those that they depend on, else as in dvc.yaml."""
    done: list[Any] = []

    def visit(stage: Any) -> None:
        if stage not in done:
            for above in sorted(graph.successors(stage), key=order.__getitem__):
                visit(above)
            done.append(stage)

    for stage in order:
        visit(stage)
    return done


def locked() -> dict[str, Any]:
    """The entries of dvc.lock by stage; none before the first run."""
    return dict(load_yaml(LOCK).get("stages", {})) if LOCK.exists() else {}


def _busy(tmp: Path, root: Path) -> dict[str, int]:
    """Products that a living DVC process is about to write, and that process."""
    try:
        writers = json.loads((tmp / "rwlock").read_text()).get("write", {})
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    found = {}
    for path, info in writers.items():
        if alive(info["pid"]) and Path(path).is_relative_to(root):
            found[str(Path(path).relative_to(root))] = info["pid"]
    return found


def alive(pid: int) -> bool:
    """Whether a process exists and is more than a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def producers_of(stages: Iterable[Any]) -> dict[str, str]:
    """The stage that makes each product."""
    return {
        str(out): stage.name for stage in stages for out in stage.outs if hasattr(stage, "name")
    }


def why(
    stage: Any,
    entry: Mapping[str, Any] | None,
    producers: Mapping[str, str],
    waits: Collection[str] = (),
) -> Iterator[str]:
    """Why a stage's command, values, code, data or products differ from its last run.

    Args:
        stage: DVC's stage.
        entry: what dvc.lock says of it.
        producers: the stage that makes each product.
        waits: stages whose products are not looked at, since they will be made anew.
    """
    if entry is None:
        yield "never run"
        return
    if stage.cmd_changed:
        yield "its command changed"
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            yield from _value_reasons(dep)
            continue
        state = dep.status().get(str(dep))
        if not state:
            continue
        producer = producers.get(str(dep))
        if producer is None:
            yield f"{dep} {_STATES.get(state, state)}"
        elif producer not in waits:  # else that stage's turn comes first
            yield f"{dep} of {producer} {_STATES.get(state, state)}"
    yield from _product_reasons(stage)


_STATES = {
    "modified": "changed",
    "deleted": "is missing",
    "new": "is a new dependency",
    "not in cache": "is not in the cache",
}


def elsewhere(reason: str) -> bool:
    """Whether a reason of :func:`why` says no more than that something is not on this machine."""
    return any(_STATES[state] in reason for state in ("deleted", "not in cache"))


def _value_reasons(dep: Any) -> Iterator[str]:
    old = dep.hash_info.value or {}
    new = dep.read_params()
    for key in dep.params:
        before, after = dict(_leaves(key, old.get(key))), dict(_leaves(key, new.get(key)))
        for leaf in [*before, *(leaf for leaf in after if leaf not in before)]:
            if leaf not in after:
                yield f"{leaf} is gone (was {_show(before[leaf])})"
            elif leaf not in before:
                yield f"{leaf} is new: {_show(after[leaf])}"
            elif before[leaf] != after[leaf] or type(before[leaf]) is not type(after[leaf]):
                yield f"{leaf} {_show(before[leaf])} -> {_show(after[leaf])}"


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    elif value is not None or "." in key:
        yield key, value


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _product_reasons(stage: Any) -> Iterator[str]:
    """Which products are not as they were made."""
    for out in stage.outs:
        state = out.status().get(str(out))
        if state:
            words = {"modified": "was changed by hand", "deleted": "is missing"}
            kept = out.use_cache and not out.changed_cache()
            yield f"{out} {words.get(state, _STATES.get(state, state))}" + (
                "; DVC's cache has it" if kept else ""
            )


def choose(nodes: Mapping[str, Node], names: Iterable[str], option: str) -> list[str]:
    """Stages by name; the name before an ``@`` stands for all of its keys.

    Raises:
        ParamsError: no such stage; the error names the nearest one.
    """
    chosen = []
    for name in names:
        found = [node for node in nodes if name in (node, node.partition("@")[0])]
        if not found:
            known = [*nodes, *{node.partition("@")[0] for node in nodes}]
            near = nearest(name, known)
            raise ParamsError(
                f"{option}: there is no stage {name}"
                + (f"; did you mean {near}?" if near else f"; there are {', '.join(nodes)}")
            )
        chosen += found
    return list(dict.fromkeys(chosen))
