"""End-to-end flow. Its tasks and their order are read from DVC's graph.

``albef run`` starts it with ``python -m flows.train PARENT SERVER PARAMETERS``.
"""

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

from prefect import Task, flow, get_client, tags
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TagsContext
from prefect.futures import PrefectFuture
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from albef.config import ParamsError, read_yaml
from albef.layout import PARAMS, runtime
from flows import graph, remote, run_lock, stages, values
from flows.accept import accept_harmless
from flows.artifacts import emit, publish
from flows.process import exit_with_parent
from flows.results import show_progress
from flows.run import INTERRUPTED, check_recording, save_experiment
from flows.schedule import Schedule

log = logging.getLogger("albef")
TAG = "albef"
"""Tag of this project's flow runs, which automations match."""
INGEST, CHECK = "ingest", "validate"
SOURCES = ("heldout", INGEST)
"""Stages that read sources."""
THREADS: TaskRunner[Any] = ThreadPoolTaskRunner()
_fetch_runs = Task(remote.fetch_runs, name="fetch runs", cache_policy=NO_CACHE)
_push = Task(remote.push, name="push", cache_policy=NO_CACHE)
_first_read: list[Future[dict[str, graph.Node]]] = []
"""The graph that :func:`main` reads while the server starts."""


@flow(name="train", task_runner=THREADS, persist_result=False)
def train(
    only: list[str] | None = None,
    force: list[str] | None = None,
    refresh: Literal["data", "all"] | None = None,
    preset: str | None = None,
    overrides: list[str] | None = None,
    name: str | None = None,
) -> State:
    """Run the stages whose inputs have changed.

    Args:
        only: stages to run, and no others; ``NAME`` stands for every ``NAME@KEY``.
        force: stages to run even if nothing changed.
        refresh: read all sources again first, and stop if no dataset changes. Otherwise check the
            changed datasets (``data``) or bring everything up to date (``all``).
        preset: preset to write to params.yaml first.
        overrides: values to change in params.yaml first, each as ``KEY=VALUE``.
        name: name of the DVC experiment that records the run.
    """
    if refresh and (only or force):
        raise ParamsError("refresh selects the stages itself; remove only and force")
    if name:
        check_recording(name)
    with run_lock.acquire():
        stages.allow_starts()
        try:
            values.prepare(preset, overrides or ())
            state = _refresh(refresh) if refresh else _train(only or [], force or [])
            if name and state.is_completed() and (problem := save_experiment(name)):
                return Failed(message=problem)
            return state
        except BaseException:
            # The flow was cancelled, interrupted or failed. No stage may continue unnoticed.
            stages.stop_all()
            raise


def _refresh(scope: str) -> State:
    """Read the sources again and process what changed; see :func:`train`."""
    sources = [name for name in graph.read() if name.partition("@")[0] in SOURCES]
    before = _data_hashes()
    state = _train(sources, sources, push=False)
    if state.is_failed():
        return state
    changed = [name for name, md5 in _data_hashes().items() if md5 != before.get(name)]
    text = f"changed datasets: {', '.join(changed)}" if changed else "nothing changed"
    for name in changed:
        emit("data.changed", f"dataset.{name}")
    log.info(text)
    nodes = graph.read()
    checks = [name for name in nodes if name.partition("@")[0] == CHECK and nodes[name].stale]
    if not changed and not checks:  # Stale checks are those that were refused before.
        return Completed(message=text)
    state = _train([] if changed and scope == "all" else [*sources, *checks], [])
    if state.is_failed():
        return state
    log.info(state.message)
    return Completed(message=f"{text}. {state.message}")


def _data_hashes() -> dict[str, str]:
    layout, hashes = values.layout(), {}
    for stage, entry in graph.locked().items():
        kind, _, name = stage.partition("@")
        if kind == INGEST:
            outs = {out["path"]: str(out.get("md5")) for out in entry["outs"]}
            hashes[name] = outs.get(str(layout.data(name)), "")
    return hashes


def _train(only: list[str], force: list[str], push: bool = True) -> State:
    nodes = _first_read.pop().result() if _first_read else graph.read()
    accept_harmless(nodes)
    chosen, forced = graph.select(nodes, only, force)
    shared = remote.configured() is not None
    if shared:
        _fetch_runs()
    futures: dict[str, PrefectFuture[State]] = {}
    threads = runtime(read_yaml(PARAMS).get("runtime")).threads
    running = {name: node for name, node in nodes.items() if name in chosen}
    schedule = Schedule(running, os.cpu_count() or 1, threads)
    changing: set[str] = set()  # Stages that may make something new, and those that read it.
    for name, node in running.items():
        is_forced = name in forced
        if is_forced or (node.needed and (node.stale or changing.intersection(node.upstream))):
            changing.add(name)
        fresh = name not in changing
        run = stages.task_of(node, schedule, fresh=fresh, force=is_forced, pull=shared)
        above = [futures[other] for other in node.upstream if other in futures]
        with TagsContext():  # For each tag of a task, the server is asked for a concurrency limit.
            futures[name] = run.submit(return_state=False, wait_for=above)
    states = {name: _final(name, future) for name, future in futures.items()}
    publish(values.layout(), graph.read())
    failed = [state.message or name for name, state in states.items() if state.is_failed()]
    if not failed and shared and push and (problem := _push()):
        failed.append(problem)
    if failed:
        return Failed(message="\n".join(failed))
    cached = sum(state.name == "Cached" for state in states.values())
    return Completed(message=f"{len(states) - cached} stages ran, {cached} were up to date")


def _final(name: str, future: PrefectFuture[State]) -> State:
    future.wait()
    if future.state.is_pending():  # Prefect's name of this state is "NotReady".
        log.info("%s: not run, because a stage that it depends on failed", name)
    return future.state


def main() -> None:
    """Run the flow for ``albef run``.

    The arguments are that process's id, the URL of its temporary server or "", and the parameters
    as JSON.
    """
    parent, temporary, parameters = sys.argv[1:]
    exit_with_parent(int(parent))
    run_lock.inherit()
    show_progress()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    _first_read.append(ThreadPoolExecutor(1).submit(graph.read))
    try:
        with _server(temporary), tags(TAG):
            state = train(**json.loads(parameters), return_state=True)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    print(f"\n{state.message}", file=sys.stderr)
    raise SystemExit(not state.is_completed())


@contextlib.contextmanager
def _server(temporary: str) -> Iterator[None]:
    """Use the configured server, or else the temporary one of ``albef run`` once it answers."""
    if not temporary or PREFECT_API_URL.value():
        _check_server("start that server, or unset the variable")
        yield
        return
    patience = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    settings = {PREFECT_API_URL: temporary, PREFECT_API_REQUEST_TIMEOUT: patience}
    with temporary_settings(settings):
        _check_server("the temporary server did not start; see its messages above")
        yield


def _check_server(remedy: str) -> None:
    """End the process with an error message if the server of the settings cannot be reached."""
    if url := PREFECT_API_URL.value():
        with get_client(sync_client=True) as client:
            if error := client.api_healthcheck():
                print(f"PREFECT_API_URL: cannot reach {url} ({error}); {remedy}", file=sys.stderr)
                raise SystemExit(1)


if __name__ == "__main__":
    main()
