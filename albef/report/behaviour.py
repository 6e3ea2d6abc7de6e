"""Behaviour tests on the page: how many cases pass, how sure that is, and some that fail."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from albef.evaluation.statistics import Interval, proportion
from albef.report.examples import spread
from albef.report.results import Picture

EXPECTED = {
    "changed": "the true text is said to be true and the changed one is not",
    "same": "the decision stays",
    "lower": "the changed text scores lower",
    "lowest": "the other text scores lowest of the picture's texts",
}
"""What passes, by what a test expects."""
_WORDS = {
    "left_right": "left and right swapped",
    "synonym": "said in other words",
    "count": "a wrong count",
    "unrelated": "a caption of another picture",
}


class Records(Protocol):
    """The records of a split, as far as these examples need them."""

    def picture(self, key: str) -> Picture | None:
        """The picture of a record; None where there is no such record."""


@dataclass(frozen=True)
class Failed:
    """A case that does not pass.

    Attributes:
        picture: None where it is not at hand.
        caption, changed: the true text and the changed one.
        score, changed_score: the probability of each, from 0 to 1.
        least: the least one of the picture's other texts, where the changed one has to be below.
    """

    picture: Picture | None
    caption: str
    changed: str
    score: float
    changed_score: float
    least: float | None


@dataclass(frozen=True)
class Tested:
    """A test.

    Attributes:
        name: of it.
        words: what it changes, or "".
        passes: what passes, in words.
        passed, cases: counts.
        rate, interval: percent of cases that pass; Wilson's interval of it.
        chance, random_weights: rates to hold it against; None where they are not known.
        failed: some cases.
    """

    name: str
    words: str
    passes: str
    passed: int
    cases: int
    rate: float
    interval: Interval
    chance: float | None
    random_weights: float | None
    failed: tuple[Failed, ...]


@dataclass(frozen=True)
class Behaviour:
    """The behaviour tests of a run.

    Attributes:
        split: whose pictures are shown.
        accepted: percent of the true texts that are said to be true.
        tests: at least one.
    """

    split: str
    accepted: float
    tests: tuple[Tested, ...]


def behaviour(
    table: pa.Table, metrics: Mapping[str, Any], records: Records | None, count: int
) -> Behaviour | None:
    """What the stored cases come to; None without any.

    Args:
        table: the cases.
        metrics: of the run, baselines included.
        records: of the split; None where they are not at hand.
        count: failures shown of each test.
    """
    if table.num_rows == 0:
        return None
    claims = {(row["key"], row["caption"]): row["accepted"] for row in table.to_pylist()}
    beside = [metrics.get(name, {}).get("behaviour", {}) for name in ("chance", "random_weights")]
    return Behaviour(
        split=table["split"][0].as_py(),
        accepted=100.0 * sum(claims.values()) / len(claims),
        tests=tuple(_tests(table, beside, records, count)),
    )


def _tests(
    table: pa.Table, beside: list[Mapping[str, float]], records: Records | None, count: int
) -> Iterator[Tested]:
    for name in pc.unique(table["test"]).to_pylist():
        own = table.filter(pc.equal(table["test"], name))
        passed = int(pc.sum(own["passed"]).as_py())
        failed = own.filter(pc.invert(own["passed"]))
        chance, random_weights = (section.get(name) for section in beside)
        yield Tested(
            name=name,
            words=_WORDS.get(name, ""),
            passes=EXPECTED[own["expects"][0].as_py()],
            passed=passed,
            cases=own.num_rows,
            rate=100.0 * passed / own.num_rows,
            interval=proportion(passed, own.num_rows),
            chance=chance,
            random_weights=random_weights,
            failed=tuple(
                Failed(
                    picture=records.picture(row["key"]) if records else None,
                    caption=row["caption"],
                    changed=row["changed"],
                    score=row["score"],
                    changed_score=row["changed_score"],
                    least=row["least"] if row["expects"] == "lowest" else None,
                )
                for row in failed.take(spread(range(failed.num_rows), count)).to_pylist()
            )
            if failed.num_rows
            else (),
        )
