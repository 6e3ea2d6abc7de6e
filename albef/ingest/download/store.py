"""What was downloaded of a list, kept by address so that nothing is asked for twice.

An SQLite file holds the outcome of each address, with its picture if there is one. Each is a
transaction of its own: a kill loses nothing, and a loss of power only what was not yet synced.
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from albef.data.refusal import Reason
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
    """How a download ended: with a picture, or why there is none."""

    address: str
    attempts: int
    max_bytes: int
    """Bytes that a picture might have had."""
    reason: str = ""
    detail: str = ""
    passing: bool = False
    """Whether it may be different another time."""
    sha256: str = ""
    """Digest of the picture."""

    def holds(self, limits: Limits) -> bool:
        """Whether it need not be tried again under these limits."""
        if not self.reason:
            return True
        if self.reason == Reason.TOO_MANY_BYTES:
            return limits.max_bytes <= self.max_bytes
        if self.reason == Reason.PRIVATE_ADDRESS:
            return not limits.allow_loopback
        return not self.passing or self.attempts >= limits.attempts


class DownloadStore:
    """The outcomes of a list's addresses; one process works on it, any of its threads.

    Raises:
        OSError: the file cannot be read or written, as every method.
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
            raise OSError(
                f"{self._path} cannot be used ({error}). If it is damaged, remove it: what it held "
                "is downloaded again"
            ) from error

    def add(self, outcome: Outcome, body: bytes = b"") -> Outcome:
        """Keep how a download ended, with its picture if there is one, whose digest it is given."""
        if not outcome.reason:
            outcome = outcome._replace(sha256=hashlib.sha256(body).hexdigest())
        with self._errors():
            self._database.execute(
                "INSERT OR REPLACE INTO downloads VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*outcome, body),
            )
        return outcome

    def outcomes(self, addresses: Iterable[str]) -> dict[str, Outcome]:
        """Return what is known of some addresses of the list."""
        select = (
            "SELECT address, attempts, max_bytes, reason, detail, passing, sha256 "
            "FROM downloads WHERE address = ?"
        )
        known = {}
        with self._errors():
            for address in addresses:
                self._database.execute("INSERT OR IGNORE INTO listed VALUES (?)", (address,))
                if row := self._database.execute(select, (address,)).fetchone():
                    outcome = Outcome(*row)
                    known[address] = outcome._replace(passing=bool(outcome.passing))
        return known

    def body(self, outcome: Outcome) -> bytes:
        """Return the picture of an address."""
        select = "SELECT body FROM downloads WHERE address = ?"
        with self._errors():
            body: bytes = self._database.execute(select, (outcome.address,)).fetchone()[0]
        return body

    def forget_unlisted(self) -> None:
        """Remove all addresses but those that :meth:`outcomes` was asked for."""
        with self._errors():
            self._database.execute(
                "DELETE FROM downloads WHERE address NOT IN (SELECT address FROM listed)"
            )

    def close(self) -> None:
        """Close the file."""
        with self._errors():
            self._database.close()
