"""Stored downloads of a list by address: no address is requested twice.

An SQLite file holds the outcome of each address, with its image if there is one. Each outcome is a
separate transaction. A kill loses nothing, and a loss of power loses only what was not yet synced.
"""

import contextlib
import errno
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from albef.data.rejection import Reason
from albef.ingest.download.limits import Limits

FILE = "downloads.sqlite"
"""Name of the file in a list's folder."""
_SETUP = """
PRAGMA auto_vacuum = FULL;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 16384;
CREATE TABLE IF NOT EXISTS downloads (
    address TEXT PRIMARY KEY, attempts INTEGER, max_bytes INTEGER, reason TEXT, detail TEXT,
    passing INTEGER, sha256 TEXT, body BLOB
);
CREATE TEMP TABLE listed (address TEXT PRIMARY KEY);
"""


class Outcome(NamedTuple):
    """Outcome of a download: an image, or the reason why there is none."""

    address: str
    attempts: int
    max_bytes: int
    """Limit of the image size in bytes under which the download ran."""
    reason: str = ""
    detail: str = ""
    is_temporary: bool = False
    """True if another attempt may give another outcome."""
    sha256: str = ""
    """Digest of the image."""

    def is_final(self, limits: Limits) -> bool:
        """Return whether no further attempt is needed under these limits."""
        if not self.reason:
            return True
        if self.reason == Reason.TOO_MANY_BYTES:
            return limits.max_bytes <= self.max_bytes
        if self.reason == Reason.PRIVATE_ADDRESS:
            return not limits.allow_loopback
        return not self.is_temporary or self.attempts >= limits.attempts


class DownloadStore:
    """Outcomes of a list's addresses. One process at a time uses it, from any of its threads.

    Raises:
        OSError: the file cannot be read or written; every method raises this.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        with self._errors():
            self._database = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False
            )
            self._database.executescript(_SETUP)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path)) from error
            raise OSError(
                f"{self._path} cannot be used: {error}. If the file is damaged, remove it; its "
                "images are downloaded again"
            ) from error

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._errors():
            return self._database.execute(statement, values).fetchall()

    def add(self, outcome: Outcome, body: bytes = b"") -> Outcome:
        """Store an outcome with its image, if there is one; return it with the image's digest."""
        if not outcome.reason:
            outcome = outcome._replace(sha256=hashlib.sha256(body).hexdigest())
        insert = "INSERT OR REPLACE INTO downloads VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        self._execute(insert, (*outcome, body))
        return outcome

    def outcomes(self, addresses: Iterable[str]) -> dict[str, Outcome]:
        """Return the stored outcomes of some addresses of the list."""
        select = (
            "SELECT address, attempts, max_bytes, reason, detail, passing, sha256 "
            "FROM downloads WHERE address = ?"
        )
        known = {}
        for address in addresses:
            self._execute("INSERT OR IGNORE INTO listed VALUES (?)", (address,))
            for row in self._execute(select, (address,)):
                outcome = Outcome(*row)
                known[address] = outcome._replace(is_temporary=bool(outcome.is_temporary))
        return known

    def body(self, outcome: Outcome) -> bytes:
        """Return the image of an address."""
        select = "SELECT body FROM downloads WHERE address = ?"
        [[body]] = self._execute(select, (outcome.address,))
        return bytes(body)

    def remove_unlisted(self) -> None:
        """Remove all addresses that were not passed to :meth:`outcomes`."""
        self._execute("DELETE FROM downloads WHERE address NOT IN (SELECT address FROM listed)")

    def close(self) -> None:
        """Close the file."""
        with self._errors():
            self._database.close()
