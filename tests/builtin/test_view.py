"""What every built-in view promises of its records, and which values it refuses."""

from collections import Counter
from typing import Any

import pytest

from albef.builtin import describe, openmoji
from albef.config import ParamsError
from tests.builtin.drawn import VALUES, draw, of, scenes_of

FEW: dict[str, dict[str, int]] = {
    kind: dict.fromkeys(values["splits"], 6) for kind, values in VALUES.items()
}


@pytest.mark.parametrize("kind", VALUES)
def test_what_every_view_promises(kind: str) -> None:
    few = draw(kind, splits=FEW[kind])
    again = draw(kind, pixels=VALUES[kind]["pixels"], splits=FEW[kind])  # not the same list
    assert few == again
    other = draw(kind, 2, splits=FEW[kind])
    assert not {record.image for record in few} & {record.image for record in other}
    alone, beside = draw(kind, splits={"val": 6}), of(few, "val")
    assert [(r.images, r.captions) for r in alone] == [(r.images, r.captions) for r in beside]
    records = draw(kind)
    counts = Counter(split for split, _ in {(r.split, r.image_id) for r in records})
    assert counts == VALUES[kind]["splits"]
    assert len({record.key for record in records}) == len(records)
    assert {record.image_id for record in records} == set(range(records[-1].image_id + 1))
    assert all(record.key.startswith(f"{record.split}-") for record in records)
    assert {record.source for record in records} == {kind}
    for record in records if kind not in ("pictures", "expressions") else ():
        assert {describe.split_of(scene) for scene in scenes_of(record)} == {record.split}


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("scenes", {"splits": {"test": 5000}},
         r"splits\.test needs .* lower splits\.test or increase objects"),
        ("scenes", {"splits": {"pairs": 3}}, "splits: pairs must be an even number"),
        ("scenes", {"splits": {"tran": 3}}, "'test', 'pairs', 'wordings', 'things'"),
        ("scenes", {"objects": openmoji.MOST, "splits": {"novel": 6}}, "novel needs 6 further"),
        ("scenes", {"objects": 1000}, f"objects: .* less than or equal to {openmoji.MOST}"),
        ("scenes", {"language": "de", "itm_captions": True}, "language: de has no"),
        ("scenes", {"language": "de", "splits": {"wordings": 2}}, "no split wordings"),
        ("pictures", {"splits": {"val": 13}}, r"splits\.val needs 13 different captions"),
        ("statements", {"splits": {"train": 4}}, "train: .* multiple of 3, got 4"),
        ("expressions", {"objects": 8, "splits": {"val": 5000}},
         r"splits\.val needs .* increase objects"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(kind: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        draw(kind, **changed)
