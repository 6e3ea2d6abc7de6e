"""``albef run``: values, what is stale, the flow, the results."""

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from albef.config import ParamsError
from albef.layout import Layout
from flows import graph, remote, results, values
from flows import run_lock as lease
from flows.experiments import seeds
from flows.experiments.clone import Failure
from flows.process import dvc, in_session

INTERRUPTED = 130
log = logging.getLogger("albef")


def main() -> None:
    """The command; exit code 1 for a failed stage, 2 for wrong values, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="albef run", description="Bring the pipeline up to date.")
    arguments(parser)
    options = parser.parse_args()
    results.show_progress()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` had it ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = run(options) if options.seeds is None else run_seeds(options)
    except (ParamsError, lease.Busy) as error:
        print(error, file=sys.stderr)
        code = 2
    except Failure as error:
        print(error, file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted; `albef run` goes on from here", file=sys.stderr)
        code = INTERRUPTED
    raise SystemExit(code)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``albef run``."""
    parser.add_argument("--preset", metavar="NAME", help="take presets/NAME.yaml as params.yaml")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a value of params.yaml, as tasks.retrieval.lr=3e-5; may be repeated",
    )
    parser.add_argument(
        "--only",
        metavar="STAGE",
        action="append",
        default=[],
        help="run this stage alone (NAME, or NAME@KEY for one data set or run); may be repeated",
    )
    parser.add_argument(
        "--force",
        metavar="STAGE",
        action="append",
        default=[],
        help="run this stage although nothing changed; may be repeated",
    )
    parser.add_argument("--name", metavar="EXPERIMENT", help="record the run under this name")
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=int,
        help="run the values under N seeds from `seed` on and record each, as NAME-seed1",
    )
    parser.add_argument("--dry", action="store_true", help="only say what would run, and why")


def run(options: argparse.Namespace) -> int:
    """Do what the options say; the exit code."""
    if options.name:
        _experiments_work()
    with contextlib.nullcontext() if options.dry else lease.hold():
        values.prepare(options.preset, options.overrides)
        nodes = graph.read()
        layout = values.layout()
        forced = set(graph.choose(nodes, options.force, "--force"))
        chosen = set(graph.choose(nodes, options.only, "--only") if options.only else nodes)
        if options.dry:
            print(plan(nodes, chosen, forced, layout))
            return 0
        todo = [name for name in nodes if name in chosen and (nodes[name].stale or name in forced)]
        for name in options.only and todo:
            for above in nodes[name].waits:
                if above not in chosen:
                    log.info("note: %s is stale too, but not asked for", above)
        if todo:
            asked = {"only": options.only or None, "force": options.force or None}
            # The flow shows the stages' lines itself; Prefect's own logger tells its server alone.
            os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
            code = in_session("flows.train", json.dumps(asked), keep=lease.hand_on())
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            if code not in (0, 1):  # the flow tells of a failed stage itself
                print(f"the flow ended without a word (exit code {code})", file=sys.stderr)
            if code:
                return 1
        elif remote.configured() and not remote.pushed() and (problem := remote.push()):
            print(problem, file=sys.stderr)
            return 1
        print(("" if todo else "nothing to do: every stage is up to date\n"), end="")
        print(f"\n{results.summary(layout)}")
        return _record(options.name, layout) if options.name else 0


def run_seeds(options: argparse.Namespace) -> int:
    """Run the values here, and under further seeds in clones; the exit code."""
    if options.name:
        _experiments_work()
    seeds.refuse(options)
    values.prepare(options.preset, options.overrides)
    own = argparse.Namespace(**{**vars(options), "preset": None, "overrides": []})
    own.name = seeds.name_of(options.name, seeds.first())
    if code := run(own):
        return code
    names = seeds.others(options.name, options.seeds)
    print(f"\nrecorded as experiments {', '.join(names)}")
    if len(names) > 1:
        print(f"`albef compare {' '.join(names)}` tells their spread")
    return 0


def plan(
    nodes: Mapping[str, graph.Node], chosen: set[str], forced: set[str], layout: Layout
) -> str:
    """What would run, why, and how long it took last time."""
    rows = []
    for name, node in nodes.items():
        if name not in chosen or not (node.stale or name in forced):
            continue
        why = [*node.reasons, *(["forced"] if name in forced else [])]
        if node.waits:
            why.append(f"if {' or '.join(node.waits)} makes something new")
        seconds = results.record(layout, name).get("seconds")
        took = results.duration(seconds) if seconds is not None else "?"
        rows += [
            (name if not place else "", text, took if not place else "")
            for place, text in enumerate(why)
        ]
    if not rows:
        return "nothing would run: every stage is up to date"
    return results.table(rows, ("stage", "why", "took last time"))


def _experiments_work() -> None:
    """Refuse at once what ``dvc exp save`` would refuse at the end.

    Raises:
        ParamsError: git knows no commit, or no name and address.
    """

    def git(*args: str) -> bool:
        return subprocess.run(["git", *args], capture_output=True).returncode == 0

    if not git("rev-parse", "--verify", "HEAD"):
        raise ParamsError(
            "--name records an experiment beside a git commit, and there is none yet; "
            "`git add -A && git commit -m start` makes one"
        )
    if not git("var", "GIT_COMMITTER_IDENT"):
        raise ParamsError(
            "--name records an experiment in git, which does not know who you are; tell it with "
            "`git config user.name NAME` and `git config user.email ADDRESS`"
        )


def _record(name: str, layout: Layout) -> int:
    """Save the work tree as a DVC experiment."""
    kept = [str(path) for path in (layout.root / "metrics", layout.root / "runs") if path.exists()]
    untracked = [part for path in kept for part in ("--include-untracked", path)]
    code, lines = dvc("exp", "save", "--name", name, "--force", *untracked)
    if code:
        print(f"the experiment was not recorded: {' '.join(lines)}", file=sys.stderr)
        return 1
    print(f"\nrecorded as experiment {name}; `dvc exp show` compares")
    return 0


if __name__ == "__main__":
    main()
