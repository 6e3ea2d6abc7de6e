"""Judgment of a model's behavior: cases are scored, judged and counted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import pyarrow as pa

from albef.evaluation.behaviour.cases import Case, make_cases
from albef.evaluation.behaviour.suite import ACCEPTED, OVERALL, BehaviourConfig, read_suite
from albef.loading.reading import Pairs, Records
from albef.tasks.task import RunTask, Table

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("split", "test", "expects", "key", "caption", "changed")]
    + [(name, pa.float64()) for name in ("score", "changed_score", "least")]
    + [("accepted", pa.bool_()), ("passed", pa.bool_()), ("chance", pa.float64())]
)
"""Columns of the stored cases. ``score`` and ``changed_score`` are probabilities that the text is
true of the image. ``least`` is the lowest probability of the image's other texts. ``accepted`` is
true if the model accepts the true text. ``chance`` is the probability that uniform random scores
pass."""


@dataclass(frozen=True)
class Behaviour:
    """The cases of a split, and the minimum score of a text that a model accepts."""

    split: str
    cases: Sequence[Case]
    threshold: float

    @property
    def pairs(self) -> Pairs:
        """Indices and texts to score, each once, in order of index."""
        texts = [(c.index, text) for c in self.cases for text in (c.caption, c.changed)]
        return sorted(dict.fromkeys(texts), key=lambda pair: pair[0])

    def judge(self, scores: Sequence[float]) -> Table:
        """Return the cases with a model's scores of :attr:`pairs` and its decisions."""
        score_of = dict(zip(self.pairs, scores, strict=True))
        texts: dict[tuple[int, str], set[str]] = {}
        for case in self.cases:
            texts.setdefault((case.index, case.caption), {case.caption}).add(case.changed)
        rows = []
        for case in self.cases:
            others = texts[case.index, case.caption] - {case.changed}
            score, changed = (score_of[case.index, text] for text in (case.caption, case.changed))
            least = min(score_of[case.index, text] for text in others)
            accepted, also_accepted = score >= self.threshold, changed >= self.threshold
            passed, chance = {
                "changed": (accepted and not also_accepted, self.threshold * (1 - self.threshold)),
                "same": (accepted == also_accepted, self.threshold**2 + (1 - self.threshold) ** 2),
                "accepted": (also_accepted, 1 - self.threshold),
                "refused": (not also_accepted, self.threshold),
                "lower": (changed < score, 0.5),
                "lowest": (changed < least, 1 / (1 + len(others))),
            }[case.expects]
            passed = passed and isfinite(score) and isfinite(changed)
            texts_of = (self.split, case.test, case.expects, case.key, case.caption, case.changed)
            rows.append((*texts_of, score, changed, least, accepted, passed, chance))
        columns = zip(*rows, strict=True) if rows else ((),) * len(SCHEMA)
        return dict(zip(SCHEMA.names, map(list, columns), strict=True))


def prepare(config: BehaviourConfig, kind: type[RunTask], records: Records) -> Behaviour | None:
    """Return the cases of a split; None if there are none.

    Raises:
        ParamsError: the file of the tests is missing or invalid.
    """
    suite = read_suite(Path(config.tests))
    if not config.cases or not kind.judges:
        return None
    rows = [replace(records[i], image=b"", more=()) for i in range(len(records))]
    languages = [row.meta.get("language", suite.language) for row in rows]
    claims = [
        kind.claims(row) if language == suite.language else ()
        for row, language in zip(rows, languages, strict=True)
    ]
    cases = make_cases(suite, rows, claims, config.cases)
    return Behaviour(rows[0].split, cases, config.threshold) if cases else None


def rates(table: Table) -> dict[str, float]:
    """Return the percentage of cases that pass.

    The result has each test, their mean ``overall``, and ``accepted``, the share of true texts that
    the model accepts.
    """
    texts = zip(table["key"], table["caption"], strict=True)
    accepted = dict(zip(texts, table["accepted"], strict=True)).values()
    return {**_rates(table, table["passed"]), ACCEPTED: 100.0 * sum(accepted) / len(accepted)}


def chances(table: Table) -> dict[str, float]:
    """Return the expected :func:`rates` of uniform random scores from 0 to 1."""
    return _rates(table, table["chance"])


def _rates(table: Table, values: Sequence[float]) -> dict[str, float]:
    by_test: dict[str, list[float]] = {}
    for test, value in zip(table["test"], values, strict=True):
        by_test.setdefault(test, []).append(value)
    rates = {test: 100.0 * sum(numbers) / len(numbers) for test, numbers in by_test.items()}
    return {OVERALL: sum(rates.values()) / len(rates), **rates}
