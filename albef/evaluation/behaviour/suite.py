"""Behavior tests as data: a JSON file of rules on words."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from albef.config import ParamsError, Section, validate

Expectation = Literal["changed", "same", "accepted", "refused", "lower", "lowest"]
"""Expectation of the changed text: ``changed`` is another decision than for the true text, ``same``
the same decision. ``accepted`` and ``refused`` are that decision, independent of the true text's.
``lower`` is a lower score, ``lowest`` the lowest score of all texts of the image.
"""
OVERALL, ACCEPTED = "overall", "accepted"
"""Names of metrics in addition to the tests'; no test may have these names."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class BehaviourConfig(Section):
    """Values of the behavior tests."""

    tests: str
    """JSON file of the tests."""
    cases: Annotated[int, Field(ge=0)] = 1000
    """Maximum number of cases of each test, taken at even steps; 0 disables the tests."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which the model accepts a text as true of an image."""


Phrase = Annotated[str, Field(min_length=1)]


class Rule(Section):
    """A test: its expectation, and one way to make its cases."""

    expects: Expectation
    """Expectation of the changed text."""
    swap: Annotated[tuple[tuple[Phrase, Phrase], ...], Field(min_length=1)] | None = None
    """Pairs of phrases that are exchanged, all at once."""
    alike: tuple[Annotated[tuple[Phrase, ...], Field(min_length=2)], ...] | None = None
    """Groups of phrases with the same meaning; one replaces another. A phrase with {a} and {b} is
    the wording of a whole caption."""
    parts: tuple[Phrase, ...] | None = None
    """Wordings of whole captions with {a} and {b}. The text becomes one of these parts, or with
    ``numbers`` such a part with a wrong count."""
    numbers: Annotated[tuple[Phrase, ...], Field(min_length=2)] | None = None
    """Words for counts in ascending order; one becomes the next that the dataset has."""
    another: Literal[True] | None = None
    """If true, use a caption of another image that shares only common words with this one's."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = ("swap", "alike", "parts", "numbers", "another")
        chosen = [way for way in ways if getattr(self, way) is not None]
        if len(chosen) != 1 and chosen != ["parts", "numbers"]:
            raise ValueError(f"set one of {', '.join(ways)}, not {' and '.join(chosen) or 'none'}")
        swapped = [phrase.lower() for pair in self.swap or () for phrase in pair]
        if repeated := [phrase for phrase in swapped if swapped.count(phrase) > 1]:
            raise ValueError(f"swap has {repeated[0]!r} in two pairs; a phrase may be in one")
        for group in (*(self.alike or ()), *((phrase,) for phrase in self.parts or ())):
            placeholders = [sorted(re.findall(r"\{(\w)\}", phrase)) for phrase in group]
            if any(re.search(r"[{}]", re.sub(r"\{\w\}", "", phrase)) for phrase in group):
                raise ValueError(f"placeholders must be like {{a}}: {' and '.join(group)}")
            first = placeholders[0]
            if any(found != first or len(set(found)) < len(found) for found in placeholders):
                raise ValueError(f"wordings have different placeholders: {' and '.join(group)}")
        return self


class Suite(Section):
    """All tests of a file."""

    source: str
    """Origin of the words in the tests."""
    language: str | None = None
    """Language of the words, as ``de``. Records with another ``language`` in their meta are left
    out."""
    common: tuple[Phrase, ...]
    """Words that unrelated captions share."""
    tests: Annotated[dict[str, Rule], Field(min_length=1)]
    """Tests by name."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.tests:
            if not _NAME.fullmatch(name) or name in (OVERALL, ACCEPTED):
                raise ValueError(
                    f"{name!r} is not a name of a test: use lower-case letters, digits and _, and "
                    f"not {OVERALL} or {ACCEPTED}"
                )
        return self


def read_suite(path: Path) -> Suite:
    """Return the tests in a file.

    Raises:
        ParamsError: the file is missing or invalid.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(f"cannot read behavior tests {path}: {error.strerror}") from None
    except ValueError as error:  # includes bad UTF-8
        raise ParamsError(f"behavior tests {path} are not JSON: {error}") from None
    return validate(Suite, values, where=str(path))
