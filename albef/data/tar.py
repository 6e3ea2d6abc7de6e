"""Members of a tar file, read in place: only plain files, with limits on their size.

Nothing is unpacked to disk, and nothing is trusted: a header must match its checksum, a size must
lie within the file, and the length of names is limited. Damage is reported and skipped: reading
continues at the next valid header.
"""

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from albef.data.rejection import Reason

BLOCK = 512
"""Bytes of a header; members are padded to a multiple of this."""
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
"""Types of plain files."""
_LONGEST_NAME = 4096
_END = bytes(2 * BLOCK)
_MAGIC = (b"ustar\x00", b"ustar ")
_PACKED = (b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")  # gzip, xz, zstd, zip


@dataclass(frozen=True, slots=True)
class Member:
    """Plain file in a tar: its content, and its path in the tar, not to be opened on disk."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Offset in bytes that could not be read, with the name of the member if it is known."""

    offset: int
    reason: Reason
    detail: str
    name: str = ""


def members(path: Path, limit: Callable[[str], int]) -> Iterator[Member | Damage]:
    """Yield the plain files of an uncompressed tar, in order.

    ``limit`` returns the most bytes of a member by its name. A larger member counts as damage; 0
    skips the member unread. Links, devices and folders are skipped. A tar without its end mark was
    cut off: this is the last damage that is reported.

    Raises:
        OSError: the file cannot be opened or read.
    """
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        def next_header(at: int) -> int:
            while at < end:
                block = read(at, BLOCK)
                if block[257:263] in _MAGIC and header_of(block) is not None:
                    break
                at += BLOCK
            return at

        at, long_name, sparse = 0, "", False
        while at < end:
            start, block = at, read(at, BLOCK)
            at += BLOCK
            if not block.strip(b"\0"):
                # This is the end or padding; more members may follow in concatenated tars.
                continue
            header = header_of(block)
            if header is None or header.size < 0:
                packed = start == 0 and block.startswith(_PACKED)
                detail = "the tar is compressed; decompress it" if packed else "not a tar header"
                yield Damage(start, Reason.DAMAGED_MEMBER, detail)
                at = next_header(at)
                continue
            name = long_name or _text(header.name)
            if at + header.size > end:
                detail = "the file ends inside a member"
                yield Damage(start, Reason.DAMAGED_MEMBER, detail, name)
                at = next_header(at)
                continue
            data_at = at
            at += -(-header.size // BLOCK) * BLOCK
            if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
                content = read(data_at, min(header.size, _LONGEST_NAME))
                long_name, sparse = _long_name(header, content), b" GNU.sparse." in content
                continue
            most = limit(name)
            if sparse or header.type == tarfile.GNUTYPE_SPARSE:
                yield Damage(start, Reason.DAMAGED_MEMBER, "a sparse member", name)
            elif header.type in PLAIN and header.size > most > 0:
                detail = f"a member of {header.size} bytes; at most {most} are read"
                yield Damage(start, Reason.TOO_MANY_BYTES, detail, name)
            elif header.type in PLAIN and most:
                yield Member(name, read(data_at, header.size))
            long_name, sparse = "", False
        mark = read(max(0, end - len(_END)), len(_END))
        if mark != _END:
            yield Damage(end, Reason.CUT_SHARD, "the tar has no end mark, so it was truncated")


def _long_name(header: tarfile.TarInfo, content: bytes) -> str:
    """Return the name of the next member, out of a separate header for long names."""
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return content.rstrip(b"\0").decode("utf-8", "replace")
    at = 0
    while (size := content[at : at + 5].partition(b" ")[0]).isdigit() and int(size):
        # A value may contain line breaks, too.
        entry = content[at + len(size) + 1 : at + int(size) - 1]
        if entry.startswith(b"path="):
            return entry.removeprefix(b"path=").decode("utf-8", "replace")
        at += int(size)
    return ""


def _text(name: str) -> str:
    """Return a name that any file can hold: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def header_of(block: bytes) -> tarfile.TarInfo | None:
    """Return a block as a header, or None if its checksum does not match."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, IndexError):
        return None
