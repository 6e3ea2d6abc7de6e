"""A release is killed before and after every git command, and another clone releases meanwhile:
run again, it completes or leaves nothing, and the remote has what is told."""

import contextlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flows import git
from flows.releases import release
from flows.releases.registry import Registry
from tests.chaos.conftest import SEED
from tests.flows.shop import JUDGED, build
from tests.flows.toy import Toy

pytestmark = pytest.mark.chaos
SHIM = """\
#!/bin/sh
# The n-th git command of the process that starts it: killed before, after, or another's turn.
n=$(( $(cat "$CHAOS/count" 2>/dev/null || echo 0) + 1 ))
echo $n > "$CHAOS/count"
echo "$n $*" >> "$CHAOS/log"
if [ $n != "$CHAOS_AT" ]; then exec %(git)s "$@"; fi
case "$CHAOS_HOW" in
before) kill -9 $PPID ;;
after) %(git)s "$@"; kill -9 $PPID ;;
orphan) kill -9 $PPID; exec %(git)s "$@" ;;
meanwhile) echo > "$CHAOS/turn"; read -r _ < "$CHAOS/turn"; exec %(git)s "$@" ;;
esac
"""
TAGS = {"retrieval@v0.1", "retrieval#prod"}
"""How the tags of a release begin."""
CHANGING = {"before": "", "after": r" (add|commit|push|version)", "orphan": " push "}
"""What is killed how: after what changes nothing it is as before the next; a push goes on alone."""
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tests.chaos.test_release", "flows.releases.release"])


class Ended(NamedTuple):
    """How a release ended: its exit code, and what it said."""

    code: int
    said: str
    commands: list[str]


def _noted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, after which it may be killed as after a command."""

    def call(*args: Any) -> Any:
        answer = function(*args)
        git.git("version")
        return answer

    return call


def _released(folder: Path, environment: dict[str, str], back: bool, said: Path) -> None:
    """Be a release, in a process of its own that can be killed."""
    os.chdir(folder)
    os.environ.update(environment)
    release._judge = lambda *args: JUDGED  # type: ignore[assignment]
    for name in ("lacking", "register", "assign"):  # of DVC and GTO, in this process
        setattr(Registry, name, _noted(getattr(Registry, name)))
    with said.open("w", buffering=1) as file, contextlib.redirect_stdout(file):
        try:
            options = {"approve": True, "back": back, "dry": False}
            release.main("retrieval", "prod", "minor", accept_limits=False, key=None, **options)
        except ValueError as refused:
            file.write(f"refused: {refused}")
            sys.exit(1)


class Clone(Toy):
    """A clone whose releases are run in processes of their own."""

    def release(self, at: int = 0, how: str = "", *, back: bool = False) -> Ended:
        process, chaos = self.begin(at, how, back=back)
        process.join()
        return self.ended(process, chaos)

    def begin(
        self, at: int = 0, how: str = "", *, back: bool = False
    ) -> tuple[multiprocessing.process.BaseProcess, Path]:
        chaos = self.path.parent / f"{self.path.name}.chaos"
        shutil.rmtree(chaos, ignore_errors=True)
        chaos.mkdir()
        os.mkfifo(chaos / "turn")
        shim = chaos / "git"
        shim.write_text(SHIM % {"git": shutil.which("git")})
        shim.chmod(0o755)
        environment = {k: v for k, v in self.env.items() if k.startswith("GIT_")}
        environment |= {"CHAOS": str(chaos), "CHAOS_AT": str(at), "CHAOS_HOW": how}
        environment["PATH"] = f"{chaos}{os.pathsep}{self.env['PATH']}"
        arguments = (self.path, environment, back, chaos / "said")
        process = FORK.Process(target=_released, args=arguments)
        process.start()
        return process, chaos

    def ended(self, process: multiprocessing.process.BaseProcess, chaos: Path) -> Ended:
        log = chaos / "log"
        assert process.exitcode is not None
        commands = log.read_text().splitlines() if log.exists() else []
        return Ended(process.exitcode, (chaos / "said").read_text(), commands)


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_export: Path
) -> Clone:
    """An evaluated export in a clone, pushed to real remotes in folders; and a clone of it."""
    folder = tmp_path_factory.mktemp("shop")
    arguments = folder, str(folder / "store"), tiny_checkpoint, tiny_export
    clone = Clone(build(folder / "project", *arguments).path, folder)
    clone.sh(f"cp -r {folder}/project {folder}/other")
    return clone


def fresh(made: Clone) -> tuple[Clone, Clone]:
    """Two clones and their remote, as nobody has released yet."""
    start = made.sh("git rev-parse :/^start").strip()
    bare = f"{made.path}.git"
    both = made, Clone(made.path.parent / "other", made.path.parent)
    made.sh(f"git -C {bare} update-ref refs/heads/main {start}")
    for repository in (bare, *(clone.path for clone in both)):
        made.sh(f"git -C {repository} tag --list | xargs -r git -C {repository} tag -d")
    for clone in both:
        clone.sh(
            f"rm -f .git/*.lock {git.BEFORE_RELEASE}; git reset -q --hard {start}; git clean -qfd"
        )
        clone.sh("git fetch -q --prune --prune-tags origin")
    return both


def tags(clone: Clone, remote: bool = False) -> set[str]:
    command = "git ls-remote --tags --refs origin" if remote else "git show-ref --tags || true"
    return {line.replace("\t", " ") for line in clone.sh(command).splitlines()}


def check(clone: Clone, ended: Ended) -> None:
    """Nothing of a release is half there, and what is told is so."""
    shown = f"CHAOS_SEED={SEED}: {ended}"
    assert ended.code in (0, 1), shown
    assert not (clone.path / git.BEFORE_RELEASE).exists(), shown
    assert clone.sh("git status --porcelain") == "", shown
    there = tags(clone, remote=True)
    assert tags(clone) <= there, shown
    assert clone.sh("git rev-list @{upstream}..HEAD") == "", shown
    names = [tag.split("refs/tags/")[1] for tag in there]
    assert len([name for name in names if "@" in name]) <= 1, shown  # one export, one version
    for told in re.findall(r"retrieval[@#][^\s,]+", ended.said) if ended.code == 0 else ():
        assert told in names, shown


def settle(clone: Clone) -> None:
    """Run a release again until it says that all is done, as a user who does what it says."""
    for _ in range(4):
        ended = clone.release()
        check(clone, ended)
        if "nothing to release" in ended.said:
            break
        if ended.code:
            assert "`git pull`" in ended.said, ended
            clone.sh("git pull -q --ff-only")
    else:
        raise AssertionError(f"CHAOS_SEED={SEED}: {ended}")
    assert tags(clone) == tags(clone, remote=True)
    assert {tag.split("refs/tags/")[1][:14] for tag in tags(clone)} == TAGS


def points(whole: Ended, rng: random.Random, some: int) -> list[int]:
    """Commands of a release that something befalls: all once it has begun, and some before."""
    begun = next(i for i, line in enumerate(whole.commands, 1) if "for-each-ref" in line)
    last = len(whole.commands)
    return sorted([*rng.sample(range(1, begun), some), *range(begun, last + 1)])


@pytest.mark.parametrize("how", CHANGING)
def test_a_release_that_is_killed_at_a_command_completes_or_leaves_nothing(
    made: Clone, how: str
) -> None:
    rng = random.Random(f"{SEED} {how}")
    clone, other = fresh(made)
    whole = clone.release()
    check(clone, whole)
    assert whole.code == 0
    for at in points(whole, rng, 3):
        if not re.search(CHANGING[how], whole.commands[at - 1]):
            continue
        clone, other = fresh(made)
        killed = clone.release(at, how)
        assert killed.code == -signal.SIGKILL, whole.commands[at - 1]
        if rng.random() < 0.5:  # so is the one that would take it back
            clone.release(rng.randrange(1, 20), rng.choice(["before", "after"]))
        if rng.random() < 0.5:  # another clone was first, or finds it pushed
            check(other, other.release())
        settle(clone)


def test_another_clone_releases_between_two_commands(made: Clone) -> None:
    rng = random.Random(f"{SEED} meanwhile")
    whole = fresh(made)[0].release()
    for at in points(whole, rng, 2):
        clone, other = fresh(made)
        process, chaos = clone.begin(at, "meanwhile")
        (chaos / "turn").read_text()
        check(other, other.release())
        (chaos / "turn").write_text("go\n")
        process.join()
        check(clone, clone.ended(process, chaos))
        settle(clone)
        settle(other)
