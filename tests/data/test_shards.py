"""Shards are written the same every time and read by place."""

import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.data.record import Record
from albef.data.shards import ShardError, Shards, read_index, shared_keys
from tests.data import toy

KINDS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}


def two_images(number: int, **changed: object) -> Record:
    more = (toy.picture(number + 100, (20, 10), "JPEG"),)
    return toy.record(number, **{"more": more, **changed})


def test_the_index_names_the_place_of_each_image(tmp_path: Path) -> None:
    records = [toy.record(i, image=toy.picture(i, kind=kind)) for i, kind in enumerate(KINDS)]
    described = toy.write(tmp_path / "toy", records)
    assert "images" not in described
    rows = read_index(tmp_path / "toy").to_pylist()
    with tarfile.open(tmp_path / "toy" / "shards" / "toy-00000.tar") as tar:
        for row, record, suffix in zip(rows, records, KINDS.values(), strict=True):
            member = tar.getmember(f"{record.key}.{suffix}")
            assert (row["offset"], row["size"]) == (member.offset_data, member.size)
            file = tar.extractfile(f"{record.key}.json")
            assert file is not None
            assert json.load(file) == {
                "key": record.key, "captions": list(record.captions), "image_id": record.image_id,
                "split": "train", "source": "toy", "meta": record.meta,
            }  # fmt: skip
            assert (row["width"], row["height"]) == (40, 32)
            assert row["digest"] == hashlib.sha256(record.image).hexdigest()
            assert row["caption_words"] == [3, 2]
            assert row["meta"] == '{"a": "ü", "z": [1.5, null]}'
            assert "more" not in row


def test_records_of_two_images(tmp_path: Path) -> None:
    records = [two_images(i, split="val" if i % 3 else "train") for i in range(7)]
    described = toy.write(tmp_path / "toy", records)
    assert described["images"] == 2
    for split in ("train", "val"):
        shards = Shards(tmp_path / "toy", split)
        assert list(shards) == [record for record in records if record.split == split]
    rows = read_index(tmp_path / "toy").to_pylist()
    path = tmp_path / "toy" / "shards" / "toy-00000.tar"
    assert {(row["more"][0]["width"], row["more"][0]["height"]) for row in rows} == {(20, 10)}
    toy.flip(path, rows[3]["more"][0]["offset"] + 20)
    with pytest.raises(ShardError, match=f"{path} is damaged at toy-0003"):
        Shards(tmp_path / "toy", "train")[1]


def test_webdataset_reads_them(tmp_path: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    records = [toy.record(i) for i in range(3)]
    toy.write(tmp_path / "toy", records)
    shard = tmp_path / "toy" / "shards" / "toy-00000.tar"
    with shard.open("rb") as stream:
        samples = list(group_by_keys(tar_file_expander([{"url": shard.name, "stream": stream}])))
    assert [sample["__key__"] for sample in samples] == [record.key for record in records]
    assert [sample["png"] for sample in samples] == [record.image for record in records]


def test_a_shard_is_closed_before_it_outgrows_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("albef.ingest.shard_writer._ROWS", 8)  # more rows than are held at once
    records = [toy.noisy(i) for i in range(20)]
    described = toy.write(tmp_path / "toy", records)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "toy" / "shards").iterdir())]
    assert len(sizes) == described["shards"] == 4
    assert max(sizes) <= 2**20
    assert list(Shards(tmp_path / "toy", "train")) == records


def test_equal_records_give_equal_bytes_and_others_another_digest(tmp_path: Path) -> None:
    def written(name: str, **changed: object) -> dict[str, bytes]:
        toy.write(folder := tmp_path / name / "toy", [two_images(0), two_images(1, **changed)])
        return {path.name: path.read_bytes() for path in folder.rglob("*.*")}

    first = written("first")
    assert first == written("again")
    changes: dict[str, object] = {
        "image": toy.picture(99), "captions": ("else",), "split": "val", "meta": {},
        "key": "other", "more": (toy.picture(7),),
    }  # fmt: skip
    for name, value in changes.items():
        other = written(name, **{name: value})
        digests = {json.loads(files["dataset.json"])["digest"] for files in (first, other)}
        assert len(digests) == 2, name


def test_what_no_dataset_can_hold(tmp_path: Path) -> None:
    for records, said in (
        ([toy.record(0, image=b"GIF89a")], "toy-0000 is not PNG, JPEG or WebP"),
        ([], "toy has no record"),
        ([two_images(0), toy.record(1)], "toy-0001 has 1 images, but the first one has 2"),
    ):
        with pytest.raises(ShardError, match=said):
            toy.write(tmp_path / "toy", records)


def test_a_broken_image_is_kept_for_validation_to_count(tmp_path: Path) -> None:
    toy.write(tmp_path / "toy", [toy.record(0, image=b"\x89PNG and nothing else")])
    (row,) = pq.read_table(tmp_path / "toy" / "index.parquet").to_pylist()
    assert (row["width"], row["height"]) == (0, 0)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    toy.write(folder, [toy.record(i) for i in range(20)])
    return folder


def test_a_damaged_shard_is_named(written: Path) -> None:
    shard, offset = written / "shards" / "toy-00000.tar", read_index(written)["offset"][3].as_py()
    for damage, place, said in (
        (lambda: toy.flip(shard, offset + 20), 3, "is damaged at toy-0003"),
        (lambda: os.truncate(shard, 5000), 19, "ends before toy-0019"),
        (shard.unlink, 0, "is missing: run `albef run --only ingest@toy"),
    ):
        damage()
        with pytest.raises(ShardError, match=f"{shard} {said}"):
            Shards(written, "train")[place]


def test_a_missing_or_damaged_file_is_named(written: Path) -> None:
    for name in ("index.parquet", "dataset.json"):
        path = written / name
        path.write_text("{")
        with pytest.raises(ValueError, match=str(path)):
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
    expected = list(shards)  # its file is open here: a fork must not move its place
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(_read, [(shards, i) for i in range(20)]) == expected
    assert list(shards) == expected
    assert pickle.loads(pickle.dumps(shards))[0] == expected[0]  # noqa: S301


def test_a_mapped_index_is_read_as_any_other_and_takes_no_memory(tmp_path: Path) -> None:
    for count in (70, 50):  # and again where the data set is another
        records = [two_images(i % 9, key=f"{i}") for i in range(count)]
        shutil.rmtree(tmp_path / "toy", ignore_errors=True)
        toy.write(tmp_path / "toy", records)
        Shards(tmp_path / "toy", "train", mapped=tmp_path)
        before = pa.total_allocated_bytes()
        shards = Shards(tmp_path / "toy", "train", mapped=tmp_path)
        assert pa.total_allocated_bytes() == before
        assert not list(tmp_path.glob("*.lock"))
        plain = Shards(tmp_path / "toy", "train")
        assert shards.captions.equals(plain.captions)
        assert list(pickle.loads(pickle.dumps(shards))) == records  # noqa: S301


def test_images_that_splits_share_are_found_wherever_they_stand(tmp_path: Path) -> None:
    def written(name: str, colours: dict[str, list[int]], split: str) -> Path:
        pictures = {key: map(toy.picture, numbers) for key, numbers in colours.items()}
        records = (
            toy.record(0, key=key, image=image, more=tuple(more), split=split)
            for key, (image, *more) in pictures.items()
        )
        toy.write(tmp_path / name, records)
        return tmp_path / name

    test = written("test", {"a": [1, 2], "b": [3, 4], "c": [5, 6]}, "test")
    trained = written("web", {"w": [4], "x": [5], "y": [9]}, "train")
    assert shared_keys(test, "test", trained) == ("c", "b")
    with pytest.raises(ShardError, match=r"index\.parquet is missing"):
        shared_keys(test, "test", tmp_path / "gone")


def test_an_index_past_two_gibibytes_is_read_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [two_images(i, split="val" if i % 3 else "train") for i in range(7)]
    toy.write(tmp_path / "toy", records)
    narrow = read_index(tmp_path / "toy")
    monkeypatch.setattr("albef.data.shards._OFFSETS", 1)
    wide = read_index(tmp_path / "toy")
    assert str(wide.schema.field("captions").type) == "large_list<item: large_string>"
    assert wide.to_pylist() == narrow.to_pylist()
    assert list(Shards(tmp_path / "toy", "val")) == [r for r in records if r.split == "val"]
