"""A clone of the project at a commit, in which values are run and recorded as an experiment.

It shares DVC's cache, and takes nothing else from the work tree.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from albef.layout import EARLIER, PARAMS
from flows import git, values
from flows.graph import LOCK
from flows.process import Child
from flows.run import untracked
from flows.stages import sentence

_STAGE = re.compile(r"(?:Running stage|Stage) '([^']+)'")
"""How DVC names each stage that it goes through."""
log = logging.getLogger("albef")


class Failure(ValueError):
    """Variations that failed; a sentence for each."""

    exit_code = 1


@dataclass(frozen=True)
class Variation:
    """A set of values."""

    name: str
    """Of the experiment."""
    params: str
    """Text of its whole params file."""
    group: str
    """Variations of a group run one after the other, in one clone."""
    data: str = ""
    """Groups with the same never run at the same time."""
    earlier: "Variation | None" = None
    """One whose pre-trained checkpoint it finds in ``.albef/earlier``."""


@dataclass(frozen=True)
class Outcome:
    """What came of a variation."""

    metrics: Mapping[str, Mapping[str, Any]]
    """By run, as the stage ``evaluate`` wrote them."""
    seconds: float
    ran: tuple[str, ...]
    """Stages whose command was run; the others were at hand."""


class Clone:
    """The clone at a commit, made if it is not there; the products of ``lock``, the text of a
    dvc.lock, are at hand, or those of the commit's."""

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
            if value := git.ask("config", name):
                self._git("config", name, value)
        with Repo(".") as repo:
            cache = repo.cache.local_cache_dir
        local = Path(".dvc/config.local")
        if local.exists():
            shutil.copyfile(local, folder / local)
        self.dvc("config", "--local", "cache.dir", str(cache))
        if lock is not None:
            (folder / LOCK).write_text(lock)
        self.dvc("checkout", "--quiet", "--force", "--allow-missing")

    def _git(self, *args: str) -> str:
        return git.git("-C", str(self._folder), *args)

    def dvc(self, *args: str) -> None:
        """Run a ``dvc`` command here.

        Raises:
            Failure: it failed; in its words.
        """
        code, lines = self._dvc(*args)
        if code:
            raise Failure(f"`dvc {args[0]}` failed: {' '.join(lines)}")

    def _dvc(self, *args: str, line: Callable[[str], object] = str) -> tuple[int, list[str]]:
        lines: list[str] = []

        def take(text: str) -> None:
            lines.append(text)
            line(text)

        self._child = Child(*args, folder=self._folder)
        if self._stopped:
            self._child.stop()
        code = self._child.follow(take)
        if self._stopped:
            raise KeyboardInterrupt
        return code, lines

    def stop(self) -> None:
        """End what runs here."""
        self._stopped = True
        if self._child:
            self._child.stop()

    def run(self, variation: Variation, targets: Sequence[str]) -> Outcome:
        """Bring the targets up to date with the values of a variation, and record them.

        Raises:
            Failure: a stage failed; in its words.
        """
        ran: list[str] = []

        def follow(text: str) -> None:
            if text.startswith("Running stage '"):
                ran.append(text.split("'")[1])
                log.info("  %s: %s", variation.name, ran[-1])

        def bring(variation: Variation, *targets: str) -> list[str]:
            shutil.rmtree(self._folder / EARLIER, ignore_errors=True)
            if variation.earlier:
                bring(variation.earlier, "pretrain")
                source = values.layout(self._folder / PARAMS).model("pretrained")
                shutil.copytree(self._folder / source, self._folder / EARLIER, dirs_exist_ok=True)
            (self._folder / PARAMS).write_text(variation.params)
            code, lines = self._dvc("repro", *targets, line=follow)
            if code:
                raise Failure(sentence(ran[-1], lines) if ran else " ".join(lines[-2:]))
            return lines

        began = time.monotonic()
        lines = bring(variation, *targets)
        layout = values.layout(self._folder / PARAMS)
        # DVC would miss the products of the stages that were not asked for.
        stages = [match[1] for text in lines if (match := _STAGE.match(text))]
        options = ["--name", variation.name, "--force", *untracked(layout, self._folder)]
        self.dvc("exp", "save", *options, *stages)
        runs = (target.partition("@")[2] for target in targets)
        files = {run: self._folder / layout.metrics(run) for run in runs}
        metrics = {run: json.loads(f.read_text()) for run, f in files.items() if f.exists()}
        return Outcome(metrics, time.monotonic() - began, tuple(ran))

    def hand_over(self, variation: Variation) -> None:
        """Bring the experiment into the repository of the project."""
        refs = self._git("for-each-ref", "--format=%(refname)", "refs/exps").split()
        matching = [ref for ref in refs if ref.rsplit("/", 1)[1] == variation.name]
        git.git("fetch", "--quiet", str(self._folder), *(f"+{ref}:{ref}" for ref in matching))
