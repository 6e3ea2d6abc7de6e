"""Experiments, branches, tags and commits, and their files as they were: nothing is run again.

The files of a revision come from git, DVC's cache or a remote, in this order, into a folder of
its own; what is in the cache is linked, not copied. :class:`Revision` tells what is where.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import SCMError, resolve_rev
from dvc_data.index import DataIndexDirError

from albef.config import ParamsError, nearest, read_yaml, validate
from albef.data.shards import MANIFEST
from albef.layout import PARAMS, Layout, Paths

WORKSPACE = ("workspace", ".")
"""Names of the working tree."""
SEEDS = ("seed", "data_seed")
"""Values in which repetitions of a run differ."""
_CODE = ("albef", "pipelines", "dvc.yaml")
_WORK = Path(".dvc/tmp")


class NotAtHand(ValueError):
    """Files of a revision that are not here; its text is the sentence to show."""


class NotStored(NotAtHand):
    """A file that a revision names, and neither the cache nor a remote has.

    Attributes:
        revision, path: which.
    """

    def __init__(self, revision: str, path: str, why: str = "") -> None:
        self.revision = revision
        self.path = path
        super().__init__(not_stored(revision, [path], why))


def not_stored(revision: str, paths: Sequence[str], why: str = "") -> str:
    """The sentence on files of one revision that are nowhere."""
    more = f" and {len(paths) - 1} more files of it are" if len(paths) > 1 else " is"
    return (
        f"{revision}: {paths[0]}{more} neither in DVC's cache nor in a remote{why}; `dvc push` "
        "where they were made (`dvc exp push` for an experiment) and `dvc fetch` here bring them"
    )


class Revision:
    """A revision and its files.

    Args:
        name: as it was asked for.
        commit: its SHA-1; None for the working tree.
        folder: where its files come to lie.
        config: DVC's of today: where cache and remotes are now, not where they were then.

    Attributes:
        name, commit: as given.
        folder: where its files lie, as far as they were asked for.
        params: its params.yaml, plain.
    """

    def __init__(
        self, name: str, commit: str | None, folder: Path, config: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.commit = commit
        self.folder = folder
        self._files: Any = None
        if commit is not None:
            self._files = DVCFileSystem(".", rev=commit, config=dict(config))
        if not self._fetch(PARAMS):
            raise ParamsError(f"{name} has no {PARAMS}: it is a revision of another project")
        self.params = read_yaml(folder / PARAMS)
        paths = validate(Paths, self.params.get("paths"), where=f"{PARAMS} of {name}", key="paths")
        self._layout = Layout(paths)

    def close(self) -> None:
        """Let go of the files."""
        if self._files is not None:
            self._files.close()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Its :data:`SEEDS`; data without a seed of their own have the other."""
        seed = int(self.params.get("seed", 0))
        return tuple(int(self.params.get(name, seed)) for name in SEEDS)

    @property
    def runs(self) -> Mapping[str, Any]:
        """The values of its runs, by name."""
        return dict(self.params.get("tasks") or {})

    def metrics(self) -> dict[str, dict[str, Any]]:
        """The metrics of every run that was evaluated, by run.

        Raises:
            NotAtHand: there are none.
        """
        metrics: dict[str, dict[str, Any]] = {}
        for run in self.runs:
            if path := self._fetch(self._layout.metrics(run)):
                try:
                    metrics[run] = json.loads(path.read_text())
                except ValueError as error:
                    raise NotAtHand(f"{self.name}: {path.name} is no JSON ({error})") from None
        if not metrics:
            raise NotAtHand(
                f"{self.name} has no metrics: nothing was evaluated there, or it was not recorded; "
                "`albef run --name EXPERIMENT` evaluates and records"
            )
        return metrics

    def predictions(self, run: str) -> Path | None:
        """The predictions of a run; None where it has none.

        Raises:
            NotAtHand: they are neither here nor in a remote.
        """
        return self._fetch(self._layout.predictions(run))

    def behaviour(self, run: str) -> Path | None:
        """The cases of a run's behaviour tests; None where it has none.

        Raises:
            NotAtHand: they are neither here nor in a remote.
        """
        return self._fetch(self._layout.behaviour(run))

    def trainings(self) -> dict[str, Path]:
        """The folder with the curves of each training.

        Raises:
            NotAtHand: they are neither here nor in a remote.
        """
        names = [folder.name for folder in self._list(self._layout.root / "curves")]
        return {n: path for n in names if (path := self._fetch(self._layout.curves(n))) is not None}

    def datasets(self) -> list[str]:
        """The data sets of its params.yaml."""
        return list(self.params.get("datasets") or {})

    def data(self, dataset: str) -> Path | None:
        """A data set's folder with its description and index; None where it has none.

        Raises:
            NotAtHand: they are neither here nor in a remote.
        """
        folder = self._layout.data(dataset)
        parts = [self._fetch(folder / name) for name in ("dataset.json", "index.parquet")]
        return self.folder / folder if all(parts) else None

    def pictures(self, dataset: str) -> Path | None:
        """A data set's folder with its shards, or with the manifest of those in a store; None where
        these are not all on this machine.
        """
        if self.data(dataset) is None:
            return None
        if self._fetch(self._layout.data(dataset) / MANIFEST) is not None:
            return self.folder / self._layout.data(dataset)
        folder = self._layout.data(dataset) / "shards"
        if self._files is None:
            return folder.parent if folder.is_dir() else None
        cache = self._files.repo.cache.local
        for path in self._list(folder):
            if not cache.exists(self._files.info(path.as_posix()).get("md5")):
                return None  # a remote may have it, but shards are large
            self._fetch(path)
        return self.folder / folder.parent

    def _list(self, folder: Path) -> list[Path]:
        """What is in a folder, in order."""
        if self._files is None:
            return sorted(folder.iterdir()) if folder.is_dir() else []
        if not self._files.isdir(folder.as_posix()):
            return []
        with self._sentences(folder):
            return sorted(Path(name) for name in self._files.ls(folder.as_posix(), detail=False))

    def _fetch(self, path: Path) -> Path | None:
        """A file or folder of the revision, here; None where the revision has none."""
        here = self.folder / path
        if here.exists() or self._files is None:
            return here if here.exists() else None
        with self._sentences(path):
            if not self._files.exists(path.as_posix()):
                return None
            here.parent.mkdir(parents=True, exist_ok=True)
            self._files.get(
                path.as_posix(), str(here), recursive=self._files.isdir(path.as_posix())
            )
        return here if here.exists() else None

    @contextmanager
    def _sentences(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (DvcException, DataIndexDirError, OSError) as error:
            gone = isinstance(error, FileNotFoundError | DataIndexDirError)
            why = "" if gone else f" ({_line(error)})"
            raise NotStored(self.name, path.as_posix(), why) from None


@contextmanager
def opened(names: Sequence[str]) -> Iterator[list[Revision]]:
    """The revisions of these names.

    Raises:
        ParamsError: one of them is unknown, or of another project.
    """
    with ExitStack() as stack:
        _WORK.mkdir(parents=True, exist_ok=True)
        revisions: list[Revision] = []
        commits, config = _commits(names)
        for name, commit in commits:
            folder = Path(".")
            if commit is not None:
                work = tempfile.TemporaryDirectory(prefix="compare-", dir=_WORK)
                folder = Path(stack.enter_context(work))
            try:
                revision = Revision(name, commit, folder, config)
            except (DvcException, SCMError) as error:
                raise ParamsError(f"{name} cannot be read: {_line(error)}") from None
            stack.callback(revision.close)
            revisions.append(revision)
        yield revisions


def _commits(names: Sequence[str]) -> tuple[list[tuple[str, str | None]], dict[str, Any]]:
    """Each name with its commit (None for the working tree), and DVC's configuration."""
    try:
        with Repo(".") as repo:
            commits: list[tuple[str, str | None]] = [
                (WORKSPACE[0], None) if name in WORKSPACE else (name, _commit(repo, name))
                for name in names
            ]
            return commits, {part: repo.config[part] for part in ("cache", "core", "remote")}
    except (DvcException, SCMError) as error:
        raise ParamsError(_line(error)) from None


def _commit(repo: Any, name: str) -> str:
    try:
        return str(resolve_rev(repo.scm, name))
    except (SCMError, DvcException):
        known = [*_experiments(repo), *repo.scm.list_branches(), *repo.scm.list_tags()]
        near = nearest(name, known)
        raise ParamsError(
            f"{name} is no experiment, branch, tag or commit here"
            + (f"; did you mean {near}?" if near else "; `dvc exp list --all-commits` names them")
        ) from None


def _experiments(repo: Any) -> list[str]:
    """Names of all experiments."""
    by_commit = repo.experiments.ls(all_commits=True).values()
    return [name for of_commit in by_commit for name, _ in of_commit]


def _line(error: BaseException) -> str:
    return " ".join(str(error.__cause__ or error).split())


def subject(commit: str | None) -> str:
    """The first line of a commit's message; "" for the working tree and for DVC's own ones."""
    line = "" if commit is None else _git("log", "-1", "--format=%s", commit)
    return "" if line.startswith("dvc: commit experiment") else line


def differing_code(before: Revision, after: Revision) -> tuple[str, ...]:
    """Files of code that differ between two revisions."""
    commits = [r.commit for r in (before, after)]
    if commits == [None, None]:
        return ()
    known = [commit for commit in commits if commit is not None]
    return tuple(_git("diff", "--name-only", *known, "--", *_CODE).splitlines())


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    return done.stdout.strip()
