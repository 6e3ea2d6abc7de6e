"""A child process that cannot outlive its parent, however either ends.

Killing DVC leaves the stage that it started running, so a child gets a session of its own and the
whole group is ended with it. A parent that is killed outright runs no code: there the child itself
watches, and takes its group down.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flows.run_lock import INHERITED

GRACE_S = 20.0
"""Seconds between asking a group to end and ending it; time for a checkpoint."""
DVC_FAILED = 255
"""Exit code where DVC failed, and not a stage."""
_REPRODUCE = "reproduce"


class Child:
    """A running ``dvc`` command in a session of its own, working in ``folder``; ``stopped``: by
    :meth:`stop`."""

    def __init__(self, *args: str, folder: Path | None = None) -> None:
        scripts = str(Path(sys.executable).parent)  # a stage's `python` is the one that runs this
        path = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
        self.stopped = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.process", str(os.getpid()), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
            cwd=folder,
            start_new_session=True,
        )

    @classmethod
    def reproducing(
        cls,
        names: Sequence[str],
        *,
        alone: bool = False,
        force: bool = False,
        pull: bool = False,
        folder: Path | None = None,
    ) -> "Child":
        """One that brings stages up to date; see :func:`_reproduce`."""
        options = {"names": names, "alone": alone, "force": force, "pull": pull}
        return cls(_REPRODUCE, json.dumps(options), folder=folder)

    def follow(self, line: Callable[[str], None]) -> int:
        """Hand each line of output to ``line`` until the process ends; its exit code.

        A progress bar's carriage returns end lines too.
        """
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
        """End the group: asked at first, forced after :data:`GRACE_S`."""
        self.stopped = True
        for number, seconds in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 5.0)):
            _signal_group(self._process.pid, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                self._process.poll()  # a zombie still counts as a member
                if not _signal_group(self._process.pid, 0):
                    return
                time.sleep(0.05)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a group; whether it has a member."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def in_session(module: str, *args: str, keep: int) -> int:
    """Run a module in a session of its own, which holds the run lock ``keep`` too; its exit code.

    A terminal sends Ctrl-C to all of a session, Prefect's temporary server included, which the
    flow still needs in order to say how it ended: so the module alone is told, from here. A
    second Ctrl-C ends everything at once. Nothing of the session is left when this returns, and
    nothing for long if this process is killed.
    """
    command = [sys.executable, "-m", module, str(os.getpid()), *args]
    environment = {**os.environ, INHERITED: "1"}
    child = subprocess.Popen(command, start_new_session=True, pass_fds=[keep], env=environment)
    try:
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
    finally:
        _signal_group(child.pid, signal.SIGKILL)
        child.wait()


def die_with(parent: int) -> None:
    """End this process's group as soon as ``parent`` is not its parent any more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="die-with-parent").start()


def _reproduce(names: list[str], *, alone: bool, force: bool, pull: bool) -> int:
    """Bring stages up to date, in a child; all output is the stages' own, or an error of DVC's.

    Args:
        alone: and not what they depend on.
        force: although nothing changed.
        pull: look for the products of each in the remote first.

    Returns:
        The exit code of a stage that failed, by a shell's count, or :data:`DVC_FAILED`.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.exceptions import StageCmdFailedError

    from flows.remote import fetch_products

    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        for name in names if pull else ():
            fetch_products(name)
        with Repo(".", _wait_for_lock=True) as repo:
            repo.reproduce(names, single_item=alone, force=force)
    except (DvcException, OSError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, StageCmdFailedError):  # which has the code in its text alone
            code = int(str(cause).rpartition(" ")[2])
            return code if code > 0 else 128 - code
        print(f"{', '.join(names)}: {' '.join(str(cause).split())}", file=sys.stderr)
        return DVC_FAILED
    return 0


def _main() -> int:
    """Be DVC, for as long as the parent lives."""
    parent, *args = sys.argv[1:]
    die_with(int(parent))
    os.environ["ALBEF_DVC"] = str(os.getpid())  # the stage follows this process
    logging.basicConfig(format="%(message)s")
    if args[0] == _REPRODUCE:
        return _reproduce(**json.loads(args[1]))
    from dvc.cli import main

    return int(main(args))


if __name__ == "__main__":
    raise SystemExit(_main())
