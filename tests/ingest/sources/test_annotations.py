"""The public formats, read as they are; a bad row is named by file and number."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albef.config import ParamsError
from albef.data.record import Record
from albef.data.rejection import Reason
from tests.data import toy
from tests.ingest.sources import reading
from tests.ingest.sources.reading import Rows, bad, good, read

Files = Callable[[str, Any], str]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    def write(name: str, held: Any) -> str:
        Path(name).write_text(json.dumps(held))
        return name

    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "COCO_train2014_000000000057"):
        Path(f"{name}.jpg").write_bytes(toy.record(len(name)).image)
    return write


def rows(form: str, files: dict[str, list[str]], **more: Any) -> Rows:
    return read("annotations", format=form, files=files, images=".", **more)


def lists(form: str, files: dict[str, list[str]], **more: Any) -> list[Record]:
    found = rows(form, files, **more)
    assert not bad(found)
    return good(found)


def test_all_captions_of_an_image_are_one_record(files: Files) -> None:
    one, x = {"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "caption": "x"}
    first = files("1.json", [one, x])
    second = files("2.json", [{"image": "a.jpg", "caption": ["two", "one"], "image_id": "coco_9"}])
    test = files("3.json", [{"image": "b.jpg", "caption": ["y"]}])
    splits = {"train": [first, second], "test": [test]}
    values = {"format": "captions", "files": splits, "images": "."}
    (a, b, again), _ = reading.merged(Path("work"), "annotations", **values, joined=True)
    assert a.captions == ("one", "two")
    assert a.image == Path("a.jpg").read_bytes()
    assert (a.split, b.split, again.split) == ("train", "train", "test")
    assert b.image_id == again.image_id != a.image_id
    assert a.meta == {"path": "a.jpg"}
    assert len({record.key for record in (a, b, again)}) == 3
    assert len(reading.merged(Path("apart"), "annotations", **values)[0]) == 4
    rows_apart = lists("captions", splits)
    assert [record.captions for record in rows_apart] == [("one",), ("x",), ("two", "one"), ("y",)]
    assert rows_apart[0].image_id == rows_apart[2].image_id


def test_vqa_weighs_answers_as_the_original(files: Files) -> None:
    asked = {"question_id": 7, "image": "a.jpg", "question": "how many?"}
    path = files(
        "vqa.json",
        [
            asked | {"answer": ["2"] * 7 + ["two"] * 3, "dataset": "vqa"},
            asked | {"answer": "a dog", "dataset": "vg"},
            asked | {"dataset": "vqa"},
        ],
    )
    vqa, vg, test = lists("vqa", {"train": [path]})
    assert vqa.captions == ("how many?",)
    assert vqa.meta["answers"] == {"2": 0.7, "two": 0.3}
    assert len(vqa.meta["annotators"]) == 10
    assert vg.meta["answers"] == {"a dog": 0.5}
    assert (test.meta["question_id"], "answers" in test.meta) == (7, False)
    assert vqa.image_id == vg.image_id


def test_entailment_and_nlvr2_have_labels(files: Files) -> None:
    ve = files("ve.json", [{"image": "a", "sentence": "a man", "label": "neutral"}])
    [record] = lists("entailment", {"train": [ve]})
    assert (record.captions, record.meta["label"]) == (("a man",), "neutral")
    pair = files("nlvr.json", [{"images": ["a.jpg", "b.jpg"], "sentence": "both", "label": "True"}])
    [record] = lists("nlvr2", {"train": [pair]})
    assert record.images == (Path("a.jpg").read_bytes(), Path("b.jpg").read_bytes())
    assert record.meta["label"] == "True"


def test_grounding_finds_boxes_and_proposals(files: Files) -> None:
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
    one, two = lists("grounding", {"test": [path]}, boxes=boxes, proposals=dets)
    assert one.meta["box"] == [5, 6, 7, 8]
    assert one.meta["proposals"] == [[0, 0, 9, 9], [1, 1, 2, 2]]
    assert (two.captions, two.meta["box"], two.meta["ref_id"]) == (("cat",), [1, 2, 3, 4], 4)


GOOD = {"image": "a.jpg", "caption": "x"}
SHORT = {"images": ["a.jpg"], "sentence": "x", "label": "True"}
BOX = {"image": "a.jpg", "text": "x", "ref_id": 1, "box": [1, 2, 0, 4]}
ASKED = {"image": "a.jpg", "question": "?", "answer": "x", "dataset": "gqa"}


@pytest.mark.parametrize(
    ("form", "bad_row", "message", "reason"),
    [
        ("captions", "b", "must be an object", Reason.MALFORMED_ROW),
        ("captions", {"image": "a.jpg"}, "'caption' is missing", Reason.MISSING_FIELD),
        ("captions", GOOD | {"caption": [" "]}, r"'caption' is \[\" \"\]", Reason.MISSING_FIELD),
        ("captions", GOOD | {"image": "gone.jpg"},
         "image gone.jpg cannot be read: No such", Reason.MISSING_FILE),
        ("vqa", ASKED, "'dataset' is .*vqa or vg", Reason.MISSING_FIELD),
        ("entailment", {"image": "a", "sentence": "x", "label": "-"},
         "'label' is .*neutral or entailment", Reason.MISSING_FIELD),
        ("nlvr2", SHORT, "'images' must be two images", Reason.MISSING_FIELD),
        ("grounding", BOX, r"a box must .*\[1, 2, 0, 4\]", Reason.MISSING_FIELD),
    ],
)  # fmt: skip
def test_a_bad_row_is_rejected_and_named(
    files: Files, form: str, bad_row: object, message: str, reason: Reason
) -> None:
    path = files("bad.json", [*[GOOD] * (form == "captions"), bad_row])
    found = rows(form, {"train": [path]})
    [rejection] = bad(found)
    assert (rejection.reason, rejection.line) == (reason, len(found))
    assert re.match(f"bad.json: {message}", rejection.detail)
    assert len(good(found)) == len(found) - 1


def test_bad_files_are_named(files: Files) -> None:
    Path("cut.json").write_text("[{")
    files("object.json", {"a": 1})
    refs = files("rows.json", [{"image": "a.jpg", "text": "x", "ref_id": 1}])
    dets = files("dets.json", {"57": [[0, 0, 9, 9]]})
    for form, file, more, message in (
        ("captions", "gone.json", {}, r"gone.json cannot be read: No such file"),
        ("captions", "cut.json", {}, r"cut.json is not JSON"),
        ("captions", "object.json", {}, r"object.json must contain a list of objects"),
        ("captions", refs, {"proposals": dets}, "proposals requires format: grounding"),
        ("vqa", refs, {"joined": True}, "joined requires format: captions"),
        ("grounding", refs, {"boxes": refs}, "rows.json must contain an object of boxes"),
    ):
        with pytest.raises(ParamsError, match=message):
            rows(form, {"train": [file]}, **more)
    [rejection] = bad(rows("grounding", {"test": [refs]}, proposals=dets))
    assert rejection.detail == "rows.json: dets.json has no boxes for a.jpg"


def test_json_lines_are_read_as_a_list(files: Files) -> None:
    rows_ = [{"image": f"{name}.jpg", "caption": name} for name in "ab"]
    Path("lines.json").write_text("\n".join(map(json.dumps, rows_)) + "\n\n")
    read_rows = good(rows("captions", {"train": ["lines.json"]}))
    assert [row.captions for row in read_rows] == [("a",), ("b",)]
    Path("lines.json").write_text(json.dumps(rows_[0]) + "\n\n{oops\n")
    with pytest.raises(ParamsError, match=r"lines.json is not JSON: line 3: "):
        rows("captions", {"train": ["lines.json"]})


def test_nlvr2s_own_files_name_images_by_an_identifier(files: Files) -> None:
    for folder in (Path(), Path("7")):
        folder.mkdir(exist_ok=True)
        for i in range(2):
            (folder / f"dev-850-0-img{i}.png").write_bytes(toy.record(i).image)
    row = {"identifier": "dev-850-0-1", "sentence": "two dogs", "label": "True", "left_url": "x"}
    lines = [row, row | {"directory": 7}, row | {"directory": "7"}]
    Path("dev.json").write_text("\n".join(map(json.dumps, lines)))
    for made in good(rows("nlvr2", {"val": ["dev.json"]})):
        assert made.images == (toy.record(0).image, toy.record(1).image)
    assert len(good(rows("nlvr2", {"val": ["dev.json"]}))) == 3
