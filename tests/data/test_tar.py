"""A tar is read to its end, whatever is in it."""

import gzip
import io
import pickle
import random
import tarfile
from pathlib import Path

import pytest

from albef.data.rejection import Reason
from albef.data.tar import Damage, Member, members

LONG = "folder/" * 30 + "a.jpg"


def tar(format: int = tarfile.USTAR_FORMAT, count: int = 6, size: int = 700) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as written:
        for i in range(count):
            info = tarfile.TarInfo(f"{i:03d}.jpg")
            info.size = size
            written.addfile(info, io.BytesIO(bytes([i]) * size))
    return file.getvalue()


def read(folder: Path, held: bytes, max_bytes: int = 10_000) -> list[Member | Damage]:
    (folder / "a.tar").write_bytes(held)
    return list(members(folder / "a.tar", lambda name: max_bytes * (not name.endswith(".pyc"))))


def names(found: list[Member | Damage]) -> list[str]:
    return [item.name for item in found if isinstance(item, Member)]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_members_with_long_names(tmp_path: Path, format: int) -> None:
    long = LONG if format != tarfile.USTAR_FORMAT else "f" * 90 + "/" + "n" * 90
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as written:
        for name, data in (("ü.jpg", b"one"), (long, b"two"), ("empty.txt", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1.5 if format == tarfile.PAX_FORMAT else 1  # type: ignore[assignment]
            written.addfile(info, io.BytesIO(data))
    found = read(tmp_path, file.getvalue())
    assert found == [Member("ü.jpg", b"one"), Member(long, b"two"), Member("empty.txt", b"")]


def test_a_path_is_read_out_of_no_other_entry(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("é" * 90)
        info.pax_headers = {"comment": "of two lines\n12 path=b.jpg"}
        tar.addfile(info)
    [member] = members(tmp_path / "a.tar", lambda name: 9)
    assert isinstance(member, Member)
    assert member.name == "é" * 90


def test_links_devices_and_folders_are_passed_over(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as written:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE,
                     tarfile.FIFOTYPE):  # fmt: skip
            info = tarfile.TarInfo("a.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            written.addfile(info)
        info = tarfile.TarInfo("b.pkl")
        info.size = len(held := pickle.dumps([1]))
        written.addfile(info, io.BytesIO(held))
    assert read(tmp_path, file.getvalue()) == [Member("b.pkl", held)]


def test_a_damaged_header_costs_its_own_member(tmp_path: Path) -> None:
    held = bytearray(tar())
    held[3 * 1536 + 20] ^= 0xFF
    found = read(tmp_path, bytes(held))
    assert names(found) == ["000.jpg", "001.jpg", "002.jpg", "004.jpg", "005.jpg"]
    assert found[3] == Damage(3 * 1536, Reason.DAMAGED_MEMBER, "not a tar header")


CUT = "the tar has no end mark, so it was truncated"
HALF = Damage(3 * 1536, Reason.DAMAGED_MEMBER, "the file ends inside a member", "003.jpg")


def test_a_file_that_was_cut(tmp_path: Path) -> None:
    for more, damage in ((600, [HALF]), (0, [])):  # inside a member, and at its edge
        found = read(tmp_path, tar()[: 3 * 1536 + more])
        assert names(found) == ["000.jpg", "001.jpg", "002.jpg"]
        assert found[3:] == [*damage, Damage(3 * 1536 + more, Reason.CUT_SHARD, CUT)]


def sparse(member: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as written:
        written.addfile(member, io.BytesIO(bytes(member.size)))
    return file.getvalue()


def test_members_with_holes_are_damage_and_what_nobody_wants_is_not_read(tmp_path: Path) -> None:
    old, new, other = (tarfile.TarInfo(name) for name in ("a.jpg", "b.jpg", "c.pyc"))
    old.type = tarfile.GNUTYPE_SPARSE
    new.pax_headers, new.size = {"GNU.sparse.realsize": "99999999"}, 600
    other.size = 600
    for member in (old, new):
        [damage] = read(tmp_path, sparse(member))
        assert isinstance(damage, Damage)
        assert (damage.name, damage.detail) == (member.name, "a sparse member")
    assert read(tmp_path, sparse(other)) == []


def test_large_members_and_files_that_are_not_tars(tmp_path: Path) -> None:
    large = read(tmp_path, tar(), max_bytes=600)
    assert all(isinstance(one, Damage) for one in large)
    assert {one.reason for one in large if isinstance(one, Damage)} == {Reason.TOO_MANY_BYTES}
    assert len(large) == 6
    assert len(read(tmp_path, b"\x1f\x8b" + random.Random(0).randbytes(20_000))) == 2
    assert read(tmp_path, b"") == [Damage(0, Reason.CUT_SHARD, CUT)]
    packed = Damage(0, Reason.DAMAGED_MEMBER, "the tar is compressed; decompress it")
    assert read(tmp_path, gzip.compress(tar()))[0] == packed
