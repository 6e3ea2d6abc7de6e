"""The public formats, read as they are; a bad row is named by file and number."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albef.config import ParamsError, validate
from albef.data.record import Record
from albef.data.refusal import Reason, Refusal
from albef.ingest.sources import SourcesConfig, kind_of
from tests.data import toy

Files = Callable[[str, Any], str]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    def write(name: str, held: Any) -> str:
        (tmp_path / name).write_text(json.dumps(held))
        return str(tmp_path / name)

    for name in ("a", "b", "COCO_train2014_000000000057"):
        (tmp_path / f"{name}.jpg").write_bytes(toy.record(len(name)).image)
    return write


def rows(folder: Path, **source: Any) -> list[Record | Refusal]:
    values = {"images": str(folder), **source}
    if values["kind"] == "annotations":
        values = {"joined": False, "boxes": None, "proposals": None, **values}
    config = validate(SourcesConfig, {"sources": {"s": values}, "shard_mb": 1}, where="test")
    section = config.sources["s"]
    return list(kind_of(section).records(section, 0))


def read(folder: Path, **source: Any) -> list[Record]:
    found = rows(folder, **source)
    return [row for row in found if isinstance(row, Record)]


def lists(folder: Path, form: str, files: dict[str, list[str]], **more: Any) -> list[Record]:
    return read(folder, kind="annotations", format=form, files=files, **more)


def test_all_captions_of_a_picture_are_one_record(files: Files, tmp_path: Path) -> None:
    first = files(
        "1.json", [{"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "caption": "x"}]
    )
    second = files("2.json", [{"image": "a.jpg", "caption": ["two", "one"], "image_id": "coco_9"}])
    test = files("3.json", [{"image": "b.jpg", "caption": ["y"]}])
    splits = {"train": [first, second], "test": [test]}
    a, b, again = lists(tmp_path, "captions", splits, joined=True)
    assert a.captions == ("one", "two")
    assert a.image == (tmp_path / "a.jpg").read_bytes()
    assert (a.split, b.split, again.split) == ("train", "train", "test")
    assert b.image_id == again.image_id != a.image_id
    assert a.meta == {"path": "a.jpg"}
    assert len({record.key for record in (a, b, again)}) == 3
    rows_apart = lists(tmp_path, "captions", splits)
    assert [record.captions for record in rows_apart] == [("one",), ("x",), ("two", "one"), ("y",)]
    assert rows_apart[0].image_id == rows_apart[2].image_id


def test_vqa_weighs_answers_as_the_original(files: Files, tmp_path: Path) -> None:
    asked = {"question_id": 7, "image": "a.jpg", "question": "how many?"}
    path = files(
        "vqa.json",
        [
            asked | {"answer": ["2"] * 7 + ["two"] * 3, "dataset": "vqa"},
            asked | {"answer": "a dog", "dataset": "vg"},
            asked | {"dataset": "vqa"},
        ],
    )
    vqa, vg, test = lists(tmp_path, "vqa", {"train": [path]})
    assert vqa.captions == ("how many?",)
    assert vqa.meta["answers"] == {"2": 0.7, "two": 0.3}
    assert len(vqa.meta["annotators"]) == 10
    assert vg.meta["answers"] == {"a dog": 0.5}
    assert (test.meta["question_id"], "answers" in test.meta) == (7, False)
    assert vqa.image_id == vg.image_id


def test_entailment_and_nlvr2_have_labels(files: Files, tmp_path: Path) -> None:
    ve = files("ve.json", [{"image": "a", "sentence": "a man", "label": "neutral"}])
    [record] = lists(tmp_path, "entailment", {"train": [ve]})
    assert (record.captions, record.meta["label"]) == (("a man",), "neutral")
    pair = files("nlvr.json", [{"images": ["a.jpg", "b.jpg"], "sentence": "both", "label": "True"}])
    [record] = lists(tmp_path, "nlvr2", {"train": [pair]})
    assert record.images == ((tmp_path / "a.jpg").read_bytes(), (tmp_path / "b.jpg").read_bytes())
    assert record.meta["label"] == "True"


def test_grounding_finds_boxes_and_proposals(files: Files, tmp_path: Path) -> None:
    image = "COCO_train2014_000000000057.jpg"
    path = files(
        "refs.json",
        [
            {"image": image, "text": "left dog", "ref_id": 3},
            {"image": image, "text": "cat", "ref_id": 4, "box": [1, 2, 3, 4]},
        ],
    )
    boxes = files("boxes.json", {"3": [5, 6, 7, 8]})
    dets = files("dets.json", {"57": [[0, 0, 9, 9, 0.8], [1, 1, 2, 2, 0.1]]})
    one, two = lists(tmp_path, "grounding", {"test": [path]}, boxes=boxes, proposals=dets)
    assert one.meta["box"] == [5, 6, 7, 8]
    assert one.meta["proposals"] == [[0, 0, 9, 9], [1, 1, 2, 2]]
    assert (two.captions, two.meta["box"], two.meta["ref_id"]) == (("cat",), [1, 2, 3, 4], 4)


def test_karpathys_splits(files: Files, tmp_path: Path) -> None:
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "c.jpg").write_bytes(b"c")
    sentences = [{"raw": "One.", "tokens": ["one"]}, {"raw": "Two."}]
    images = [
        {"filename": "a.jpg", "split": "train", "sentences": sentences},
        {"filename": "c.jpg", "filepath": "val2014", "split": "restval", "sentences": sentences},
        {"filename": "gone.jpg", "split": "val", "sentences": sentences},
        {"filename": "b.jpg", "split": "test", "sentences": sentences},
    ]
    path = files("dataset.json", {"images": images, "dataset": "coco"})
    found = read(tmp_path, kind="karpathy", file=path, splits=["train", "test"])
    assert [record.split for record in found] == ["train", "train", "test"]
    assert found[1].image == b"c"
    assert found[0].captions == ("One.", "Two.")
    assert len({record.image_id for record in found}) == 3


GOOD = {"image": "a.jpg", "caption": "x"}
BAD: dict[str, tuple[str, Any, str, Reason | None]] = {
    "not a list": ("captions", {"a": 1}, r"must hold a list of objects, not \{", None),
    "not an object": (
        "captions",
        [GOOD, "b"],
        'must be an object, not "b"',
        Reason.MALFORMED_ROW,
    ),
    "no caption": (
        "captions",
        [GOOD, {"image": "a.jpg"}],
        "'caption' is missing; it must",
        Reason.MISSING_FIELD,
    ),
    "empty caption": (
        "captions",
        [{"image": "a.jpg", "caption": [" "]}],
        r"'caption' is \[\" \"\]; it must be a text, or",
        Reason.MISSING_FIELD,
    ),
    "no picture": (
        "captions",
        [{"image": "gone.jpg", "caption": "x"}],
        r"the image .*gone.jpg cannot be read: No such file",
        Reason.MISSING_FILE,
    ),
    "data set": (
        "vqa",
        [{"image": "a.jpg", "question": "?", "answer": "x", "dataset": "gqa"}],
        r"'dataset' is \"gqa\"; it must be vqa or vg",
        Reason.MISSING_FIELD,
    ),
    "label": (
        "entailment",
        [{"image": "a", "sentence": "x", "label": "-"}],
        r"'label' is \"-\"; it must be contradiction or neutral or entailment",
        Reason.MISSING_FIELD,
    ),
    "one image": (
        "nlvr2",
        [{"images": ["a.jpg"], "sentence": "x", "label": "True"}],
        "'images' names 1 pictures; it must name two",
        Reason.MISSING_FIELD,
    ),
    "box": (
        "grounding",
        [{"image": "a.jpg", "text": "x", "ref_id": 1, "box": [1, 2, 0, 4]}],
        r"\[1, 2, 0, 4\] is no box",
        Reason.MISSING_FIELD,
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_set_aside_and_named(case: str, files: Files, tmp_path: Path) -> None:
    form, held, message, reason = BAD[case]
    path = files("bad.json", held)
    values = {"kind": "annotations", "format": form, "files": {"train": [path]}}
    if reason is None:
        with pytest.raises(ParamsError, match=message) as caught:
            rows(tmp_path, **values)
        assert str(caught.value).startswith(path)
        return
    *good, bad = rows(tmp_path, **values)
    assert isinstance(bad, Refusal)
    assert (bad.reason, bad.line) == (reason, len(held))
    assert re.search(message, bad.detail)
    assert bad.detail.startswith(path)
    assert all(isinstance(row, Record) for row in good)
    assert len(good) == len(held) - 1


def test_bad_files_are_named(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"gone.json cannot be read: No such file"):
        lists(tmp_path, "captions", {"train": [str(tmp_path / "gone.json")]})
    (tmp_path / "cut.json").write_text("[{")
    with pytest.raises(ParamsError, match=r"cut.json is no JSON"):
        lists(tmp_path, "captions", {"train": [str(tmp_path / "cut.json")]})
    refs = files("rows.json", [{"image": "a.jpg", "text": "x", "ref_id": 1}])
    dets = files("dets.json", {"57": [[0, 0, 9, 9]]})
    [bad] = rows(
        tmp_path, kind="annotations", format="grounding", files={"test": [refs]}, proposals=dets
    )
    assert isinstance(bad, Refusal)
    assert re.search(r".*dets.json has no boxes for a.jpg", bad.detail)
    bare = files("bare.json", [1])
    with pytest.raises(ParamsError, match="must hold a list under 'images'"):
        read(tmp_path, kind="karpathy", file=bare, splits=["test"])
    with pytest.raises(ParamsError, match="proposals belong to format grounding; write null"):
        lists(tmp_path, "captions", {"train": [refs]}, proposals=dets)
    with pytest.raises(ParamsError, match="joined belongs to format captions; write false"):
        lists(tmp_path, "vqa", {"train": [refs]}, joined=True)


def test_bad_rows_of_karpathys_are_set_aside(files: Files, tmp_path: Path) -> None:
    said = [{"raw": "one"}]
    images = [
        {"filename": "a.jpg", "split": "dev"},
        7,
        {"filename": "a.jpg", "split": "test", "sentences": []},
        {"filename": "a.jpg", "split": "test", "sentences": [{"raw": ""}]},
        {"filename": "../a.jpg", "split": "test", "sentences": said},
        {"filename": "a\0.jpg", "split": "test", "sentences": said},
        {"filename": "b.jpg", "split": "test", "sentences": said},
    ]
    path = files("split.json", {"images": images})
    *bad, good = rows(tmp_path, kind="karpathy", file=path, splits=["test"])
    assert isinstance(good, Record)
    found = [(row.line, row.key, row.reason) for row in bad if isinstance(row, Refusal)]
    assert found == [
        (1, "a.jpg", Reason.MISSING_FIELD),
        (2, "", Reason.MALFORMED_ROW),
        (3, "a.jpg", Reason.MISSING_FIELD),
        (4, "a.jpg", Reason.MISSING_FIELD),
        (5, "../a.jpg", Reason.OUTSIDE_ROOT),
        (6, "a\0.jpg", Reason.MISSING_FILE),
    ]
    assert isinstance(bad[0], Refusal)
    assert bad[0].detail.startswith(f"{path}: 'split' is \"dev\"; it must be train")
