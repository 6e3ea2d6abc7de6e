"""Files: digests, locks, writing whole or not at all; folders and buckets behind one address.

An address is ``/mnt/a`` or ``s3://bucket/a``; credentials come from the environment or the
machine's role, as for any S3 client.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); run the stage that makes it") from None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file or folder at, which takes its place once it is whole.

    Nothing is left of one that fails. A file at ``path`` is replaced; a folder must not be there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield part
        if part.is_file():
            sync(part)
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8."""
    with atomic(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON with sorted keys, whole or not at all."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


class Locked(ValueError):
    """A lock that another process holds: ``holder``, by its number, or ``?``."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is held by process {holder}")
        self.holder = holder


@contextlib.contextmanager
def lock(path: Path, wait: Callable[[str], object] | None = None) -> Iterator[IO[str]]:
    """Hold a lock file, in which the holder's number stands.

    The kernel frees it when the process dies, however it dies, and with it those that have
    inherited the open file. Whoever holds it may remove the file, and so free it for good.

    Args:
        path: of the file.
        wait: called with the holder before it is waited for; None does not wait.

    Yields:
        The open file, for a child process to hold as well.

    Raises:
        Locked: another process holds it, and ``wait`` is None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "a+", opener=_follow_no_link) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "?"
                if wait is None:
                    raise Locked(path, holder) from None
                wait(holder)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not is_open(file.fileno(), path):  # the one before removed it
                continue
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield file
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # a fork may have the file too
            return


def _follow_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def holder_of(path: Path) -> str | None:
    """The process that holds a lock file now; None where nobody does."""
    with contextlib.suppress(FileNotFoundError), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "?"
    return None


def is_open(file: int, path: Path) -> bool:
    """Whether a path names an open file, by its descriptor."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def opened(url: str, key: str) -> tuple[Any, str]:
    """The file system of fsspec that an address is in, and the path there.

    Args:
        url: the address.
        key: of params.yaml, which names it in errors.

    Raises:
        ValueError: there is no such kind of address, or what it needs is not installed.
    """
    import fsspec  # only where an address is asked for

    try:
        files, path = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{key} {url} cannot be used: {error}") from None
    return files, path
