"""Child processes that cannot outlive their parent, no matter how either one ends.

If DVC is killed, the stage that it started continues to run. A child therefore gets a separate
session, and its whole process group is stopped with it. A killed parent runs no cleanup code, so
the child watches its parent and stops its own group.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from albef.io import call_after

GRACE_S = 20.0
"""Seconds between asking a process group to end and killing it; time to save a checkpoint."""
DVC_FAILED = 255
"""Exit code if DVC itself failed, not a stage."""
_REPRODUCE = "reproduce"


class Child:
    """A running ``dvc`` command in a separate session; ``stopped`` is true after :meth:`stop`."""

    def __init__(self, *args: str, folder: Path | None = None) -> None:
        # Stages run `python`, which must be this interpreter.
        scripts = str(Path(sys.executable).parent)
        path = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
        self.stopped = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.process", str(os.getpid()), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A progress bar of Hugging Face would be one long line of the log.
            env={
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                **os.environ,
                "PATH": path,
                "PYTHONUNBUFFERED": "1",
            },
            cwd=folder,
            start_new_session=True,
        )

    @classmethod
    def reproducing(
        cls, names: Sequence[str], folder: Path | None = None, **options: bool
    ) -> "Child":
        """Return a child that brings stages up to date, with options of :func:`_reproduce`."""
        return cls(_REPRODUCE, json.dumps({"names": names, **options}), folder=folder)

    def follow(self, line: Callable[[str], None]) -> int:
        """Pass each line of output to ``line`` until the process ends; return its exit code."""
        try:
            assert self._process.stdout is not None
            with self._process.stdout as output:
                for text in filter(None, map(str.rstrip, output)):
                    line(text)
            return self._process.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask the process group to end, and kill it after :data:`GRACE_S` seconds."""
        self.stopped = True
        for number, seconds in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 5.0)):
            _signal_group(self._process.pid, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                # Reap the process, since a zombie still counts as a member of the group.
                self._process.poll()
                if not _signal_group(self._process.pid, 0):
                    return
                time.sleep(0.05)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; return whether the group has a member."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def run_in_session(module: str, *args: str, keep: int, output: int | None = None) -> int:
    """Run a module in a separate session, with the run lock; return its exit code.

    A terminal sends Ctrl-C to every process of a session, and so to Prefect's temporary server,
    which the flow needs to report its final state. Here, only the module gets the signal. A second
    Ctrl-C ends everything at once. No process of the session outlives this function.

    Args:
        module: name of the module.
        args: its arguments.
        keep: descriptor of the run lock's file.
        output: descriptor for both output streams; None is those of this process.
    """
    command = [sys.executable, "-m", module, str(os.getpid()), *args]
    child = subprocess.Popen(
        command, start_new_session=True, pass_fds=[keep], stdout=output, stderr=output
    )
    try:
        return child.wait()
    except BaseException:  # Ctrl-C, or Prefect cancels the flow that called this.
        child.send_signal(signal.SIGINT)
        child.wait()
        raise
    finally:
        _signal_group(child.pid, signal.SIGKILL)
        child.wait()


def exit_with_parent(parent: int) -> None:
    """Kill this process's group as soon as its parent ends; ``parent`` is the parent's id."""
    call_after(lambda: os.getppid() == parent, lambda: os.killpg(os.getpgrp(), signal.SIGKILL))


def _reproduce(
    names: list[str], *, alone: bool = False, force: bool = False, pull: bool = False
) -> int:
    """Bring stages up to date and return the exit code of a failed one, as a shell reports it.

    Args:
        names: stages.
        alone: do not run the stages that they depend on.
        force: run even if nothing changed.
        pull: look for the artifacts of each stage in the remote first.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.exceptions import StageCmdFailedError
    from dvc.utils.serialize import _yaml

    # dvc.lock has no comments, and the parser that keeps them takes most of the time here.
    _yaml.parse_yaml_for_update = _yaml.parse_yaml
    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        if pull:
            from flows.remote import fetch_artifacts

            for name in names:
                fetch_artifacts(name)
        with Repo(".", _wait_for_lock=True) as repo:
            repo.reproduce(names, single_item=alone, force=force, repro_fn=_bring_up_to_date)
    except (DvcException, OSError) as error:
        cause = error.__cause__ or error
        # DVC reports the exit code only in the text of the error.
        if isinstance(cause, StageCmdFailedError):
            code = int(str(cause).rpartition(" ")[2])
            return code if code > 0 else 128 - code
        from flows.graph import one_line  # Its imports take as long as DVC's.

        print(f"{', '.join(names)}: {one_line(error)}", file=sys.stderr)
        return DVC_FAILED
    return 0


def _bring_up_to_date(stage: Any, *, force: bool, upstream: Any, **_: Any) -> Any:
    """Run a stage if it is stale, and return it if it ran.

    Its inputs are recorded as they are before it runs. DVC records them again afterwards, so an
    edit or a deletion during a run would count as what the stage has read, or discard what it made.
    """
    save_deps = stage.save_deps

    def save_once(**options: Any) -> None:
        save_deps(**options)
        stage.save_deps = lambda **_: None
        for dep in stage.deps:
            dep.get_hash = partial(getattr, dep, "hash_info")

    if not (force or stage.changed(upstream=upstream)):
        return None
    stage.save_deps = save_once
    if force:  # Otherwise, DVC calls it to look for an equal run.
        save_once()
    stage.run(force=force)
    stage.dump(update_pipeline=False)
    return stage


def _main() -> int:
    parent, *args = sys.argv[1:]
    exit_with_parent(int(parent))
    os.environ["ALBEF_DVC"] = str(os.getpid())  # The stage exits with this process.
    if args[0] == _REPRODUCE:
        return _reproduce(**json.loads(args[1]))
    from dvc.cli import main

    return int(main(args))


if __name__ == "__main__":
    raise SystemExit(_main())
