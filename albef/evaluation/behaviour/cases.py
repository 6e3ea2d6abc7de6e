"""The cases of a split: an image, a text that is true of it, and a changed text.

They depend only on data and tests, not on a seed or a model, so all runs share them.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from albef.data.record import Record
from albef.evaluation.behaviour import wording
from albef.evaluation.behaviour.suite import Expectation, Rule, Suite

T = TypeVar("T")
_DRAWS = 64
"""Maximum number of random captions that are tried to find one about another subject."""


@dataclass(frozen=True)
class Case:
    """A true text of an image, and a changed text that replaces it.

    Attributes:
        test, expects: name of the test, and its expectation.
        index, key: index of the record in its split, and its key.
    """

    test: str
    expects: Expectation
    index: int
    key: str
    caption: str
    changed: str


@dataclass(frozen=True)
class Claim:
    """A text that is true of an image."""

    index: int
    text: str


def make_cases(
    suite: Suite, rows: Sequence[Record], claims: Sequence[Sequence[str]], limit: int
) -> list[Case]:
    """Return the cases of a split, test by test and in the order of its records.

    Args:
        suite: the tests.
        rows: all records of the split; their images are not read.
        claims: the texts that are true of each record.
        limit: maximum number of cases of each test.
    """
    all_claims = [Claim(index, text) for index, texts in enumerate(claims) for text in texts]
    if not all_claims:
        return []
    common = frozenset(word.lower() for word in suite.common)
    cases: dict[str, list[Case]] = {}
    counts = {word.lower() for rule in suite.tests.values() for word in rule.numbers or ()}
    counts_used = {word for claim in all_claims for word in wording.words_in(claim.text, counts)}
    for name, rule in suite.tests.items():
        if rule.another is None:
            candidates = (
                _chosen(name, rule, rows[c.index], c, _options(rule, c.text, counts_used, common))
                for c in all_claims
            )
            cases[name] = evenly([case for case in candidates if case], limit)
    tested = dict.fromkeys(Claim(c.index, c.caption) for texts in cases.values() for c in texts)
    for name, rule in suite.tests.items():
        if rule.another:
            others = _Others(rows, claims, common)
            targets = sorted(tested, key=lambda claim: claim.index) or all_claims
            draws = (others.draw(name, rule, claim) for claim in targets)
            cases[name] = evenly([case for case in draws if case], limit)
    return [case for name in suite.tests for case in cases[name]]


def evenly(items: Sequence[T], limit: int) -> list[T]:
    """Return at most ``limit`` of ``items`` at even steps, in order."""
    count = min(limit, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _options(rule: Rule, text: str, counts_used: set[str], common: frozenset[str]) -> Iterator[str]:
    """Yield the texts that a rule on words makes of a text."""
    if rule.swap is not None:
        yield from wording.swapped(text, rule.swap)
    if rule.alike is not None:
        yield from wording.reworded(text, rule.alike, common)
    parts = [text]
    if rule.parts is not None:
        parts = list(wording.parts_of(text, rule.parts, common))
        if rule.numbers is None:
            yield from parts
    if rule.numbers is not None:
        for part in parts:
            yield from wording.miscounted(part, rule.numbers, counts_used)


def _chosen(
    name: str, rule: Rule, row: Record, claim: Claim, options: Iterable[str]
) -> Case | None:
    """Return a case with one of the changed texts; None if there is none."""
    text = claim.text
    candidates = [option for option in dict.fromkeys(options) if option.lower() != text.lower()]
    if not candidates:
        return None
    changed = random.Random(f"{name} {row.key} {text}").choice(candidates)
    return Case(name, rule.expects, claim.index, row.key, text, changed)


class _Others:
    """Captions of other images."""

    def __init__(
        self, rows: Sequence[Record], claims: Sequence[Sequence[str]], common: frozenset[str]
    ) -> None:
        self._rows, self._common = rows, common
        self._topics: dict[int, set[str]] = {}
        for row, texts in zip(rows, claims, strict=True):
            topics = self._topics.setdefault(row.image_id, set())
            objects = [entry.get("name", "") for entry in row.meta.get("objects") or ()]
            for text in (*row.captions, *texts, *objects):
                topics |= wording.topics(text, common)
        self._claims = [Claim(index, text) for index, texts in enumerate(claims) for text in texts]

    def draw(self, name: str, rule: Rule, claim: Claim) -> Case | None:
        """Return a case with a caption of other topics than the image's; None if none is found."""
        row = self._rows[claim.index]
        generator = random.Random(f"{name} {row.key} {claim.text}")
        for _ in range(_DRAWS):
            other = generator.choice(self._claims)
            topics = wording.topics(other.text, self._common)
            if topics and not topics & self._topics[row.image_id]:
                return Case(name, rule.expects, claim.index, row.key, claim.text, other.text)
        return None
