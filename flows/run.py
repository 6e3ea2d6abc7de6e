"""``albef run``: prepare the values, run the flow for stale stages, print the results."""

import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dvc.repo import Repo

from albef.config import ParamsError
from albef.layout import PARAMS, Layout
from albef.report.wording import format_duration
from albef.trackers import EXPERIMENT
from flows import git, graph, remote, results, run_lock, server, values
from flows.accept import accept_harmless
from flows.display import displayed
from flows.estimates import estimate, time_left
from flows.process import run_in_session
from flows.status import condense

INTERRUPTED = 130
_COLUMNS = 100
"""Width of the plan."""


def run(
    preset: str | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    force: Sequence[str] = (),
    name: str | None = None,
    *,
    dry: bool = False,
) -> int:
    """Run the stages whose inputs have changed, as ``albef run`` does; return the exit code.

    Raises:
        ParamsError: a value is wrong, or a stage does not exist.
        RunInProgressError: another run is in progress in this clone.
    """
    if name:
        os.environ[EXPERIMENT] = name
        check_recording(name)
    if dry:
        with values.changed(preset, overrides) as file:
            nodes = graph.read(file)
            plan = _plan(nodes, only, force)
            print(_format_plan(nodes, estimate(plan, file), plan))
        return 0
    with run_lock.acquire(), server.temporary() as start:
        if preset or overrides or not (graph.LOCK.exists() and values.is_checked(PARAMS)):
            start()  # Most likely something is stale.
        values.prepare(preset, overrides)
        nodes = graph.read()
        accept_harmless(nodes)
        if plan := _plan(nodes, only, force):
            values.check_packages(plan)
            seconds = estimate(plan)
            print(_format_plan(nodes, seconds), flush=True)
            with displayed(nodes, seconds) as output:
                succeeded = _flow(only, force, start, output)
            if not succeeded:
                return 1
            nodes = graph.read()
        elif remote.configured() and not remote.pushed() and (problem := remote.push()):
            print(problem, file=sys.stderr)
            return 1
        else:
            print("nothing to do: every stage is up to date")
        print(f"\n{results.summary(values.layout(), nodes)}")
        if name and (problem := save_experiment(name)):
            print(problem, file=sys.stderr)
            return 1
        return 0


def _plan(
    nodes: Mapping[str, graph.Node], only: Sequence[str], force: Sequence[str]
) -> dict[str, list[str]]:
    chosen, forced = graph.select(nodes, only, force)
    plan = {}
    for name, node in nodes.items():
        if name in chosen and (node.stale or name in forced):
            reasons = [*node.reasons, *(["forced"] if name in forced else [])]
            plan[name] = reasons or [f"if {' or '.join(node.waits)} changes its artifacts"]
    return plan


def _format_plan(
    nodes: Mapping[str, graph.Node],
    seconds: Mapping[str, float | None],
    plan: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return a table of what runs and how long it may take, and why if there is a ``plan``."""
    rows = []
    room = _COLUMNS - max(map(len, seconds), default=0) - len("  takes about  ")
    for name, estimated in seconds.items():
        reasons = condense(plan[name]) if plan else [""]
        first, *others = [line for it in reasons for line in textwrap.wrap(it, room) or [""]]
        rows.append((name, first, "?" if estimated is None else format_duration(estimated)))
        rows += [("", reason, "") for reason in others]
    if not rows:
        return "nothing would run: every stage is up to date"
    total = time_left(nodes, {name: known or 0.0 for name, known in seconds.items()})
    text = format_duration(total)
    if None in seconds.values():
        text = f"> {text}" if total else "?"
    rows.append(("whole run", "", text))
    return results.table(rows, ("stage", "why" if plan else "", "takes about"))


def _flow(
    only: Sequence[str], force: Sequence[str], start: Callable[[], str], output: int | None
) -> bool:
    """Run the flow in a separate session; return whether all of it succeeded."""
    # The flow prints the stages' output itself. Prefect's logger then only reports to its server.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    parameters = json.dumps({"only": list(only) or None, "force": list(force) or None})
    keep = run_lock.descriptor()
    code = run_in_session("flows.train", start(), parameters, keep=keep, output=output)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (0, 1):  # The flow reports a failed stage itself.
        print(f"the flow's process ended with exit code {code}", file=sys.stderr)
    return code == 0


def check_name(name: str) -> None:
    """Raise ParamsError if an experiment cannot have a name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ParamsError(f"experiment name {name} is invalid; use letters, digits, . _ and -")


def check_recording(name: str) -> None:
    """Check that an experiment can be recorded, before the run that it is of.

    Raises:
        ParamsError: the name is invalid, or git has no commit or committer, or does not track code.
    """
    check_name(name)
    if reasons := list(git.unrecordable()):
        raise ParamsError(f"--name records an experiment in git; {'; '.join(reasons)}")


def save_experiment(name: str) -> str | None:
    """Save the work tree as a DVC experiment; return an error message, or None on success.

    ``dvc exp save`` commits the artifacts of its targets to dvc.lock as they are. A stale stage
    would become fresh by that, and a missing artifact is an error, so only fresh stages are given.
    """
    nodes = graph.read()
    fresh = [stage for stage, node in nodes.items() if node.needed and not node.stale]
    if not fresh:
        return f"experiment {name} was not recorded: no stage is up to date"
    # For each target, DVC reads the whole graph again.
    targets = fresh if len(fresh) < len(nodes) else [str(graph.DVC)]
    options = {"force": True, "include_untracked": untracked(values.layout())}
    try:
        # An interrupt does not end a thread: meanwhile, DVC keeps uncommitted changes in a stash.
        with Repo(".") as repo, ThreadPoolExecutor(1) as pool:
            pool.submit(repo.experiments.save, targets, name, **options).result()
    except Exception as error:  # DVC and its libraries have errors of many types.
        return f"experiment {name} was not recorded: {graph.one_line(error)}"
    print(f"\nrecorded as experiment {name}; `dvc exp show` lists all experiments")
    return None


def untracked(layout: Layout, project: Path = Path()) -> list[str]:
    """Return the folders of existing artifacts that DVC does not cache."""
    folders = (layout.root / "metrics", layout.root / "runs")
    return [str(folder) for folder in folders if (project / folder).exists()]
