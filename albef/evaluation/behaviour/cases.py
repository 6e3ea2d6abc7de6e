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


Claim = tuple[int, str]
"""The index of a record, and a text that is true of its image."""


def make_cases(
    suite: Suite, rows: Sequence[Record], claims: Sequence[Sequence[str]], limit: int
) -> list[Case]:
    """Return the cases of a split, test by test and in the order of its records.

    ``rows`` are all records of the split; their images are not read. ``claims`` are the texts that
    are true of each. A test has at most ``limit`` cases.
    """
    all_claims = [(index, text) for index, texts in enumerate(claims) for text in texts]
    if not all_claims:
        return []
    common = frozenset(word.lower() for word in suite.common)
    counts = {word.lower() for rule in suite.tests.values() for word in rule.numbers or ()}
    counts_used = {word for _, text in all_claims for word in wording.words_in(text, counts)}
    topics = _topics(rows, claims, common)

    def case(name: str, claim: Claim) -> Case | None:
        index, text = claim
        rule, row = suite.tests[name], rows[index]
        generator = random.Random(f"{name} {row.key} {text}")
        if rule.another:
            changed = _unrelated(all_claims, topics[row.image_id], common, generator)
        else:
            options = dict.fromkeys(_options(rule, text, counts_used, common))
            changes = [option for option in options if option.lower() != text.lower()]
            changed = generator.choice(changes) if changes else None
        if changed is None:
            return None
        return Case(name, rule.expects, index, row.key, text, changed)

    def cases_of(name: str, of: Iterable[Claim]) -> list[Case]:
        return evenly([found for claim in of if (found := case(name, claim))], limit)

    cases = {n: cases_of(n, all_claims) for n, rule in suite.tests.items() if not rule.another}
    tested = dict.fromkeys((c.index, c.caption) for of in cases.values() for c in of)
    targets = sorted(tested, key=lambda claim: claim[0]) or all_claims
    cases |= {n: cases_of(n, targets) for n, rule in suite.tests.items() if rule.another}
    return [one for name in suite.tests for one in cases[name]]


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


def _topics(
    rows: Sequence[Record], claims: Sequence[Sequence[str]], common: frozenset[str]
) -> dict[int, set[str]]:
    """Return the topics of each image, by its id, from its texts and objects."""
    topics: dict[int, set[str]] = {}
    for row, texts in zip(rows, claims, strict=True):
        objects = [entry.get("name", "") for entry in row.meta.get("objects") or ()]
        for text in (*row.captions, *texts, *objects):
            topics.setdefault(row.image_id, set()).update(wording.topics(text, common))
    return topics


def _unrelated(
    claims: Sequence[Claim], shown: set[str], common: frozenset[str], generator: random.Random
) -> str | None:
    """Draw a text with other topics than an image's; return None if none is found."""
    for _ in range(_DRAWS):
        _, text = generator.choice(claims)
        topics = wording.topics(text, common)
        if topics and not topics & shown:
            return text
    return None
