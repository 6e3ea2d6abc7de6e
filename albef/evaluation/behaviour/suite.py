"""The tests as data: a JSON file of rules on words, or of whole cases."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from albef.config import ParamsError, Section, validate

Expectation = Literal["changed", "same", "lower", "lowest"]
"""Of the changed text: another decision than of the true one, the same, a lower score, or the
lowest of all texts of the picture."""
OVERALL, ACCEPTED = "overall", "accepted"
"""Metrics beside those of the tests, so no test has these names."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class BehaviourConfig(Section):
    """Values of the behaviour tests."""

    tests: str
    """JSON file of the tests; the stage depends on it."""
    cases: Annotated[int, Field(ge=0)] = 1000
    """Cases of each test that a rule makes, at most, taken at even steps; 0 tests nothing."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which a text is said to be true of a picture."""


class OwnCase(Section):
    """A case written by hand."""

    key: Annotated[str, Field(min_length=1)]
    """Of the record whose picture is shown."""
    caption: Annotated[str, Field(min_length=1)]
    """What is true of it."""
    changed: Annotated[str, Field(min_length=1)]
    """What is put in its place."""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.changed == self.caption:
            raise ValueError(f"the case of {self.key} changes nothing")
        return self


Phrase = Annotated[str, Field(min_length=1)]


class Rule(Section):
    """A test: what is expected, and one way to come by its cases."""

    expects: Expectation
    """Of the changed text."""
    swap: Annotated[tuple[tuple[Phrase, Phrase], ...], Field(min_length=1)] | None = None
    """Phrases that take each other's place, all at once."""
    alike: tuple[Annotated[tuple[Phrase, ...], Field(min_length=2)], ...] | None = None
    """Groups of phrases that mean the same; one takes the place of another. One with {a} and {b} is
    the wording of a whole caption."""
    numbers: Annotated[tuple[Phrase, ...], Field(min_length=2)] | None = None
    """Words for counts in their order; one becomes the next that the data set has."""
    another: Literal[True] | None = None
    """A caption of another picture, which has no word of this one's but common ones."""
    cases: Annotated[tuple[OwnCase, ...], Field(min_length=1)] | None = None
    """Cases written by hand, of records of one data set."""
    dataset: str | None = None
    """Data set of these cases; runs on another leave them out."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = ("swap", "alike", "numbers", "another", "cases")
        chosen = [way for way in ways if getattr(self, way) is not None]
        if len(chosen) != 1:
            raise ValueError(f"give one of {', '.join(ways)}, not {' and '.join(chosen) or 'none'}")
        if (self.cases is None) != (self.dataset is None):
            raise ValueError("cases need the dataset that they are of, and nothing else does")
        swapped = [phrase.lower() for pair in self.swap or () for phrase in pair]
        if repeated := [phrase for phrase in swapped if swapped.count(phrase) > 1]:
            raise ValueError(f"{repeated[0]!r} is swapped with two phrases")
        for group in self.alike or ():
            holes = [sorted(re.findall(r"\{(\w)\}", phrase)) for phrase in group]
            if any(re.search(r"[{}]", re.sub(r"\{\w\}", "", phrase)) for phrase in group):
                raise ValueError(f"in {' and '.join(group)} an open place is a letter in braces")
            if any(letters != holes[0] or len(set(letters)) < len(letters) for letters in holes):
                raise ValueError(
                    f"the wordings {' and '.join(group)} differ in what they leave open"
                )
        return self


class Suite(Section):
    """All tests of a file."""

    source: str
    """Where its words are from."""
    common: tuple[Phrase, ...]
    """Words that captions share which have nothing to do with each other."""
    tests: Annotated[dict[str, Rule], Field(min_length=1)]
    """By name."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.tests:
            if not _NAME.fullmatch(name) or name in (OVERALL, ACCEPTED):
                raise ValueError(
                    f"a test cannot be called {name!r}: a name is of small letters, digits and _, "
                    f"and neither {OVERALL} nor {ACCEPTED}"
                )
        return self


def load(path: Path) -> Suite:
    """The tests in a file.

    Raises:
        ParamsError: there is none, or it is not as it should be.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(f"the behaviour tests {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # bad UTF-8 too
        raise ParamsError(f"the behaviour tests {path} are no JSON: {error}") from None
    return validate(Suite, values, where=str(path))
