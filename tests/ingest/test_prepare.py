"""What becomes of a row, taken by itself."""

import dataclasses
import io
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from albef.config import validate
from albef.data.image_decoding import decode
from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest import cleaning
from albef.ingest.cleaning import clean
from albef.ingest.config import IngestConfig
from albef.ingest.pool import prepare_rows
from albef.ingest.prepare import Prepared, Rules, prepare
from tests.ingest.bad_rows import CAPTION, LIMITS, BadRow, bad_rows, encoded, gradient, turned
from tests.ingest.deadly import Deadly, starve

ROWS = {row.name: row for row in bad_rows()}
IMAGES = {name: row.image for name, row in ROWS.items() if not name.startswith("caption_")}


def rules(longest_side: int | None = None, **changed: Any) -> Rules:
    return Rules(validate(IngestConfig, LIMITS | changed, where="test"), longest_side)


def record(image: bytes, *captions: str, **meta: Any) -> Record:
    return Record("toy-1", image, captions or (CAPTION,), 0, "train", "toy", meta)


def stored(row: Record, by: Rules) -> Prepared:
    made = prepare(1, row, by)
    assert isinstance(made, Prepared), made
    return made


def refused(row: Record, by: Rules) -> Rejection:
    made = prepare(7, row, by)
    assert isinstance(made, Rejection), made
    return made


def shown(image: bytes) -> Image.Image:
    opened = Image.open(io.BytesIO(image))
    opened.load()
    return opened


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_each_bad_row_is_repaired_or_rejected(row: BadRow) -> None:
    for longest_side in (None, 24):
        check_outcome(row, longest_side)


def check_outcome(row: BadRow, longest_side: int | None) -> None:
    given_row = record(row.image, row.caption, path=row.name)
    if isinstance(row.expected, Reason):
        why = refused(given_row, rules(longest_side))
        assert (why.source, why.line, why.key) == ("toy", 7, row.name)
        assert why.reason == row.expected, why.detail
        assert why.detail.strip()
        return
    made = stored(given_row, rules(longest_side))
    assert made.record.captions == (row.expected,)
    assert clean(row.expected) == row.expected, "cleaning again changes nothing"
    original = made.record.meta.get("original_captions")
    assert original == (None if row.expected == row.caption else [row.caption])
    picture = shown(made.record.image)
    assert picture.format in ("JPEG", "PNG", "WEBP")
    assert picture.mode in ("RGB", "L")
    assert max(picture.size) <= (longest_side or 200)
    assert not getattr(picture, "is_animated", False)
    assert picture.getexif().get(0x0112, 1) not in range(2, 9)
    looks = np.asarray(picture.convert("RGB"), int)
    exact = np.asarray(decode(row.image).resize(picture.size, Image.Resampling.LANCZOS), int)
    assert np.abs(looks - exact).mean() < (20 if row.name == "palette" else 10)


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(decode(image), int)


def test_every_kind_of_image_shows_what_it_held() -> None:
    exact = np.asarray(gradient(), int)
    for name in ("png", "bmp", "animated_png"):
        np.testing.assert_array_equal(pixels(IMAGES[name]), exact)
    for name, most in (("webp", 6), ("gif", 12), ("animated_gif", 12), ("animated_webp", 6)):
        assert np.abs(pixels(IMAGES[name]) - exact).mean() < most, name
    gray = np.asarray(gradient().convert("L").convert("RGB"), int)
    assert np.abs(pixels(IMAGES["gray"]) - gray).mean() < 2
    assert np.abs(pixels(IMAGES["palette"]) - exact).mean() < 25
    assert np.abs(pixels(IMAGES["cmyk"]) - exact).mean() < 6
    assert (pixels(IMAGES["transparent"]) == 255).all()
    assert (pixels(IMAGES["transparent_gray"]) == 255).all()
    deep = pixels(IMAGES["sixteen_bits"])
    assert (deep[0, 0], deep[-1, -1]) == (pytest.approx([0] * 3), pytest.approx([255] * 3))
    assert (np.diff(deep[:, :, 0].ravel()) >= 0).all()


@pytest.mark.parametrize("held", range(1, 9))
def test_an_image_is_turned_as_exif_says(held: int) -> None:
    expected = ImageOps.exif_transpose(shown(turned(held)))
    np.testing.assert_array_equal(pixels(turned(held)), np.asarray(expected, int))


def test_what_needs_nothing_is_stored_as_it_is() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        image = encoded(gradient(), kind)
        made = stored(record(image), rules(48))
        assert made.record.image == image
        assert made.record.meta == {}


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_what_is_larger_is_stored_smaller_and_never_larger(kind: str) -> None:
    made = stored(record(encoded(gradient(640, 480))), rules(256, format=kind))
    picture = shown(made.record.image)
    assert (picture.format, picture.size) == (kind.upper(), (256, 192))
    exact = gradient(640, 480).resize((256, 192), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(picture, int) - np.asarray(exact, int)).mean() < 3
    tall = stored(record(encoded(gradient(30, 90), "GIF")), rules(80))
    assert shown(tall.record.image).size == (27, 80)


def test_boxes_shrink_with_the_image_which_is_not_turned() -> None:
    meta = {"box": [10, 20, 30, 10], "proposals": [[0, 0, 48, 32]], "path": "a",
            "objects": [{"name": "ball", "box": [2, 4, 6, 8]}]}  # fmt: skip
    made = stored(record(turned(6), **meta), rules(24))
    assert shown(made.record.image).size == (24, 16)
    assert made.record.meta == {
        "box": [5, 10, 15, 5], "proposals": [[0, 0, 24, 16]], "path": "a",
        "objects": [{"name": "ball", "box": [1, 2, 3, 4]}],
    }  # fmt: skip
    assert stored(record(turned(6), **meta), rules(48)).record.meta == meta
    other = stored(record(turned(6), box="brown", objects=["ball"]), rules(24))
    assert shown(other.record.image).size == (16, 24)


def test_one_good_caption_of_several_is_enough_and_meta_is_mended() -> None:
    captions = ("<b>one</b>", "", "x" * 201, "two", " two ")
    made = stored(record(encoded(gradient()), *captions, title="a \ud83d b"), rules())
    assert made.record.captions == ("one", "two")
    assert made.record.meta == {"title": "a ? b", "original_captions": list(captions)}


@pytest.mark.parametrize(
    ("changed", "reason", "said"),
    [
        ({"key": "a.b"}, Reason.MALFORMED_ROW, "key 'a.b' must be 1 to 80"),
        ({"captions": ()}, Reason.NO_CAPTION, "no caption"),
        ({"meta": {"a": b"x"}}, Reason.MALFORMED_ROW, "cannot be read (TypeError: Object"),
        ({"captions": 3}, Reason.MALFORMED_ROW, "cannot be read (TypeError: 'int' object"),
        ({"image": IMAGES["html"]}, Reason.NO_IMAGE, "b'<!DOCTYPE html><'; supported: JPEG"),
    ],
)
def test_what_no_shard_can_hold_is_rejected(
    changed: dict[str, Any], reason: Reason, said: str
) -> None:
    made = refused(dataclasses.replace(record(encoded(gradient())), **changed), rules())
    assert (made.reason, made.line, made.source) == (reason, 7, "toy")
    assert said in made.detail


def characters(text: str) -> int:
    """Count the characters that the Python functions called by ``clean`` take."""
    count = 0

    def add(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        if event == "call":
            count += len(frame.f_locals.get("text", ""))

    sys.setprofile(add)
    try:
        cleaning.clean(text)
    except RowError:
        pass
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("part", ["amp;", "#38;", "ａｍｐ；", "&lt;b&gt;", "Ãƒ", "<b", "\x1b["])
def test_a_text_of_twice_the_length_takes_twice_the_work(part: str) -> None:
    once, twice = (characters("&" + part * count) for count in (400, 800))
    assert 0 < twice <= 2.2 * once


@pytest.mark.filterwarnings("ignore")
def test_several_processes_give_the_same_rows_in_order() -> None:
    given = [(i, record(row.image, row.caption)) for i, row in enumerate(ROWS.values(), 1)]
    given.insert(5, (6, Rejection("toy", 6, "x", Reason.TIMED_OUT, "too late")))  # type: ignore[arg-type]
    assert list(prepare_rows(given, rules(24), 2)) == list(prepare_rows(given, rules(24), 0))


def test_an_image_is_tried_again_alone_if_memory_is_short(tmp_path: Path) -> None:
    image = Deadly(encoded(gradient(1000, 1000), "JPEG"))
    image.times, image.effect = (tmp_path / "starved", 1), starve
    made = list(prepare_rows([(1, record(image))], rules(), 1))
    assert made == list(prepare_rows([(1, record(bytes(image)))], rules(), 0))
    assert (tmp_path / "starved").exists()
    assert isinstance(made[0], Prepared)


def test_an_image_whose_process_is_killed_is_tried_again_alone(tmp_path: Path) -> None:
    given = [(i, record(encoded(gradient(seed=i), "PNG"))) for i in range(1, 6)]
    killed = list(given)
    for i, times in ((1, 2), (3, 99)):
        image = Deadly(given[i][1].image)
        image.times = (tmp_path / str(times), times)
        killed[i] = i + 1, record(image)
    *made, dead, last = list(prepare_rows(killed, rules(), 1))
    assert [*made, last] == list(prepare_rows([*given[:3], given[4]], rules(), 0))
    assert isinstance(dead, Rejection)
    assert (dead.line, dead.reason) == (4, Reason.KILLED)
    assert "crashed (exit code -9)" in dead.detail
    assert (tmp_path / "99").stat().st_size == 2


@pytest.mark.parametrize(
    ("score", "split", "detail"),
    [
        (0.3, "train", None),
        (0.29, "train", "similarity is 0.29; at least 0.3"),
        ("nan", "train", "similarity is nan; at least 0.3"),
        (None, "train", "similarity is missing; list its column in `keep` of the source; at"),
        (0.29, "test", None),
    ],
)
def test_a_training_row_whose_score_is_too_low_is_rejected(
    score: object, split: str, detail: str | None
) -> None:
    row = dataclasses.replace(record(encoded(gradient(), "PNG"), similarity=score), split=split)
    asked = dataclasses.replace(rules(), min_scores={"similarity": 0.3})
    if detail is None:
        stored(row, asked)
    else:
        made = refused(row, asked)
        assert made.reason == Reason.LOW_SCORE
        assert made.thumbnail
        assert made.detail.startswith(detail)


def test_crops_of_an_evaluation_image_are_known() -> None:
    limits = rules(near_distance=4, crops=7).limits
    image = gradient(128, 128)
    held = stored(record(encoded(image, "PNG")), Rules(limits, None, heldout=True))
    crop = encoded(image.crop((9, 12, 116, 119)), "PNG")
    trained = stored(record(crop), Rules(limits, None))
    assert len(held.fingerprints) == 2 + 49
    [own] = trained.fingerprints
    bits = [(own.phash ^ one.phash).bit_count() for one in held.fingerprints]
    assert min(bits) <= 4 < min(bits[:2])
