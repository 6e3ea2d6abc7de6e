"""Values of rows as captions and as meta, whatever they are."""

import datetime as dt

import pytest

from albef.data.rejection import Reason, RowError
from albef.ingest.sources.rows import captions_of, to_json


def test_what_json_cannot_say() -> None:
    day = dt.date(2020, 1, 2)
    held = {"day": day, "nan": float("nan"), "raw": b"\x01\xff", 3: (1, "\ud800")}
    assert to_json(held) == {"day": "2020-01-02", "nan": None, "raw": "01ff", "3": [1, "?"]}


def test_why_captions_are_refused() -> None:
    assert captions_of([["a", None, " "], "b", None]) == ("a", "b")
    for values, reason in (
        ([], Reason.NO_CAPTION), ([" ", [""]], Reason.NO_CAPTION),
        ([["a" * 2**19] * 3], Reason.CAPTION_TOO_LONG),
        ([3], Reason.MISSING_FIELD), (["\ud800"], Reason.MALFORMED_ROW),
    ):  # fmt: skip
        with pytest.raises(RowError) as caught:
            captions_of(values)
        assert caught.value.reason == reason
