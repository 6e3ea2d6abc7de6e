"""The cases of a split: a picture, a text that is true of it, and one that was changed.

They depend on data and tests alone, not on a seed or a model, so that runs share them.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from albef.config import ParamsError
from albef.data.record import Record
from albef.evaluation.behaviour import wording
from albef.evaluation.behaviour.suite import Expectation, Rule, Suite

T = TypeVar("T")
_DRAWS = 64
"""Captions of other pictures that are looked at to find one about something else."""


@dataclass(frozen=True)
class Case:
    """A case.

    Attributes:
        test, expects: of which test, and what that expects.
        place, key: of the record in its split.
        caption: what is true of its picture.
        changed: what is put in its place.
    """

    test: str
    expects: Expectation
    place: int
    key: str
    caption: str
    changed: str


@dataclass(frozen=True)
class Claim:
    """A text that is true of a picture."""

    place: int
    text: str


def make(
    suite: Suite,
    rows: Sequence[Record],
    claims: Sequence[Sequence[str]],
    dataset: str,
    most: int,
    where: str,
) -> list[Case]:
    """The cases of a split, test by test and in the order of its records.

    Args:
        rows: all records of the split; their pictures are not read.
        claims: of each, the texts that are true of it.
        where: what errors call the suite.

    Raises:
        ParamsError: a case written by hand is of a record that the split does not have.
    """
    all_claims = [Claim(place, text) for place, own in enumerate(claims) for text in own]
    if not all_claims:
        return []
    common = frozenset(word.lower() for word in suite.common)
    found: dict[str, list[Case]] = {}
    counts = {word.lower() for rule in suite.tests.values() for word in rule.numbers or ()}
    known = {word for claim in all_claims for word in wording.words_in(claim.text, counts)}
    for name, rule in suite.tests.items():
        if rule.cases is not None:
            found[name] = list(_own(name, rule, rows, where)) if rule.dataset == dataset else []
        elif rule.another is None:
            some = (
                _chosen(name, rule, rows[c.place], c, _options(rule, c.text, known, common))
                for c in all_claims
            )
            found[name] = evenly([case for case in some if case], most)
    tested = dict.fromkeys(Claim(c.place, c.caption) for own in found.values() for c in own)
    for name, rule in suite.tests.items():
        if rule.another:
            others = _Others(rows, claims, common)
            beside = sorted(tested, key=lambda claim: claim.place) or all_claims
            drawn = (others.draw(name, rule, claim) for claim in beside)
            found[name] = evenly([case for case in drawn if case], most)
    return [case for name in suite.tests for case in found[name]]


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` of ``items`` at even steps, in order."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _options(rule: Rule, text: str, known: set[str], common: frozenset[str]) -> Iterator[str]:
    """What a rule on words can make of a text."""
    if rule.swap is not None:
        yield from wording.swapped(text, rule.swap)
    if rule.alike is not None:
        yield from wording.reworded(text, rule.alike, common)
    if rule.numbers is not None:
        yield from wording.miscounted(text, rule.numbers, known)


def _chosen(
    name: str, rule: Rule, row: Record, claim: Claim, options: Iterable[str]
) -> Case | None:
    """A case with one of the changed texts; None if there is none."""
    text = claim.text
    some = [option for option in dict.fromkeys(options) if option.lower() != text.lower()]
    if not some:
        return None
    changed = random.Random(f"{name} {row.key} {text}").choice(some)
    return Case(name, rule.expects, claim.place, row.key, text, changed)


def _own(name: str, rule: Rule, rows: Sequence[Record], where: str) -> Iterator[Case]:
    places: Mapping[str, int] = {row.key: place for place, row in enumerate(rows)}
    for case in rule.cases or ():
        if case.key not in places:
            raise ParamsError(
                f"{where}: tests.{name}.cases: {rule.dataset} has no record {case.key!r} in the "
                f"split that is tested, {rows[0].split}; take a key of that split"
            )
        yield Case(name, rule.expects, places[case.key], case.key, case.caption, case.changed)


class _Others:
    """Captions of other pictures."""

    def __init__(
        self, rows: Sequence[Record], claims: Sequence[Sequence[str]], common: frozenset[str]
    ) -> None:
        self._rows, self._common = rows, common
        self._about: dict[int, set[str]] = {}
        for row, own in zip(rows, claims, strict=True):
            about = self._about.setdefault(row.image_id, set())
            things = [thing.get("name", "") for thing in row.meta.get("objects") or ()]
            for text in (*row.captions, *own, *things):
                about |= wording.topics(text, common)
        self._all = [Claim(place, text) for place, own in enumerate(claims) for text in own]

    def draw(self, name: str, rule: Rule, claim: Claim) -> Case | None:
        """A caption about nothing that the picture is known to show; None if none is found."""
        row = self._rows[claim.place]
        generator = random.Random(f"{name} {row.key} {claim.text}")
        for _ in range(_DRAWS):
            other = generator.choice(self._all)
            about = wording.topics(other.text, self._common)
            if about and not about & self._about[row.image_id]:
                return Case(name, rule.expects, claim.place, row.key, claim.text, other.text)
        return None
