"""What was downloaded of a list, kept by chunk and address so that nothing is asked for twice.

A chunk is a file of bodies, one after the other, and a journal of JSON lines: an :class:`Outcome`
for each address whose outcome is known. A body is written before its line; a line that was torn
off, or whose body is not all there, counts as not written. Kills lose nothing, since the system has
what was written; a loss of power loses what was not yet synced.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple, Self

from albef.data.refusal import Reason
from albef.ingest.download.limits import Limits


class Outcome(NamedTuple):
    """How a download ended: with a picture, or why there is none."""

    address: str
    attempts: int
    limit: int
    """Bytes that a picture might have had."""
    reason: str = ""
    detail: str = ""
    passing: bool = False
    """Whether it may be different another time."""
    offset: int = 0
    """Of the picture in the chunk's bodies."""
    size: int = 0
    sha256: str = ""

    def holds(self, limits: Limits) -> bool:
        """Whether it need not be tried again under these limits."""
        if not self.reason:
            return True
        if self.reason == Reason.TOO_MANY_BYTES:
            return limits.max_bytes <= self.limit
        if self.reason == Reason.PRIVATE_ADDRESS:
            return not limits.allow_loopback
        return not self.passing or self.attempts >= limits.attempts


class DamagedDownload(OSError):
    """A picture that was downloaded is no longer what it was."""


class Chunk:
    """The outcomes of some rows of a list, by address, in two files of its folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._path = folder / name[:2] / f"{name}.bodies"
        self._path.parent.mkdir(exist_ok=True)
        self._bodies = self._path.open("a+b")
        self._journal = self._path.with_suffix(".jsonl").open("a+b")
        self._end = self._bodies.seek(0, os.SEEK_END)
        self.outcomes = self._read()
        self._dirty = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, outcome: Outcome, body: bytes = b"") -> None:
        """Keep how a download ended, with its picture if there is one."""
        if not outcome.reason:
            outcome = outcome._replace(offset=self._end, size=len(body), sha256=_sha256(body))
            self._bodies.write(body)
            self._bodies.flush()
            self._end += len(body)
        self._journal.write(json.dumps(outcome).encode() + b"\n")
        self._journal.flush()
        self.outcomes[outcome.address] = outcome
        self._dirty = True

    def body(self, outcome: Outcome) -> bytes:
        """The picture of an address.

        Raises:
            DamagedDownload: it is not what was downloaded.
        """
        body = os.pread(self._bodies.fileno(), outcome.size, outcome.offset)
        if _sha256(body) != outcome.sha256:
            raise DamagedDownload(
                f"{self._path} is damaged: remove the folder {self._folder}, and what it held is "
                "downloaded again"
            )
        return body

    def sync(self) -> None:
        """Have all that was added on the disk."""
        if self._dirty:
            self._dirty = False  # before it is synced: what is added meanwhile sets it again
            try:
                os.fsync(self._bodies.fileno())
                os.fsync(self._journal.fileno())
            except OSError:
                self._dirty = True
                raise

    def close(self) -> None:
        """Close the files."""
        for file in (self._bodies, self._journal):
            with contextlib.suppress(OSError):  # a full disk was told of by what added to them
                file.close()

    def _read(self) -> dict[str, Outcome]:
        self._journal.seek(0)
        text = self._journal.read()
        complete = text.rfind(b"\n") + 1
        self._journal.truncate(complete)
        outcomes = filter(None, map(_outcome, text[:complete].splitlines()))
        return {one.address: one for one in outcomes if one.offset + one.size <= self._end}


def _outcome(line: bytes) -> Outcome | None:
    """A line of a journal; None where it is none."""
    with contextlib.suppress(ValueError, TypeError):
        outcome = Outcome(*json.loads(line))
        if [type(value) for value in outcome] == [str, int, int, str, str, bool, int, int, str]:
            return outcome
    return None


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
