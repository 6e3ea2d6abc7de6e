"""Variations of the values, each run and recorded as an experiment, in clones of their own.

The work tree at hand is not touched, so its owner goes on in it. The clones hold HEAD and share
DVC's cache: what several variations have in common is made once, what was made before is not made
again, and a run that was killed goes on. Clones take groups of variations one after the other; two
groups whose data are the same never run at once, as both would make them.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.utils.serialize import load_yaml

from albef.config import ParamsError, read_yaml, validate
from albef.layout import PARAMS, Layout, Paths
from flows import git, lease, values
from flows.graph import LOCK
from flows.process import Child
from flows.stages import sentence

FOLDER = Path(".dvc/tmp/variations")
"""Where the clones are, and the lock of whoever works in them."""
log = logging.getLogger("albef")


class Failure(ValueError):
    """Variations that failed; a sentence for each."""


@dataclass(frozen=True)
class Variation:
    """A set of values.

    Attributes:
        name: of the experiment.
        params: text of its whole params file.
        group: variations of a group run one after the other, in one clone.
        data: groups with the same never run at the same time.
    """

    name: str
    params: str
    group: str
    data: str


@dataclass(frozen=True)
class Outcome:
    """What came of a variation.

    Attributes:
        metrics: by run, as the stage ``evaluate`` wrote them.
        seconds: that it took.
        ran: stages whose command was run; the others were at hand.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    seconds: float
    ran: tuple[str, ...]


def varied(preset: Path, overrides: Sequence[str], where: str) -> str:
    """The text of a params file with values changed, ``key=value``; errors name ``where``.

    Raises:
        ParamsError: a key that it lacks.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS.name
        shutil.copyfile(preset, path)
        if overrides:
            values.override(path, list(overrides), where)
        return path.read_text()


def check(variations: Sequence[Variation]) -> None:
    """Check the values of all variations, in one process: their classes import torch.

    Raises:
        ParamsError: a sentence for every wrong value.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for variation in variations:
            files.append(Path(folder) / f"{variation.name}.yaml")
            files[-1].write_text(variation.params)
        command = [sys.executable, "-m", "pipelines.params", *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ParamsError(done.stderr.replace(f"{folder}{os.sep}", "").strip())


def clean() -> str:
    """HEAD, once it is known to hold all code; values and products are not looked at.

    Raises:
        ParamsError: there is no commit, git does not know who commits, or files are not as in it.
    """
    root = values.layout().root
    told = list(git.uncommitted([], apart=[PARAMS, LOCK, root / "metrics", root / "runs"]))
    if told:
        raise ParamsError(
            "variations run in a clone of the last commit and are recorded beside it, but "
            + "; ".join(told)
        )
    return git.git("rev-parse", "HEAD")


def run(
    variations: Sequence[Variation],
    commit: str,
    targets: Sequence[str],
    jobs: int,
    done: Callable[[Variation, Outcome], None],
    lock: str | None = None,
) -> None:
    """Run variations and record each as an experiment.

    Args:
        variations: in the order to run them.
        commit: of the code.
        targets: stages that are wanted, with all that they depend on.
        jobs: clones that work at the same time.
        done: told of each as it ends, one at a time.
        lock: text of a dvc.lock whose products are at hand; None is that of the commit.

    Raises:
        Busy: variations are at work here already.
        Failure: some failed; the others ran.
    """
    groups: dict[str, list[Variation]] = {}
    for variation in variations:
        groups.setdefault(variation.group, []).append(variation)
    work = _Work([*groups.values()])
    with lease.locked(FOLDER / "lock", "variations are"):
        crew = [_Clone(FOLDER / f"clone-{n}", commit, lock) for n in range(min(jobs, len(groups)))]
        with ThreadPoolExecutor(max(1, len(crew))) as pool:
            futures = [pool.submit(_labour, own, work, targets, done) for own in crew]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                work.stop()
                ends = [threading.Thread(target=own.stop) for own in crew]  # go on if asked again
                for end in ends:
                    end.start()
                raise
    if work.failed:
        raise Failure("\n".join(work.failed))


class _Work:
    """Groups that wait for a clone."""

    def __init__(self, groups: list[list[Variation]]) -> None:
        self._groups = groups
        self._busy: set[str] = set()
        self._changed = threading.Condition()
        self.failed: list[str] = []
        self.told = threading.Lock()

    def take(self) -> list[Variation] | None:
        """The next group whose data nobody is making; None when there is no more."""
        with self._changed:
            while self._groups:
                free = next((g for g in self._groups if g[0].data not in self._busy), None)
                if free is not None:
                    self._groups.remove(free)
                    self._busy.add(free[0].data)
                    return free
                self._changed.wait()
            return None

    def give_back(self, group: list[Variation]) -> None:
        """A group is done."""
        with self._changed:
            self._busy.discard(group[0].data)
            self._changed.notify_all()

    def stop(self) -> None:
        """Give out no more."""
        with self._changed:
            self._groups = []
            self._changed.notify_all()


def _labour(
    clone: "_Clone",
    work: _Work,
    targets: Sequence[str],
    done: Callable[[Variation, Outcome], None],
) -> None:
    while group := work.take():
        try:
            for variation in group:
                try:
                    outcome = clone.run(variation, targets)
                except Failure as error:
                    with work.told:
                        work.failed.append(f"{variation.name}: {error}")
                        log.info("%s failed: %s", variation.name, error)
                    continue
                with work.told:
                    clone.hand_over(variation)
                    done(variation, outcome)
        finally:
            work.give_back(group)


class _Clone:
    """A clone of this project at a commit."""

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
        self._dvc_plain("config", "--local", "cache.dir", str(cache))
        if lock is not None:
            (folder / LOCK).write_text(lock)
        self._dvc_plain("checkout", "--quiet", "--force", "--allow-missing")

    def _git(self, *args: str) -> str:
        return git.git("-C", str(self._folder), *args)

    def _dvc_plain(self, *args: str) -> None:
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

        (self._folder / PARAMS).write_text(variation.params)
        began = time.monotonic()
        code, lines = self._dvc("repro", *targets, line=follow)
        if code:
            raise Failure(sentence(ran[-1], lines) if ran else " ".join(lines[-2:]))
        layout = self._layout()
        kept = [path for path in (layout.root / "metrics", layout.root / "runs") if self._has(path)]
        untracked = [part for path in kept for part in ("--include-untracked", str(path))]
        made = load_yaml(self._folder / LOCK)["stages"]  # DVC would miss the products of others
        options = ["--name", variation.name, "--force", *untracked]
        self._dvc_plain("exp", "save", *options, *made)
        files = sorted((self._folder / layout.root / "metrics").glob("*.json"))
        wanted = {target.partition("@")[2] for target in targets}
        metrics = {f.stem: json.loads(f.read_text()) for f in files if f.stem in wanted}
        return Outcome(metrics, time.monotonic() - began, tuple(ran))

    def _has(self, path: Path) -> bool:
        return (self._folder / path).exists()

    def _layout(self) -> Layout:
        paths = read_yaml(self._folder / PARAMS)["paths"]
        return Layout(validate(Paths, paths, where=str(PARAMS), key="paths"))

    def hand_over(self, variation: Variation) -> None:
        """Bring the experiment into the repository of the project."""
        refs = self._git("for-each-ref", "--format=%(refname)", "refs/exps").split()
        own = [ref for ref in refs if ref.rsplit("/", 1)[1] == variation.name]
        git.git("fetch", "--quiet", str(self._folder), *(f"+{ref}:{ref}" for ref in own))
