"""Clone of the project at a commit, in which experiments run and are recorded.

The clone shares DVC's cache and takes nothing else from the work tree.
"""

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import networkx as nx
from dvc.repo import Repo

from albef.layout import PARAMS
from flows import git, values
from flows.experiments.revisions import CODE
from flows.graph import LOCK
from flows.process import Child
from flows.run import untracked

log = logging.getLogger("albef")


class CloneError(ValueError):
    """Error for variations or commands that failed in a clone."""

    exit_code = 1


class Variation(NamedTuple):
    """Name of an experiment and the text of its whole params file."""

    name: str
    params: str


class Clone:
    """Clone of the project at a commit, created if it does not exist.

    Artifacts are checked out from DVC's cache: those of ``lock``, the text of a dvc.lock, or those
    of the commit if ``lock`` is None.
    """

    def __init__(self, folder: Path, commit: str, lock: str | None) -> None:
        self._folder = folder.resolve()
        self._child: Child | None = None
        self._stopped = False
        root = Path.cwd()
        if not (folder / ".git").is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            git.git("clone", "--quiet", "--no-checkout", str(root), str(folder))
        self._git("fetch", "--quiet", str(root), commit)
        self._git("checkout", "--quiet", "--force", "--detach", commit)
        for name in ("user.name", "user.email"):
            if value := git.try_git("config", name):
                self._git("config", name, value)
        local = Path(".dvc/config.local")
        if local.exists():
            shutil.copyfile(local, folder / local)
        with Repo(".") as repo, Repo(folder) as clone, clone.config.edit("local") as config:
            config["cache"]["dir"] = repo.cache.local_cache_dir
        if lock is not None:
            (folder / LOCK).write_text(lock)
        self.dvc("checkout", "--quiet", "--force", "--allow-missing")

    def _git(self, *args: str) -> str:
        return git.git("-C", str(self._folder), *args)

    def dvc(self, *args: str) -> None:
        """Run a ``dvc`` command in the clone.

        Raises:
            CloneError: the command failed. The message contains its output.
        """
        code, lines = self._follow(Child(*args, folder=self._folder))
        if code:
            raise CloneError(f"`dvc {args[0]}` failed: {' '.join(lines)}")

    def _follow(self, child: Child, name: str = "") -> tuple[int, list[str]]:
        """Return the exit code and output lines of a child process; log lines under ``name``."""
        lines: list[str] = []

        def line(text: str) -> None:
            lines.append(text)
            if name:
                log.info("%s: %s", name, text)

        self._child = child
        if self._stopped:
            child.stop()
        code = child.follow(line)
        if self._stopped:
            raise KeyboardInterrupt
        return code, lines

    def stop(self) -> None:
        """Stop the running process. Processes that start later are stopped too."""
        self._stopped = True
        if self._child:
            self._child.stop()

    def run(self, variation: Variation, targets: Sequence[str]) -> int:
        """Bring the targets up to date with the values of a variation and record an experiment.

        Returns:
            Number of stages that ran. The artifacts of the other stages were available.

        Raises:
            CloneError: a stage failed. The message contains its last line of output.
        """
        began = time.time()
        (self._folder / PARAMS).write_text(variation.params)
        child = Child.reproducing(targets, folder=self._folder)
        code, lines = self._follow(child, variation.name)
        if code:
            raise CloneError(f"{lines[-1] if lines else 'no output'} (exit code {code})")
        layout = values.layout(self._folder / PARAMS)
        folders = [f"--include-untracked={path}" for path in untracked(layout, self._folder)]
        options = ["--name", variation.name, "--force", *folders]
        self.dvc("exp", "save", *options, *self._with_upstream(targets))
        records = (self._folder / layout.root / "runs").glob("*.json")
        return sum(record.stat().st_mtime > began for record in records)

    def _with_upstream(self, targets: Sequence[str]) -> list[str]:
        """Return the targets and the stages above them. Other stages lack their artifacts here."""
        with Repo(str(self._folder)) as repo:
            graph = repo.index.graph
            wanted = [stage for stage in graph if getattr(stage, "name", "") in targets]
            stages = {other for stage in wanted for other in (stage, *nx.descendants(graph, stage))}
        return sorted(stage.name for stage in stages if hasattr(stage, "name"))

    def hand_over(self, variation: Variation) -> None:
        """Fetch the experiment into the repository of the project."""
        for ref in self._git(*_REFS, f"refs/exps/*/*/{variation.name}").split():
            git.git("fetch", "--quiet", str(self._folder), f"+{ref}:{ref}")


_REFS = ("for-each-ref", "--format=%(refname)")


def recorded(variation: Variation, commit: str) -> str | None:
    """Return the ref of a variation's experiment; None if none has these values and this code."""
    for ref in git.git(*_REFS, f"refs/exps/*/*/{variation.name}").split():
        has_values = git.try_git("show", f"{ref}:{PARAMS}") == variation.params.strip()
        if has_values and git.try_git("diff", "--name-only", commit, ref, "--", *CODE) == "":
            return ref
    return None
