"""Rows that repeat another one, found without comparing all with all."""

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.data.record import Record
from albef.data.rejection import Reason, Rejection
from albef.ingest import duplicates
from albef.ingest.blocks import Blocks
from albef.ingest.duplicates import HELDOUT, read_fingerprints
from albef.ingest.prepare import Fingerprint, Prepared


def row(
    number: int, look: int = 0, *, file: int | None = None, image_id: int | None = None, **more: str
) -> Prepared:
    """A row whose picture's file is told by ``file``; both are the number where they are None."""
    values = {"key": f"toy-{number}", "split": "train", "source": "toy", **more}
    own_id = number if image_id is None else image_id
    meta = {"z": [1.5, None], "a": "ü"}
    record = Record(image=b"%d" % number, captions=("a",), image_id=own_id, meta=meta, **values)
    digest = (number if file is None else file).to_bytes(16, "little")
    return Prepared(record, number + 1, f"{number}.jpg", (Fingerprint(digest, look),))


def blocks(folder: Path, *rows: Prepared | Rejection, size: int = 3) -> Blocks:
    made = Blocks(folder / "blocks")
    for i in range(0, len(rows), size):
        made.write(rows[i : i + size])
    return made


REFUSED = Rejection("toy", 9, "x", Reason.NOT_FOUND, "it is gone")


def test_a_key_that_comes_again_is_reported(tmp_path: Path) -> None:
    made = blocks(tmp_path, row(0, key="a"), REFUSED, REFUSED, row(1, key="b"), row(2, key="a"))
    assert list(duplicates.repeated_keys(made)) == [(4, Reason.MALFORMED_ROW, 0, 0)]


def test_equal_files_of_other_image_ids_are_reported(tmp_path: Path) -> None:
    made = blocks(
        tmp_path, row(0, file=7), REFUSED, row(2, file=7), row(3, file=7, image_id=0),
        row(4, file=7, split="test"), row(5), row(6, file=7),
    )  # fmt: skip
    own = read_fingerprints(made)
    found = duplicates.repeated_images(own, set(), None)
    assert found == [(2, Reason.DUPLICATE, 0, 0), (6, Reason.DUPLICATE, 0, 0)]
    assert duplicates.repeated_images(own, {0, 2}, None) == [(6, Reason.DUPLICATE, 3, 0)]


LOOKS = st.builds(
    lambda word, changes: word ^ sum(1 << place for place in set(changes)),
    st.sampled_from([0, 2**63, 0x0F0F0F0F0F0F0F0F]),
    st.lists(st.integers(0, 63), max_size=5),
)
SEEN = st.lists(st.tuples(LOOKS, st.integers(0, 6), st.integers(0, 4)), max_size=14)


@given(SEEN, st.integers(0, 8))
def test_groups_are_those_of_comparing_all_with_all(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]], distance: int
) -> None:
    made = blocks(
        tmp_path_factory.mktemp("all"),
        *(row(i, look, file=file, image_id=own) for i, (look, file, own) in enumerate(rows)),
        size=7,
    )
    found = duplicates.repeated_images(read_fingerprints(made), set(), distance)
    expected, files = {}, {}
    for i, (_, file, own) in enumerate(rows):
        first = files.setdefault(file, i)
        if first != i and rows[first][2] != own:
            expected[i] = (i, Reason.DUPLICATE, first, 0)
    heads: dict[int, int] = {}
    groups: dict[int, tuple[int, int]] = {}
    for i, (seen, _, own) in enumerate(rows):
        if i in expected:
            continue
        if seen not in groups:
            near = [(at, (seen ^ head).bit_count()) for head, at in heads.items()]
            close = [pair for pair in near if pair[1] <= distance]
            groups[seen] = min(close) if close else (i, 0)
            if not close:
                heads[seen] = i
        first, bits = groups[seen]
        if first != i and rows[first][2] != own:
            expected[i] = (i, Reason.NEAR_DUPLICATE, first, bits)
    assert found == sorted(expected.values())


@given(SEEN, SEEN, st.integers(0, 8))
def test_contamination_is_that_of_comparing_all_with_all(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, int, int]],
    tests: list[tuple[int, int, int]],
    distance: int,
) -> None:
    made = blocks(
        tmp_path_factory.mktemp("all"),
        *(row(i, look, file=file, split="val" if own == 4 else "train")
          for i, (look, file, own) in enumerate(rows)),
        size=7,
    )  # fmt: skip
    held = pa.table(
        {
            "dataset": ["coco"] * len(tests),
            "key": [str(i) for i in range(len(tests))],
            "digest": [file.to_bytes(16, "little") for _, file, _ in tests],
            "look": pa.array([look for look, _, _ in tests], pa.uint64()),
        },
        HELDOUT,
    )
    found = list(duplicates.contaminated(read_fingerprints(made), held, distance))
    others = [(look, file, i) for i, (look, file, own) in enumerate(rows) if own == 4]
    others += [(look, file, -1 - i) for i, (look, file, _) in enumerate(tests)]
    expected = []
    for i, (seen, file, own) in enumerate(rows):
        equal = [other for _, held_file, other in others if held_file == file]
        near = [
            ((seen ^ held_look).bit_count(), place, other)
            for place, (held_look, _, other) in enumerate(others)
        ]
        close = sorted(one for one in near if one[0] <= distance)
        if own != 4 and equal:
            expected.append((i, Reason.CONTAMINATION, equal[0], 0))
        elif own != 4 and close:
            expected.append((i, Reason.CONTAMINATION, close[0][2], close[0][0]))
    assert found == expected


def test_comparing_takes_a_few_bytes_a_row(tmp_path: Path) -> None:
    """Ten million rows take less than two gigabytes beside what lies on disk."""
    peaks = []
    for count in (2000, 12_000):
        looks = np.random.default_rng(1).integers(0, 2**64, count, np.uint64).tolist()
        files = [int.from_bytes(hashlib.md5(b"%d" % i).digest(), "little") for i in range(count)]
        rows = [row(i, looks[i], file=files[i]) for i in range(count)]
        made = blocks(tmp_path / str(count), *rows, size=1000)
        del rows, looks, files
        tracemalloc.start()
        assert not list(duplicates.repeated_keys(made))
        own = read_fingerprints(made)
        assert not list(duplicates.contaminated(own, HELDOUT.empty_table(), 4))
        assert not duplicates.repeated_images(own, set(), 4)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 150 * 10_000
