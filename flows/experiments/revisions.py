"""Experiments, branches, tags and commits, and their files as recorded. No stage runs again.

The files of a revision come from git, DVC's cache or a remote, in this order. They go to a separate
folder; files in the cache are linked, not copied.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import SCMError, resolve_rev
from dvc_data.index import DataIndexDirError

from albef.config import ParamsError, nearest, read_yaml
from albef.layout import PARAMS, layout_of
from flows.git import try_git
from flows.graph import one_line

WORKSPACE = ("workspace", ".")
"""Names of the work tree."""
SEEDS = ("seed", "data_seed")
"""Values in which repetitions of a run differ."""
CODE = ("albef", "pipelines", "dvc.yaml")
"""Code that results depend on in addition to values."""
_WORK = Path(".dvc/tmp")


class RevisionUnavailableError(ValueError):
    """Error for files of a ``revision`` that are not available locally or in a remote."""

    def __init__(self, revision: str, text: str) -> None:
        self.revision = revision
        super().__init__(text)


class Revision:
    """A revision and its files.

    Attributes:
        name: the revision as the user names it; the experiment's name if that is a ref.
        commit: SHA-1 of the commit; None for the work tree.
        folder: folder that receives the files when they are requested.
        params: content of its params.yaml as plain values.
        seeds: its :data:`SEEDS`. If the data have no separate seed, the other seed is repeated.
    """

    def __init__(self, name: str, commit: str | None, folder: Path, files: Any = None) -> None:
        """Read the params of a revision. ``files`` is the file system of a commit."""
        self.name, self.commit, self.folder, self._files = name, commit, folder, files
        if not self.fetch(PARAMS):
            raise ParamsError(f"{name} has no {PARAMS}; give a revision of this project")
        self.params = read_yaml(folder / PARAMS)
        self.layout = layout_of(self.params, f"{PARAMS} of {name}")
        seed = int(self.params.get("seed", 0))
        self.seeds = tuple(int(self.params.get(key, seed)) for key in SEEDS)

    def subject(self) -> str:
        """Return the first line of the commit message; "" for the work tree and commits by DVC."""
        line = self.commit and try_git("log", "-1", "--format=%s", self.commit)
        return "" if not line or line.startswith("dvc: commit experiment") else line

    def fetch(self, path: Path) -> Path | None:
        """Return the local path of a file or folder; None if the revision does not have it.

        Raises:
            RevisionUnavailableError: it is neither available locally nor in a remote.
        """
        local = self.folder / path
        if local.exists() or self._files is None:
            return local if local.exists() else None
        name = path.as_posix()
        try:
            if not self._files.exists(name):
                return None
            local.parent.mkdir(parents=True, exist_ok=True)
            self._files.get(name, str(local), recursive=self._files.isdir(name))
        except Exception as error:  # The libraries of remotes have errors of many types.
            is_missing = isinstance(error, FileNotFoundError | DataIndexDirError)
            why = "" if is_missing else f" ({one_line(error)})"
            raise RevisionUnavailableError(
                self.name,
                f"{self.name}: {path} is neither in DVC's cache nor in a remote{why}; run `dvc "
                "push` (for an experiment, `dvc exp push`) where it was made, then `dvc fetch`",
            ) from None
        return local if local.exists() else None


@contextmanager
def files_at(revision: str, **sections: Any) -> Iterator[Any]:
    """Yield a file system of a revision that includes the files DVC tracks.

    Cache and remotes are those of the current configuration, not of the revision. ``sections``
    replace sections of that configuration.
    """
    with Repo(".") as repo:
        config = {part: repo.config[part] for part in ("cache", "core", "remote")}
    files = DVCFileSystem(".", rev=revision, config=config | sections)
    try:
        yield files
    finally:
        files.close()


@contextmanager
def opened(names: Sequence[str]) -> Iterator[list[Revision]]:
    """Yield the revisions with these names.

    Raises:
        ParamsError: a revision is unknown, or belongs to another project.
    """
    with ExitStack() as stack:
        _WORK.mkdir(parents=True, exist_ok=True)
        try:
            with Repo(".") as repo:
                commits = [None if name in WORKSPACE else _commit(repo, name) for name in names]
            revisions = []
            for name, commit in zip(names, commits, strict=True):
                if commit is None:
                    revisions.append(Revision(WORKSPACE[0], None, Path()))
                    continue
                work = tempfile.TemporaryDirectory(prefix="compare-", dir=_WORK)
                folder = Path(stack.enter_context(work))
                files = stack.enter_context(files_at(commit))
                name = name.rpartition("/")[2] if name.startswith("refs/exps/") else name
                revisions.append(Revision(name, commit, folder, files))
        except (DvcException, SCMError) as error:
            raise ParamsError(one_line(error)) from None
        yield revisions


def _commit(repo: Any, name: str) -> str:
    try:
        return str(resolve_rev(repo.scm, name))
    except (SCMError, DvcException):
        by_commit = repo.experiments.ls(all_commits=True).values()
        experiments = [experiment for entries in by_commit for experiment, _ in entries]
        match = nearest(name, [*experiments, *repo.scm.list_branches(), *repo.scm.list_tags()])
        raise ParamsError(
            f"{name} is not an experiment, branch, tag or commit"
            + (f"; did you mean {match}?" if match else "; see `dvc exp list --all-commits`")
        ) from None


def differing_code(before: Revision, after: Revision) -> tuple[str, ...]:
    """Return the code files that differ between two revisions."""
    commits = [revision.commit for revision in (before, after) if revision.commit is not None]
    if not commits:
        return ()
    changed = (try_git("diff", "--name-only", *commits, "--", *CODE) or "").splitlines()
    if len(commits) == 1:  # The other one is the work tree, which may have new files.
        changed += (try_git("ls-files", "--others", "--exclude-standard", *CODE) or "").splitlines()
    return tuple(changed)
