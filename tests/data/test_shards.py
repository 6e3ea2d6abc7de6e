"""Shards are written the same every time and read by place."""

import hashlib
import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.data.record import Record
from albef.data.shards import ShardError, Shards, describe, read_index
from tests.data import toy

KINDS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_index_names_the_place_of_each_image(tmp_path: Path, kind: str) -> None:
    records = [toy.record(i, image=toy.picture(i, kind=kind)) for i in range(5)]
    toy.write(tmp_path / "toy", records)
    rows = pq.read_table(tmp_path / "toy" / "index.parquet").to_pylist()
    with tarfile.open(tmp_path / "toy" / "shards" / "toy-00000.tar") as tar:
        members = {member.name: member for member in tar.getmembers()}
        for row, record in zip(rows, records, strict=True):
            member = members[f"{record.key}.{KINDS[kind]}"]
            assert (row["offset"], row["size"]) == (member.offset_data, member.size)
            file = tar.extractfile(f"{record.key}.json")
            assert file is not None
            assert json.load(file) == {
                "key": record.key,
                "captions": list(record.captions),
                "image_id": record.image_id,
                "split": "train",
                "source": "toy",
                "meta": record.meta,
            }
            assert (row["width"], row["height"]) == (40, 32)
            assert row["digest"] == hashlib.sha256(record.image).hexdigest()
            assert row["caption_words"] == [3, 2]
            assert row["meta"] == '{"a": "ü", "z": [1.5, null]}'


def test_webdataset_reads_them(tmp_path: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    records = [toy.record(i) for i in range(3)]
    toy.write(tmp_path / "toy", records)
    shard = tmp_path / "toy" / "shards" / "toy-00000.tar"
    with shard.open("rb") as stream:
        samples = list(group_by_keys(tar_file_expander([{"url": shard.name, "stream": stream}])))
    assert [sample["__key__"] for sample in samples] == [record.key for record in records]
    assert [sample["png"] for sample in samples] == [record.image for record in records]


texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(texts, st.sampled_from(["train", "test"])), min_size=1, max_size=12))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[list[str], str]]
) -> None:
    folder = tmp_path_factory.mktemp("a") / "toy"
    records = [
        toy.record(i, captions=tuple(captions), split=split)
        for i, (captions, split) in enumerate(rows)
    ]
    described = toy.write(folder, records)
    assert describe(folder) == described
    for split in described["splits"]:
        own = [record for record in records if record.split == split]
        shards = Shards(folder, split)
        assert list(shards) == own
        assert len(shards) == described["splits"][split] == len(own)
        assert shards.keys.to_pylist() == [record.key for record in own]
        assert shards.image_ids.tolist() == [record.image_id for record in own]
        assert shards.captions.to_pylist() == [list(record.captions) for record in own]
        assert shards.meta(0) == own[0].meta
        shards.close()


def test_a_shard_is_closed_before_it_outgrows_its_size(tmp_path: Path) -> None:
    records = [toy.noisy(i) for i in range(20)]
    described = toy.write(tmp_path / "toy", records, shard_mb=1)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "toy" / "shards").iterdir())]
    assert len(sizes) == described["shards"] == 4
    assert max(sizes) <= 2**20
    assert list(Shards(tmp_path / "toy", "train")) == records


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    records = [toy.record(i) for i in range(4)]
    for name in ("a", "b"):
        toy.write(tmp_path / name / "toy", records)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize(
    "changed",
    [
        {"image": toy.picture(99)},
        {"captions": ("else",)},
        {"split": "val"},
        {"meta": {}},
        {"key": "other"},
    ],
)
def test_the_digest_changes_with_the_data(tmp_path: Path, changed: dict[str, object]) -> None:
    first = toy.write(tmp_path / "a", [toy.record(0), toy.record(1)])
    second = toy.write(tmp_path / "b", [toy.record(0), toy.record(1, **changed)])
    assert first["digest"] != second["digest"]


def test_one_index_for_more_rows_than_are_held_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("albef.ingest.shard_writer._ROWS", 4)
    toy.write(tmp_path / "toy", [toy.record(i) for i in range(11)])
    assert read_index(tmp_path / "toy").num_rows == 11
    shards = Shards(tmp_path / "toy", "train")
    assert [record.image_id for record in shards] == list(range(11))


def two_images(number: int, **changed: object) -> Record:
    more = (toy.picture(number + 100, (20, 10), "JPEG"),)
    return toy.record(number, **{"more": more, **changed})


def test_records_of_two_images(tmp_path: Path) -> None:
    records = [two_images(i, split="val" if i % 3 else "train") for i in range(7)]
    described = toy.write(tmp_path / "toy", records)
    assert described["images"] == 2
    for split in ("train", "val"):
        shards = Shards(tmp_path / "toy", split)
        assert list(shards) == [record for record in records if record.split == split]
    rows = read_index(tmp_path / "toy").to_pylist()
    with tarfile.open(tmp_path / "toy" / "shards" / "toy-00000.tar") as tar:
        for row, record in zip(rows, records, strict=True):
            (further,) = row["more"]
            member = tar.getmember(f"{record.key}.1.jpg")
            assert (further["offset"], further["size"]) == (member.offset_data, member.size)
            assert (further["width"], further["height"]) == (20, 10)
            assert further["digest"] == hashlib.sha256(record.more[0]).hexdigest()


def test_the_second_image_counts_in_the_digest_and_is_checked(tmp_path: Path) -> None:
    first = toy.write(tmp_path / "a", [two_images(0), two_images(1)])
    second = toy.write(tmp_path / "b", [two_images(0), two_images(1, more=(toy.picture(7),))])
    assert first["digest"] != second["digest"]
    shard = tmp_path / "a" / "shards" / "a-00000.tar"
    content = bytearray(shard.read_bytes())
    content[read_index(tmp_path / "a")["more"][1].as_py()[0]["offset"] + 20] ^= 1
    shard.write_bytes(content)
    shards = Shards(tmp_path / "a", "train")
    assert shards[0] == two_images(0)
    with pytest.raises(ShardError, match=f"{shard} is damaged at toy-0001"):
        shards[1]


def test_records_of_one_image_are_written_as_without_the_second(tmp_path: Path) -> None:
    described = toy.write(tmp_path / "toy", [toy.record(0)])
    assert "images" not in described
    assert "more" not in read_index(tmp_path / "toy").column_names


def test_all_records_have_equally_many_images(tmp_path: Path) -> None:
    with pytest.raises(
        ShardError, match="toy-0001 has 1 images and the first one has 2: records of"
    ):
        toy.write(tmp_path / "toy", [two_images(0), toy.record(1)])


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "x" * 81, "ä"])
def test_a_key_that_would_break_the_tar(tmp_path: Path, key: str) -> None:
    with pytest.raises(ShardError, match="a key has 1 to 80 letters"):
        toy.write(tmp_path / "toy", [toy.record(0, key=key)])


def test_a_key_comes_once(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="'toy-0000' comes twice"):
        toy.write(tmp_path / "toy", [toy.record(0), toy.record(0)])


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="toy-0000 is neither PNG, JPEG nor WebP"):
        toy.write(tmp_path / "toy", [toy.record(0, image=b"GIF89a")])


def test_no_record(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="toy has no record"):
        toy.write(tmp_path / "toy", [])


def test_a_broken_image_is_kept_for_validation_to_count(tmp_path: Path) -> None:
    toy.write(tmp_path / "toy", [toy.record(0, image=b"\x89PNG and nothing else")])
    (row,) = pq.read_table(tmp_path / "toy" / "index.parquet").to_pylist()
    assert (row["width"], row["height"]) == (0, 0)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    toy.write(folder, [toy.record(i) for i in range(20)])
    return folder


def test_a_missing_shard_is_named(written: Path) -> None:
    shard = written / "shards" / "toy-00000.tar"
    shards = Shards(written, "train")
    shard.unlink()
    with pytest.raises(ShardError, match=f"{shard} is missing: run the stage ingest@toy"):
        shards[0]


def test_a_short_shard_is_named(written: Path) -> None:
    shard = written / "shards" / "toy-00000.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    shards = Shards(written, "train")
    assert shards[0].key == "toy-0000"
    with pytest.raises(ShardError, match=f"{shard} ends before toy-0019"):
        shards[19]


def test_a_damaged_image_is_named(written: Path) -> None:
    shard = written / "shards" / "toy-00000.tar"
    content = bytearray(shard.read_bytes())
    content[read_index(written)["offset"][3].as_py() + 20] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=f"{shard} is damaged at toy-0003"):
        Shards(written, "train")[3]
    assert Shards(written, "train", check=False)[3].key == "toy-0003"


@pytest.mark.parametrize("name", ["dataset.json", "index.parquet"])
def test_a_missing_or_damaged_file_is_named(written: Path, name: str) -> None:
    path = written / name
    path.write_text("{")
    with pytest.raises(ShardError, match=str(path)):
        Shards(written, "train")
    path.unlink()
    with pytest.raises(ShardError, match=f"{path} is missing"):
        Shards(written, "train")


def test_an_unknown_split_is_named(written: Path) -> None:
    with pytest.raises(ShardError, match="no split 'tset'; its splits are train"):
        Shards(written, "tset")
    with pytest.raises(IndexError):
        Shards(written, "train")[20]


def _read(shards: Shards, i: int) -> Record:
    return shards[i]


def test_other_processes_read_for_themselves(written: Path) -> None:
    shards = Shards(written, "train")
    first = shards[0]  # its file is open in the parent
    with multiprocessing.get_context("fork").Pool(2) as pool:
        got = pool.starmap(_read, [(shards, i) for i in range(20)])
    assert got == list(shards)
    assert pickle.loads(pickle.dumps(shards))[0] == first  # noqa: S301


def test_a_fork_opens_its_own_files(written: Path) -> None:
    shards = Shards(written, "train")
    expected = [record.image for record in shards]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def child() -> None:
        queue.put([record.image for record in shards])
        shards.close()

    process = context.Process(target=child)
    process.start()
    assert queue.get() == expected
    process.join()
    assert [record.image for record in shards] == expected
