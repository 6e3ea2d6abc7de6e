"""Files that are written whole or not at all, and locks that die with their holder."""

import errno
import logging
import resource
import subprocess
import sys
import weakref
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from albef.io import (
    LockedError,
    atomic,
    dying_with_parent,
    holder_of,
    lock,
    printable,
    printable_output,
    relax_collector,
    write_atomic,
)

HOLD = """
import sys
from pathlib import Path
from albef.io import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_text_from_outside_is_printed_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b[2K\r\nb\x9b\u202e\udc80\u2028\té犬"
    assert printable(text) == r"a\u001b[2K\u000d\u000ab\u009b\u202e\udc80\u2028\u0009é犬"
    with printable_output():
        print("a\x1b[31m\n\tb")
        log = logging.Logger("tests")
        log.addHandler(logging.StreamHandler())
        log.error("c\x1b[31m")
        Console(force_terminal=True).print("[bold]d", end="")
    assert capsys.readouterr() == ("a\\u001b[31m\n\tb\n\x1b[1md\x1b[0m", "c\\u001b[31m\n")


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match=f"File too large: '{tmp_path}/a.json'"):
            write_atomic(tmp_path / "a.json", "x" * 99)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.json"
    write_atomic(path, "ü")
    assert path.read_bytes() == "ü".encode()
    with pytest.raises(UnicodeEncodeError), atomic(path) as part:
        part.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "ü"
    with atomic(tmp_path / "made") as part:
        part.mkdir()
        (part / "x").touch()
    with pytest.raises(FileExistsError), atomic(tmp_path / "not") as part:
        [part.mkdir() for _ in range(2)]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.json", "below", "made", "x"]


def test_a_lock_is_held_once_and_names_its_holder_until_that_one_dies(tmp_path: Path) -> None:
    path = tmp_path / "below" / "lock"
    assert holder_of(path) is None
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert holder_of(path) == str(other.pid)
        with pytest.raises(LockedError) as caught, lock(path):
            pass
        assert caught.value.holder == str(other.pid)
        waited: list[str] = []

        def wait(holder: str) -> None:
            waited.append(holder)
            other.kill()

        with lock(path, wait):
            assert waited == [str(other.pid)]
            with pytest.raises(LockedError), lock(path):
                pass
    assert holder_of(path) is None


def test_a_lock_whose_file_was_removed_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = lock(path)
    file = first.__enter__()

    def done(_: str) -> None:
        path.unlink()
        first.__exit__(None, None, None)

    with lock(path, done) as second:
        assert file.closed
        assert path.samefile(second.name)
        with pytest.raises(LockedError), lock(path):
            pass


def test_a_command_ends_with_a_parent_that_is_killed() -> None:
    script = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    command = dying_with_parent(["sh", "-c", "echo started; exec sleep 60"], "TERM")
    parent = subprocess.Popen([sys.executable, "-c", script, *command], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
        assert not psutil.wait_procs([child], timeout=20)[1]


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    path = tmp_path / "run.lock"
    for call in (lambda: lock(path).__enter__(), lambda: holder_of(path)):
        with pytest.raises(OSError, match=rf"cannot lock {path}: No locks .* file system with"):
            call()


def test_a_relaxed_collector_frees_new_objects() -> None:
    class Node:
        own: object = None

    relax_collector()
    node = Node()
    node.own, freed = node, weakref.ref(node)
    del node
    many = [[number] for number in range(10_000)]
    assert freed() is None, len(many)
