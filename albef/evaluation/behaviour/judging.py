"""Whether a model does what is expected: cases scored, judged, and counted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa

from albef.data.record import Record
from albef.evaluation.behaviour.cases import Case, make
from albef.evaluation.behaviour.suite import ACCEPTED, OVERALL, BehaviourConfig, load
from albef.tasks.task import Pairs, Records, RunTask

Table = dict[str, list[Any]]
"""Cases column by column; becomes Parquet."""
SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("test", pa.string()),
        ("expects", pa.string()),
        ("key", pa.string()),
        ("caption", pa.string()),
        ("changed", pa.string()),
        ("score", pa.float64()),
        ("changed_score", pa.float64()),
        ("least", pa.float64()),
        ("accepted", pa.bool_()),
        ("passed", pa.bool_()),
        ("chance", pa.float64()),
    ]
)
"""Columns of the stored cases. ``score`` and ``changed_score`` are probabilities that the text is
true of the picture, ``least`` is the least one of the picture's other texts, ``accepted`` whether
the true text is said to be true, ``chance`` how often scores drawn from 0 to 1 would pass."""


@dataclass(frozen=True)
class Behaviour:
    """The cases of a split, and the threshold from which a text is said to be true.

    Attributes:
        split: its name.
        cases: of all tests.
        threshold: from 0 to 1.
        pairs: places and texts to be scored, each once, by place.
    """

    split: str
    cases: Sequence[Case]
    threshold: float
    pairs: Pairs

    def judge(self, scores: Sequence[float]) -> Table:
        """The cases with what a model made of them.

        Args:
            scores: of the pairs.
        """
        told = dict(zip(self.pairs, scores, strict=True))
        texts: dict[tuple[int, str], dict[str, None]] = {}
        for case in self.cases:
            own = texts.setdefault((case.place, case.caption), {case.caption: None})
            own[case.changed] = None
        table: Table = {name: [] for name in SCHEMA.names}
        for case in self.cases:
            others = [t for t in texts[case.place, case.caption] if t != case.changed]
            score, changed = told[case.place, case.caption], told[case.place, case.changed]
            least = min(told[case.place, text] for text in others)
            row = (
                *(self.split, case.test, case.expects, case.key, case.caption, case.changed),
                *(score, changed, least, score >= self.threshold),
                self._passes(case, score, changed, least),
                self._chance(case, len(others)),
            )
            for column, value in zip(SCHEMA.names, row, strict=True):
                table[column].append(value)
        return table

    def _passes(self, case: Case, score: float, changed: float, least: float) -> bool:
        if not (isfinite(score) and isfinite(changed)):
            return False
        said, says = score >= self.threshold, changed >= self.threshold
        return {
            "changed": said and not says,
            "same": said == says,
            "lower": changed < score,
            "lowest": changed < least,
        }[case.expects]

    def _chance(self, case: Case, others: int) -> float:
        yes = 1 - self.threshold
        return {
            "changed": yes * (1 - yes),
            "same": yes**2 + (1 - yes) ** 2,
            "lower": 0.5,
            "lowest": 1 / (1 + others),
        }[case.expects]


def prepare(
    config: BehaviourConfig, kind: type[RunTask], records: Records, dataset: str
) -> Behaviour | None:
    """The cases of a split; None where there are none, as for a kind whose texts claim nothing.

    Raises:
        ParamsError: the file of the tests is not there, or not as it should be.
    """
    suite = load(Path(config.tests))
    rows: list[Record] = []
    claims: list[tuple[str, ...]] = []
    if not config.cases or not kind.judges:
        return None
    for i in range(len(records)):
        rows.append(replace(records[i], image=b"", more=()))
        claims.append(kind.claims(rows[-1]))
    cases = make(suite, rows, claims, dataset, config.cases, config.tests)
    if not cases:
        return None
    texts = [(c.place, text) for c in cases for text in (c.caption, c.changed)]
    pairs = sorted(dict.fromkeys(texts), key=lambda pair: pair[0])
    return Behaviour(rows[0].split, cases, config.threshold, pairs)


def rates(table: Table) -> dict[str, float]:
    """Percent of cases that pass: ``overall``, the mean of all tests, and of each test; and
    ``accepted``, the true texts that are said to be true."""
    texts = zip(table["key"], table["caption"], strict=True)
    claims = dict(zip(texts, table["accepted"], strict=True))
    found = _rates(table, [float(passed) for passed in table["passed"]])
    return {**found, ACCEPTED: 100.0 * sum(claims.values()) / len(claims)}


def chances(table: Table) -> dict[str, float]:
    """:func:`rates` of scores drawn evenly from 0 to 1, in expectation."""
    return _rates(table, table["chance"])


def _rates(table: Table, values: Sequence[float]) -> dict[str, float]:
    by_test: dict[str, list[float]] = {}
    for test, value in zip(table["test"], values, strict=True):
        by_test.setdefault(test, []).append(value)
    found = {test: 100.0 * sum(own) / len(own) for test, own in by_test.items()}
    return {OVERALL: sum(found.values()) / len(found), **found}
