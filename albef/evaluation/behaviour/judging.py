"""Whether a model does what is expected: cases scored, judged, and counted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import pyarrow as pa

from albef.data.record import Record
from albef.evaluation.behaviour.cases import Case, make
from albef.evaluation.behaviour.suite import ACCEPTED, OVERALL, BehaviourConfig, load
from albef.loading.reading import Pairs, Records
from albef.tasks.task import RunTask, Table

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
    """The cases of a split, and the threshold from which a text is said to be true."""

    split: str
    cases: Sequence[Case]
    threshold: float

    @property
    def pairs(self) -> Pairs:
        """Places and texts to be scored, each once, by place."""
        texts = [(c.place, text) for c in self.cases for text in (c.caption, c.changed)]
        return sorted(dict.fromkeys(texts), key=lambda pair: pair[0])

    def judge(self, scores: Sequence[float]) -> Table:
        """The cases with what a model made of them."""
        score_of = dict(zip(self.pairs, scores, strict=True))
        texts: dict[tuple[int, str], set[str]] = {}
        for case in self.cases:
            texts.setdefault((case.place, case.caption), {case.caption}).add(case.changed)
        rows = []
        for case in self.cases:
            others = texts[case.place, case.caption] - {case.changed}
            score, changed = (score_of[case.place, text] for text in (case.caption, case.changed))
            least = min(score_of[case.place, text] for text in others)
            accepted, also_accepted = score >= self.threshold, changed >= self.threshold
            passed, chance = {
                "changed": (accepted and not also_accepted, self.threshold * (1 - self.threshold)),
                "same": (accepted == also_accepted, self.threshold**2 + (1 - self.threshold) ** 2),
                "lower": (changed < score, 0.5),
                "lowest": (changed < least, 1 / (1 + len(others))),
            }[case.expects]
            passed = passed and isfinite(score) and isfinite(changed)
            texts_of = (self.split, case.test, case.expects, case.key, case.caption, case.changed)
            rows.append((*texts_of, score, changed, least, accepted, passed, chance))
        columns = zip(*rows, strict=True) if rows else ((),) * len(SCHEMA)
        return dict(zip(SCHEMA.names, map(list, columns), strict=True))


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
    return Behaviour(rows[0].split, cases, config.threshold) if cases else None


def rates(table: Table) -> dict[str, float]:
    """Percent of cases that pass: ``overall``, the mean of all tests, and of each test; and
    ``accepted``, the true texts that are said to be true."""
    texts = zip(table["key"], table["caption"], strict=True)
    claims = dict(zip(texts, table["accepted"], strict=True))
    accepted = 100.0 * sum(claims.values()) / len(claims)
    return {**_rates(table, table["passed"]), ACCEPTED: accepted}


def chances(table: Table) -> dict[str, float]:
    """:func:`rates` of scores drawn evenly from 0 to 1, in expectation."""
    return _rates(table, table["chance"])


def _rates(table: Table, values: Sequence[float]) -> dict[str, float]:
    by_test: dict[str, list[float]] = {}
    for test, value in zip(table["test"], values, strict=True):
        by_test.setdefault(test, []).append(value)
    rates = {test: 100.0 * sum(numbers) / len(numbers) for test, numbers in by_test.items()}
    return {OVERALL: sum(rates.values()) / len(rates), **rates}
