"""Examples from predictions written by hand."""

import io
import json
from base64 import b64decode
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from albef.report.flips import flips
from albef.report.heatmap import CORRECT, WRONG
from albef.report.sections import examples
from albef.report.thumbnails import Thumbnail, sample
from tests.report.test_scores import predicted, scored


class Toy:
    """Records a to f; a and b show the same picture."""

    def thumbnail(self, key: str) -> Thumbnail | None:
        return Thumbnail(key, f"data:{key}") if key in "abcdef" else None

    def same(self, key: str) -> frozenset[str]:
        return frozenset("ab") if key in "ab" else frozenset(key)

    def captions(self, key: str) -> frozenset[str]:
        return frozenset(f"says {other}" for other in self.same(key))


def row(query: str, key: str, rank: int, rank_itc: int, top: str, top_itc: str, **more: Any) -> Any:
    def listed(order: str) -> list[str]:
        return [f"says {o}" for o in order] if query == "i2t" else list(order)

    return {
        "query": query,
        "key": key,
        "caption": f"says {key}" if query == "t2i" else "",
        "rank": rank,
        "rank_itc": rank_itc,
        "top": listed(top),
        "top_itc": listed(top_itc),
        "change": None,
        **more,
    }


def table(*rows: Any) -> pa.Table:
    return pa.Table.from_pylist(list(rows))


def galleries(*rows: Any, count: int) -> Any:
    return examples.read(table(*rows), Toy(), count)


def test_texts_show_their_images_and_mark_the_right_ones() -> None:
    made = galleries(row("t2i", "a", 0, 1, "abcdef", "cabdef"), count=8)
    assert [(group.title, group.layout, group.good) for group in made] == [
        ("Text to image, correct", "texts", True)
    ]
    (query,) = made[0].examples
    assert query.text == "says a"
    assert [answer.right for answer in query.answers] == [True, True, False, False, False]
    assert [answer.position for answer in query.answers] == [1, 2, 3, 4, 5]
    assert query.answers[0].thumbnail == Thumbnail("a", "data:a")


def test_the_large_example_is_the_median_and_not_a_success() -> None:
    ranks = {"a": 0, "b": 1, "c": 1, "d": 3, "e": 5}
    rows = [row("t2i", key, rank, 9 - rank, "fedcb", "abcde") for key, rank in ranks.items()]
    rows.append(row("i2t", "f", 7, 7, "abcde", "abcde"))
    query = examples.median_query(table(*rows), Toy())
    assert query is not None
    assert (query.text, query.rank, query.label) == ("says c", 1, "5 text queries")
    query = examples.median_query(table(*rows), Toy(), rerank_k=5)  # ITM scored only e
    assert query is not None
    assert (query.text, query.rank, query.rank_itc) == ("says b", None, 8)
    assert examples.median_query(table(rows[-1]), Toy()) is None


def test_a_right_answer_beyond_those_shown_is_shown_last_with_its_rank() -> None:
    by_text = row("t2i", "f", 40, 60, "abcde", "abcde")
    by_picture = row("i2t", "f", 7, 9, "abcde", "abcde")
    texts, thumbnails = galleries(by_text, by_picture, count=8)
    assert not texts.good
    assert not thumbnails.good
    last = texts.examples[0].answers[-1]
    assert (last.position, last.right, last.thumbnail) == (41, True, Thumbnail("f", "data:f"))
    assert len(texts.examples[0].answers) == 5
    last = thumbnails.examples[0].answers[-1]
    assert (last.position, last.right, last.text) == (8, True, "says f")
    assert len(thumbnails.examples[0].answers) == 4


def test_what_was_not_re_ranked_has_no_place_by_itm() -> None:
    """ITM used to "rank" it last of all."""
    rows = table(row("t2i", "f", 47, 7, "abcde", "abcde"), row("t2i", "f", 6, 6, "abcde", "abcde"))
    (wrong,) = examples.read(rows, Toy(), 8, rerank_k=7)
    assert [query.rank for query in wrong.examples] == [None, 6]
    assert [query.answers[-1].position for query in wrong.examples] == [8, 7]
    (wrong,) = examples.read(rows, Toy(), 8)
    assert [query.rank for query in wrong.examples] == [47, 6]


def test_successes_and_failures_are_taken_at_even_steps() -> None:
    asked = [row("t2i", "c", rank, 0, "c", "c") for rank in (0, 1) for _ in range(10)]
    right, wrong = galleries(*asked, count=4)
    assert (len(right.examples), len(wrong.examples)) == (4, 4)
    assert right.note == "4 of 10, an even sample; 20 texts in total"
    assert sample(range(10), 4) == [0, 3, 5, 8]
    assert sample(range(9), 9) == list(range(9))
    assert {place % 4 for place in sample(range(800), 8)} == {0, 1, 2, 3}
    assert sample([1, 2], 8) == [1, 2]
    assert sample([], 8) == []


def test_pairs_show_what_itm_gains_over_itc_change_by_change() -> None:
    rows = [
        row("t2i", "c", 0, 1, "cd", "dc", change=change)
        for change in ("count", "object", "relation")
        for _ in range(6)
    ]
    rows.append(row("t2i", "e", 1, 0, "fe", "ef", change="count"))
    rows.append(row("i2t", "e", 0, 1, "ef", "fe", change="count"))
    gained, lost = galleries(*rows, count=6)
    assert gained.layout == "pairs"
    assert [query.label for query in gained.examples] == [
        "count", "count", "object", "object", "relation", "relation",
    ]  # fmt: skip
    right, other = gained.examples[0].answers
    assert (right.right, right.position, right.by_itc) == (True, 1, False)
    assert (other.right, other.position, other.by_itc) == (False, 2, True)
    assert not lost.good
    assert [answer.position for answer in lost.examples[0].answers] == [2, 1], (
        "the right one is left"
    )


def located(iou: float, key: str = "k", box: list[float] | None = None) -> Any:
    """The only answer of a grounding of one expression."""
    row = {
        "key": key, "expression": "the <b>", "type": "", "truth": [2.0, 2.0, 10.0, 10.0],
        "box": box, "iou": iou, "map_box": box and [0.0, 0.0, 20.0, 20.0], "map_iou": 0.25,
        "share": 0.0, "heat": bytes([255, 0, 0, 0]),
    }  # fmt: skip
    predictions = predicted("grounding", {name: [value] for name, value in row.items()})
    [group] = examples.read(predictions, Plain(), 2)
    assert group.good == (iou >= 0.5)
    return group.examples[0]


class Plain:
    """Records whose picture is a plain one, but for that of "gone"."""

    def image(self, key: str) -> Image.Image | None:
        return None if key == "gone" else Image.new("RGB", (48, 24), (240, 240, 240))


def has_colour(pixels: "np.ndarray[Any, Any]", colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels - colour).sum(-1) < 40).any())


def pixels_of(answer: Any) -> "np.ndarray[Any, Any]":
    data = b64decode(answer.thumbnails[0].uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_boxes_show_what_is_meant_and_what_was_chosen() -> None:
    right, wrong = located(1.0, box=[2.0, 2.0, 10.0, 10.0]), located(0.0, box=[30.0, 4.0, 10, 10])
    assert (wrong.question, wrong.given) == ("the <b>", "IoU 0.00, hottest region 0.25")
    assert has_colour(pixels_of(right), CORRECT)
    assert not has_colour(pixels_of(right), WRONG)
    pixels = pixels_of(wrong)
    assert pixels.shape == (120, 240, 3)
    redness = pixels[..., 0] - pixels[..., 1]
    assert redness[15:30, 15:30].mean() > 80, "the hottest cell is red"
    assert abs(redness[105:, 210:]).max() < 8, "a cold one shows the image"
    assert has_colour(pixels, CORRECT)
    assert has_colour(pixels[43:48, 148:153], WRONG)  # an edge of the box
    assert not has_colour(pixels_of(located(0.0)), WRONG), "no box was chosen"
    assert located(0.0, "gone").thumbnails[0].uri == ""


def test_images_that_were_classified_stand_beside_a_ranked_split() -> None:
    """In a run's predictions each split has the columns of all."""
    things = [("a", "an apple", "an apple", 1.0), ("b", "a dog", "an apple", 0.0)]
    shown = pa.Table.from_pylist(
        [
            {"split": "things", "key": key, "label": label, "predicted": given, "credit": credit}
            for key, label, given, credit in things
        ]
    )
    columns = {
        "metric": "balanced", "question": "", "given": "predicted", "truth": "label",
        "pictures": ["key"], "strata": "label", "right": 0.5,
    }  # fmt: skip
    ranked = table(row("t2i", "a", 0, 1, "abcdef", "cabdef", split="test", credit=1.0))
    every = pa.concat_tables([ranked, shown], promote_options="default")
    every = every.replace_schema_metadata({"kind": json.dumps({"examples": {"things": columns}})})
    part = every.filter(pc.equal(every["split"], "things"))
    right, wrong = examples.read(part, Toy(), 2)  # type: ignore[arg-type]
    assert (right.title, wrong.title) == ("Correct answers", "Wrong answers")
    assert wrong.examples[0].thumbnails == [Thumbnail("b", "data:b")]
    assert (wrong.examples[0].given, wrong.examples[0].truth) == ("an apple", "a dog")
    found = scored(part)
    assert found.mean() == 50
    (flip,) = flips(found, found, [(1, 1)], None)
    assert (flip.truth, flip.before) == ("a dog", "an apple")
