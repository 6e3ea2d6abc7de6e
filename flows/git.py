"""Git operations of a release: check what is committed and pushed; publish a commit with tags."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from albef.config import ParamsError, read_yaml
from albef.io import read_json, write_json
from albef.layout import PARAMS
from albef.run_record import inputs

BEFORE_RELEASE = Path(".dvc/tmp/albef-release.json")
"""Record of the state before the current release, or before one that was killed."""


class OvertakenError(ParamsError):
    """Error for a release during which another clone pushed."""

    exit_code = 1


def git(*args: str) -> str:
    """Return the output of a git command, which runs without prompting.

    Raises:
        ParamsError: the command failed. The message contains git's reason.
    """
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    completed = subprocess.run(
        ["git", *args], capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )
    if completed.returncode:
        reason = " ".join((completed.stderr or completed.stdout).split()) or completed.returncode
        raise ParamsError(f"`git {' '.join(args)}` failed: {reason}")
    return completed.stdout.strip()


def try_git(*args: str) -> str | None:
    """Return the output of a git command, or None if it fails."""
    try:
        return git(*args)
    except ParamsError:
        return None


def upstream() -> tuple[str, str] | None:
    """Return the branch's remote and the full name of the branch there, or None if it has none."""
    branch = try_git("symbolic-ref", "--quiet", "--short", "HEAD")
    remote = branch and try_git("config", f"branch.{branch}.remote")
    merge = branch and try_git("config", f"branch.{branch}.merge")
    return (remote, merge) if remote and merge else None


def fetch() -> None:
    """Fetch all remotes with their tags, since another clone may have released in the meantime.

    Raises:
        ParamsError: a remote cannot be reached.
    """
    for remote in git("remote").split():
        git("fetch", "--quiet", "--tags", remote)


def uncommitted(needed: Sequence[Path], excluded: Sequence[Path] = ()) -> Iterator[str]:
    """Yield an error message for each reason why git cannot record the work tree.

    Args:
        needed: files that git must track.
        excluded: paths that may differ from HEAD.
    """
    if _has_commit():
        if try_git("rev-parse", "--show-prefix"):
            yield "the project must be the root of its git repository, because GTO's tags need it"
        exclusions = [f":(exclude){path.as_posix()}" for path in excluded]
        if changed := git("status", "--porcelain", "--untracked-files=no", "--", ".", *exclusions):
            names = [line.split(maxsplit=1)[1] for line in changed.splitlines()]
            yield f"uncommitted changes: {_some(names)}; commit or undo them"
    yield from unrecordable(needed)


def unrecordable(needed: Sequence[Path] = ()) -> Iterator[str]:
    """Yield an error message if git cannot commit, or does not track a file that stages read."""
    if not _has_commit():
        yield "the repository has no commit; run `git add -A && git commit`"
        return
    missing = [str(path) for path in needed if not git("ls-files", "--", str(path))]
    paths = inputs(read_yaml(Path("dvc.yaml"))["stages"], read_yaml(PARAMS))
    options = ("ls-files", "--others", "--exclude-standard", "--")
    missing += git("--literal-pathspecs", *options, *paths).splitlines()
    if missing:
        yield f"files that git does not track: {_some(missing)}; add and commit them"
    if try_git("var", "GIT_COMMITTER_IDENT") is None:
        yield (
            "git has no committer; run `git config user.name NAME` and `git config user.email "
            "ADDRESS`"
        )


def _has_commit() -> bool:
    return try_git("rev-parse", "--verify", "HEAD") is not None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def unpushed() -> Iterator[str]:
    """Yield an error message for commits that HEAD and its remote, if any, do not share."""
    remotes = git("remote").split()
    if not remotes:
        return
    counts = try_git("rev-list", "--left-right", "--count", "HEAD...@{upstream}")
    if counts is None:
        yield f"the branch has no upstream; run `git push --set-upstream {remotes[0]} HEAD`"
        return
    ahead, behind = counts.split()
    if ahead != "0":
        yield f"unpushed git commits: {ahead}; run `git push`"
    if behind != "0":
        yield f"unpulled git commits: {behind}; run `git pull`"


@contextlib.contextmanager
def transaction(run: str, paths: Sequence[Path]) -> Iterator[None]:
    """Push the commit and tags that the ``with`` block makes for a release, or undo all of them.

    The block writes the files at ``paths``, which must be as in HEAD before. If the process is
    killed within the block, :func:`recover` undoes what it did.
    """
    head = git("rev-parse", "HEAD")
    state = {"run": run, "head": head, "tags": sorted(_tags(run)), "paths": [*map(str, paths)]}
    write_json(BEFORE_RELEASE, state)
    try:
        yield
        _push(run, commit=git("rev-parse", "HEAD") != head)
    except BaseException:
        _undo(state, try_git)
        raise
    BEFORE_RELEASE.unlink()


def recover() -> None:
    """Undo what a killed release did, unless all of it was pushed.

    Raises:
        ParamsError: the remote cannot be reached.
    """
    if (state := read_json(BEFORE_RELEASE)) is not None:
        _undo(state, git)


def _undo(state: Mapping[str, Any], call: Callable[..., str | None]) -> None:
    run, head = state["run"], state["head"]
    new_tags = _tags(run) - set(state["tags"])
    lacking = new_tags - _pushed(run, call)
    if lacking or not new_tags:
        for tag in lacking:
            git("tag", "--delete", _tag_name(tag))
        if git("log", "-1", "--format=%P %s").startswith(f"{head} Release {run} "):
            git("reset", "--quiet", "--keep", head)
        if git("rev-parse", "HEAD") == head:  # Otherwise someone committed in the meantime.
            for path in map(Path, state["paths"]):
                try_git("reset", "--quiet", "--", str(path))
                if show(head, path) is None:
                    path.unlink(missing_ok=True)
                else:
                    git("checkout", "--quiet", "--", str(path))
    BEFORE_RELEASE.unlink()


def commit_release(run: str, version: str, files: Sequence[Path]) -> None:
    """Commit the files of a release alone."""
    paths = [*map(str, files)]
    git("add", "--", *paths)
    git("commit", "--quiet", "--message", f"Release {run} {version}", "--", *paths)


def unpushed_tags(run: str) -> list[str]:
    """Return the tags of a run that the remote lacks; empty without a remote."""
    return sorted(map(_tag_name, _tags(run) - _pushed(run, git))) if remote() else []


def _tags(run: str) -> set[str]:
    format_ = "--format=%(objectname)%09%(refname)"
    return set(git("for-each-ref", format_, *_patterns(run)).splitlines())


def _pushed(run: str, call: Callable[..., str | None]) -> set[str]:
    """Return the run's tags of the remote in the same format; empty without a remote."""
    target = remote()
    lines = target and call("ls-remote", "--refs", target, *_patterns(run))
    return set((lines or "").splitlines())


def _patterns(run: str) -> tuple[str, str]:
    return f"refs/tags/{run}@*", f"refs/tags/{run}#*"


def _tag_name(tag: str) -> str:
    return tag.split("refs/tags/")[1]


def remote() -> str | None:
    """Return the remote of a release: the branch's, else the first one; None if there is none."""
    target = upstream()
    return target[0] if target else next(iter(git("remote").split()), None)


def _push(run: str, *, commit: bool) -> None:
    """Push a run's tags, and HEAD to its branch if there is a new commit: all or nothing."""
    if target := remote():
        branch = upstream() if commit else None
        refs = [f"refs/tags/{_tag_name(tag)}" for tag in sorted(_tags(run))]
        refs += [f"HEAD:{branch[1]}"] if branch else []
        try:
            git("push", "--quiet", "--atomic", target, *refs)
        except ParamsError:
            if _is_overtaken(run, target):
                raise OvertakenError(
                    f"{target} has newer commits or releases; `git pull` and run this again"
                ) from None
            raise


def _is_overtaken(run: str, target: str) -> bool:
    try_git("fetch", "--quiet", "--no-tags", target)
    behind = try_git("rev-list", "--count", "HEAD..@{upstream}") or "0"
    return behind != "0" or bool(_pushed(run, try_git) - _tags(run))


def show(revision: str, path: Path) -> str | None:
    """Return the text of a file at a revision; None if the revision does not have it."""
    return try_git("show", f"{revision}:{path.as_posix()}")
