"""Copies of training checkpoints in a bucket or folder, for a machine that may be preempted.

A truncated copy is detected when it is read, because a file's name contains its digest.
"""

import contextlib
import fnmatch
import itertools
import logging
import os
import posixpath
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from albef.io import atomic, open_filesystem

log = logging.getLogger(__name__)
PENDING = ".mirror-{}"
"""Name of a file that waits to be copied."""


class Mirror:
    """Copies of the newest files of a folder at an fsspec address (``s3://bucket/a``, ``/mnt/b``).

    Copies are made in the background. If one fails, a warning is logged and training continues.
    ``url`` is the parent folder of all mirrors. Credentials come from the environment.

    Raises:
        ValueError: the kind of address is unknown, or a package it needs is not installed.
    """

    def __init__(self, url: str, name: str) -> None:
        self._files, root = open_filesystem(url, "runtime.mirror")
        self._root = posixpath.join(root, name)
        self.url = f"{url.rstrip('/')}/{name}"
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._numbers = itertools.count()
        self._pending: dict[str, tuple[Path, str, int]] = {}
        self._lock = threading.Lock()

    def push(self, path: Path, pattern: str, keep: int) -> None:
        """Copy a file in the background, and keep the last ``keep`` files that match ``pattern``.

        Of several waiting files that match, only the newest is copied. A link (or a copy) holds the
        content, so the file may be removed meanwhile.
        """
        staged = path.with_name(PENDING.format(f"{next(self._numbers)}-{path.name}"))
        try:
            try:
                os.link(path, staged)
            except OSError:
                shutil.copyfile(path, staged)
        except OSError as error:
            log.warning("cannot copy %s to the mirror %s: %s", path.name, self.url, error)
            return
        with self._lock:
            replaced = self._pending.pop(pattern, None)
            self._pending[pattern] = staged, path.name, keep
        if replaced:
            replaced[0].unlink()
        self._pool.submit(self._push)

    def _push(self) -> None:
        with self._lock:
            if not self._pending:
                return
            pattern = next(iter(self._pending))
            staged, name, keep = self._pending.pop(pattern)
        try:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.put_file(str(staged), f"{self._root}/{name}")
            names = self.names(pattern)
            position = names.index(name)  # newer names are damaged or of an abandoned run
            for stale in names[:position] + names[position + keep :]:
                self._files.rm_file(f"{self._root}/{stale}")
        except Exception as error:  # stores raise many types; none may stop a training
            log.warning("cannot copy %s to the mirror %s: %s", name, self.url, error)
        finally:
            staged.unlink(missing_ok=True)

    def names(self, pattern: str) -> list[str]:
        """Return the copies that match ``pattern``, in descending order of name.

        Raises:
            OSError: the mirror cannot be read. Continuing without it would lose steps.
        """
        try:
            self._files.invalidate_cache()
            paths = self._files.ls(self._root, detail=False)  # unlike its glob it raises errors
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._unreadable(error) from error
        names = (posixpath.basename(str(path)) for path in paths)
        return sorted(fnmatch.filter(names, pattern), reverse=True)

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file of the mirror to ``path``.

        Raises:
            OSError: the mirror cannot be read, or ``path`` cannot be written.
        """
        try:
            with atomic(path) as part:
                self._files.get_file(f"{self._root}/{name}", str(part))
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> OSError:
        return OSError(
            f"cannot read the mirror {self.url} ({error}); set runtime.mirror to null to train "
            "without it"
        )

    def wait(self) -> None:
        """Wait until all copies are made."""
        self._pool.submit(int).result()  # copies are made one after the other

    def clear(self) -> None:
        """Remove all copies after the training is done."""
        self.wait()
        with contextlib.suppress(FileNotFoundError):
            self._files.invalidate_cache()
            self._files.rm(self._root, recursive=True)
