"""Copies of finished training states in a bucket or folder, for a machine that may be taken away.

States carry their digest in their name, so a copy that was cut off is noticed when it is read.
"""

import contextlib
import logging
import os
import posixpath
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from albef.io import atomic, opened

log = logging.getLogger(__name__)


class Mirror:
    """The newest files of a folder at an address of fsspec (``s3://bucket/a``, ``/mnt/b``).

    Copies are made in the background, one after the other. A mirror that fails is warned of, and
    the training goes on without it.

    Args:
        url: where all mirrors are; credentials come from the environment.
        name: of this one.

    Raises:
        ValueError: there is no such kind of address, or what it needs is not installed.
    """

    def __init__(self, url: str, name: str) -> None:
        self._files, root = opened(url, "runtime.mirror")
        self._root = posixpath.join(root, name)
        self.url = f"{url.rstrip('/')}/{name}"
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._last: Future[None] | None = None

    def push(self, path: Path, pattern: str, keep: int) -> None:
        """Copy a file, in the background, and keep the last ``keep`` of those like ``pattern``.

        The file may be removed or replaced meanwhile: its content is held by a link.
        """
        held = path.with_name(f".mirror-{path.name}")
        held.unlink(missing_ok=True)
        os.link(path, held)
        self._last = self._pool.submit(self._push, held, path.name, pattern, keep)

    def _push(self, held: Path, name: str, pattern: str, keep: int) -> None:
        try:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.put_file(str(held), f"{self._root}/{name}")
            for old in self._names(pattern)[keep:]:
                self._files.rm_file(f"{self._root}/{old}")
        except Exception as error:  # of each kind of store another; none is worth a training
            log.warning("%s is not mirrored to %s: %s", name, self.url, error)
        finally:
            held.unlink(missing_ok=True)

    def pull(self, folder: Path, pattern: str) -> list[str]:
        """Fetch the files like ``pattern`` that ``folder`` lacks; their names.

        Raises:
            OSError: the mirror cannot be read. Going on without it would start anew.
        """
        fetched = []
        try:
            for name in self._names(pattern):
                if not (folder / name).exists():
                    with atomic(folder / name) as part:
                        self._files.get_file(f"{self._root}/{name}", str(part))
                    fetched.append(name)
        except Exception as error:
            raise OSError(
                f"the mirror {self.url} cannot be read ({error}); mend it or set runtime.mirror "
                "to null"
            ) from error
        return fetched

    def _names(self, pattern: str) -> list[str]:
        """What there is like ``pattern``, the last by letter first."""
        self._files.invalidate_cache()
        paths: list[Any] = self._files.glob(f"{self._root}/{pattern}")
        return sorted((posixpath.basename(str(path)) for path in paths), reverse=True)

    def wait(self) -> None:
        """Until all copies are made."""
        if self._last:
            self._last.result()

    def clear(self) -> None:
        """Remove all copies: the training is done."""
        self.wait()
        with contextlib.suppress(FileNotFoundError):
            self._files.invalidate_cache()
            self._files.rm(self._root, recursive=True)
