"""Files and processes: digests, locks, atomic writes, addresses, children that end with us.

An address is ``/mnt/a`` or ``s3://bucket/a``. Credentials come from the environment or the
machine's role, as for any S3 client.
"""

import atexit
import contextlib
import errno
import fcntl
import gc
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk, which name no file."""
# Characters that control a terminal or reorder a line, and halves of characters.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "") -> str:
    """Return a text from outside as one line: control characters not in ``keep`` are escaped."""
    return _UNPRINTABLE.sub(
        lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text
    )


class _Printable:
    """Standard stream on which no text can control the terminal.

    Rich, which does control it, writes to ``rich_proxied_file``.
    """

    def __init__(self, stream: Any) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write a text; control characters other than line breaks and tabs are escaped."""
        self.rich_proxied_file.write(printable(text, keep="\n\t"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextlib.contextmanager
def printable_output() -> Iterator[None]:
    """Escape control characters in everything that this process prints or logs meanwhile."""
    output, errors = _Printable(sys.stdout), _Printable(sys.stderr)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        yield


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """Return a JSON file's content, None if it is missing; raise ValueError if it is damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); run its stage again") from None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path at which to write a file or folder that then replaces ``path``.

    If the block fails, nothing is left of it. A file at ``path`` is replaced; a folder must not
    exist.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        reason = os.strerror(errno.ENOTDIR)
        raise NotADirectoryError(errno.ENOTDIR, reason, str(path.parent)) from None
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield part
        if part.is_file():
            sync(part)
        part.replace(path)
    except OSError as error:
        is_part = str(error.filename).startswith(str(part))
        if is_part or (error.errno in _FULL and error.filename is None):
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk, so that they survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all; text as UTF-8."""
    with atomic(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON with sorted keys, completely or not at all."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def message_of(error: BaseException) -> str:
    """Return an error's message; that of an OSError is the path and the system's reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class LockedError(ValueError):
    """Error for a lock that another process holds. ``holder`` is the process id, or ``?``."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is held by process {holder}")
        self.holder = holder


@contextlib.contextmanager
def lock(path: Path, wait: Callable[[str], object] | None = None) -> Iterator[IO[str]]:
    """Hold a lock file that contains its holder's process id; yield it for a child to hold as well.

    The kernel frees the lock when the process ends in any way, including for processes that
    inherited the open file. The holder may remove the file, which frees the lock permanently.

    ``wait`` is called with the holder before waiting.

    Raises:
        LockedError: another process holds the lock, and ``wait`` is None.
        OSError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "a+", opener=_open_no_link) as file:
            try:
                _flock(file, path, fcntl.LOCK_EX)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "?"
                if wait is None:
                    raise LockedError(path, holder) from None
                wait(holder)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not is_open(file.fileno(), path):  # The previous holder removed the file.
                continue
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield file
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # A forked process may have the file open too.
            return


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _flock(file: IO[str], path: Path, mode: int) -> None:
    """Lock a file without waiting; raise BlockingIOError if another process holds the lock."""
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise OSError(
            f"cannot lock {path}: {error.strerror}; use a file system with flock, such as a local "
            "disk or NFS 4"
        ) from None


def holder_of(path: Path) -> str | None:
    """Return the process id that currently holds a lock file, as text; None if it is free."""
    with contextlib.suppress(FileNotFoundError), path.open() as file:
        try:
            _flock(file, path, fcntl.LOCK_SH)
        except BlockingIOError:
            return file.read().strip() or "?"
    return None


def is_open(file: int, path: Path) -> bool:
    """Return whether a path names an open file, given by its descriptor."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def die_with_parent() -> None:
    """End this process, which multiprocessing started, soon after its parent ends in any way.

    A parent that is killed cannot stop its children, which would keep the locks that they inherit.
    """
    if parent := multiprocessing.parent_process():
        call_after(lambda: os.getppid() == parent.pid, lambda: os._exit(1))


def relax_collector() -> None:
    """Make the garbage collector look through old objects rarely, and not at exit.

    By default, it does so several times while large packages are imported, and again at exit. In an
    export, this takes three seconds. New objects are collected as often as by default.
    """
    gc.set_threshold(*gc.get_threshold()[:2], 1000)
    atexit.register(gc.freeze)


def call_after(lasts: Callable[[], bool], call: Callable[[], object]) -> None:
    """Call a function in a thread soon after ``lasts`` returns false for the first time."""

    def watch() -> None:
        while lasts():
            time.sleep(0.5)
        call()

    threading.Thread(target=watch, daemon=True, name="call-after").start()


def dying_with_parent(command: Sequence[str], signal: str = "KILL") -> list[str]:
    """Return a command that gets a signal when the thread that started it ends in any way.

    It needs util-linux; without it, the command stays as it is.
    """
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", signal, "--"] if setpriv else []), *command]


def open_filesystem(url: str, key: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path in it.

    Raises:
        ValueError: the type of address, which ``key`` of params.yaml has, is unknown, or a required
            package is not installed.
    """
    import fsspec  # Imported only if an address is used.

    try:
        files, path = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{key}: cannot open {url}: {error}") from None
    return files, path
