"""Members of a tar file, read in place: plain files alone, bounded, and damage is told and skipped.

Nothing is unpacked to disk, and nothing is trusted: a header must match its checksum, a size must
lie within the file, and long names are bounded. After damage the next good header is looked for.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from albef.data.refusal import Reason

_DAMAGED = Reason.DAMAGED_MEMBER
BLOCK = 512
"""Bytes of a header, and what members are filled up to."""
_LONGEST_NAME = 4096
_MAGIC = (b"ustar\x00", b"ustar ")
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
"""Types of plain files."""


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file in a tar.

    Attributes:
        name: its path in there; do not open it on a disk.
        data: what it holds.
    """

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """A place that could not be read.

    Attributes:
        offset: where it begins.
        reason: damaged, or too large.
        detail: what is wrong.
        name: of the member, if it is known.
    """

    offset: int
    reason: Reason
    detail: str
    name: str = ""


def members(path: Path, max_bytes: int) -> Iterator[Member | Damage]:
    """The plain files of a tar, in order; links, devices and folders are passed over.

    Args:
        path: the tar, not compressed.
        max_bytes: a larger member is given as damage.

    Raises:
        OSError: the file cannot be opened or read.
    """
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        yield from _Reader(file, end, max_bytes).members()


class _Reader:
    def __init__(self, file: IO[bytes], end: int, max_bytes: int) -> None:
        self._file = file
        self._end = end
        self._max_bytes = max_bytes
        self._at = 0

    def members(self) -> Iterator[Member | Damage]:
        long_name = ""
        while (start := self._at) < self._end:
            block = self._read(start, BLOCK)
            self._at += BLOCK
            if not block.strip(b"\0"):
                continue  # the end, or filling: more may follow in tars that were joined
            header = header_of(block)
            if header is None or header.size < 0:
                yield Damage(start, _DAMAGED, "no header of a tar member")
                self._seekheader()
                continue
            if self._at + header.size > self._end:
                name = long_name or _text(header.name)
                yield Damage(start, _DAMAGED, "the file ends within a member", name)
                self._seekheader()
                continue
            data_at = self._at
            self._at += -(-header.size // BLOCK) * BLOCK
            if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
                long_name = self._long_name(header, data_at)
                continue
            name, long_name = long_name or _text(header.name), ""
            if header.type not in PLAIN:
                continue
            if header.size > self._max_bytes:
                said = f"a member of {header.size} bytes, more than {self._max_bytes}"
                yield Damage(start, Reason.TOO_MANY_BYTES, said, name)
                continue
            yield Member(name, self._read(data_at, header.size))

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def _long_name(self, header: tarfile.TarInfo, at: int) -> str:
        """The name of the member that follows, out of a header of its own."""
        held = self._read(at, min(header.size, _LONGEST_NAME))
        if header.type == tarfile.GNUTYPE_LONGNAME:
            return held.rstrip(b"\0").decode("utf-8", "replace")
        for line in held.split(b"\n"):
            _, _, told = line.partition(b" ")
            if told.startswith(b"path="):
                return told.removeprefix(b"path=").decode("utf-8", "replace")
        return ""

    def _seekheader(self) -> None:
        """Go on at the next block that is a header."""
        while self._at < self._end:
            block = self._read(self._at, BLOCK)
            if block[257:263] in _MAGIC and header_of(block) is not None:
                return
            self._at += BLOCK


def _text(name: str) -> str:
    """A name that any file can hold: bytes that are no UTF-8 are written out."""
    return name.encode("utf-8", "backslashreplace").decode()


def header_of(block: bytes) -> tarfile.TarInfo | None:
    """A block as a header, if it is one by its checksum."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, IndexError):
        return None
