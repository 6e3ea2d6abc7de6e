"""Git, as far as a release needs it: what is committed and pushed, and one commit with its tags."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from albef.config import ParamsError

NOBODY = (
    "git does not know who you are; tell it with `git config user.name NAME` and "
    "`git config user.email ADDRESS`"
)
"""What to say where git refuses to commit."""


def git(*args: str) -> str:
    """What a git command says; it never asks.

    Raises:
        ParamsError: it failed; in its words.
    """
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(
        ["git", *args], capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split()) or done.returncode
        raise ParamsError(f"`git {' '.join(args)}` failed: {reason}")
    return done.stdout.strip()


def ask(*args: str) -> str | None:
    """The same, or None where it fails."""
    try:
        return git(*args)
    except ParamsError:
        return None


def upstream() -> tuple[str, str] | None:
    """The remote that the branch is pushed to and the full name of the branch there, if any."""
    branch = ask("symbolic-ref", "--quiet", "--short", "HEAD")
    remote = branch and ask("config", f"branch.{branch}.remote")
    merge = branch and ask("config", f"branch.{branch}.merge")
    return (remote, merge) if remote and merge else None


def fetch() -> None:
    """Learn what the remotes have, tags included: another clone may have released meanwhile.

    Raises:
        ParamsError: a remote is out of reach.
    """
    for remote in git("remote").split():
        git("fetch", "--quiet", "--tags", remote)


def uncommitted(needed: Sequence[Path], apart: Sequence[Path] = ()) -> Iterator[str]:
    """Why HEAD does not hold the state of the work tree, and who commits, in sentences.

    Args:
        needed: files that must be in git.
        apart: files and folders that need not be as in HEAD.
    """
    if ask("rev-parse", "--verify", "HEAD") is None:
        yield "there is no commit yet; make one with `git add -A && git commit`"
        return
    if ask("rev-parse", "--show-prefix"):
        yield "the project is not at the root of its git repository, where GTO's tags need it"
    but = [f":(exclude){path.as_posix()}" for path in apart]
    if changed := git("status", "--porcelain", "--untracked-files=no", "--", ".", *but):
        names = [line.split(maxsplit=1)[1] for line in changed.splitlines()]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"not as in the last commit: {', '.join(names[:3])}{more}; commit or undo that"
    if strange := [str(path) for path in needed if not git("ls-files", "--", str(path))]:
        yield f"{', '.join(strange)} is not in git; `git add` and commit it"
    if ask("var", "GIT_COMMITTER_IDENT") is None:
        yield NOBODY


def unpushed() -> Iterator[str]:
    """What of HEAD a remote lacks, or has more, in sentences; nothing where there is no remote."""
    remotes = git("remote").split()
    if not remotes:
        return
    if upstream() is None or ask("rev-parse", "--verify", "@{upstream}") is None:
        yield f"the branch is pushed nowhere; `git push --set-upstream {remotes[0]} HEAD`"
        return
    ahead, behind = git("rev-list", "--left-right", "--count", "HEAD...@{upstream}").split()
    if ahead != "0":
        yield f"git commits that are not pushed: {ahead}; `git push`"
    if behind != "0":
        yield f"git commits of the remote that are not here: {behind}; `git pull`"


@contextlib.contextmanager
def whole(paths: Sequence[Path], tags: Sequence[str]) -> Iterator[None]:
    """Commit and tag within, and push after it; or nothing of it is left.

    Args:
        paths: files that are written within; they were as HEAD has them.
        tags: made within, filled as they are.
    """
    before = git("rev-parse", "HEAD")
    try:
        yield
        _push(tags, commit=git("rev-parse", "HEAD") != before)
    except BaseException:
        for tag in tags:
            ask("tag", "--delete", tag)
        if git("rev-parse", "HEAD") != before:
            git("reset", "--quiet", "--keep", before)
        for path in paths:  # of a commit that did not come about
            ask("reset", "--quiet", "--", str(path))
            if show(before, path) is None:
                path.unlink(missing_ok=True)
            else:
                git("checkout", "--quiet", "--", str(path))
        raise


def remote() -> str | None:
    """The remote that a release goes to: the branch's, or the first; None where there is none."""
    target = upstream()
    return target[0] if target else next(iter(git("remote").split()), None)


def _push(tags: Sequence[str], *, commit: bool) -> None:
    """Push tags, and HEAD where its branch goes if there is a new commit: all of it or nothing.

    Raises:
        ParamsError: the remote refused.
    """
    if where := remote():
        branch = upstream() if commit else None
        refs = [*(f"refs/tags/{tag}" for tag in tags), *([f"HEAD:{branch[1]}"] if branch else [])]
        git("push", "--quiet", "--atomic", where, *refs)


def show(revision: str, path: Path) -> str | None:
    """A file as a revision has it; None where it has none."""
    return ask("show", f"{revision}:{path.as_posix()}")
