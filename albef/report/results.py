"""What runs reached and what they answered, as plain values.

As far as it is known; an empty tuple, None or "" stands for what is missing. Texts are shown as
they are and are not trusted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from albef.report.behaviour import Behaviour


@dataclass(frozen=True)
class Picture:
    """A picture of a data set.

    Attributes:
        key: of its record.
        uri: the picture as a ``data:`` address; "" where it cannot be shown.
        captions: what is said of it.
        badges: what else is worth a word, as "caption wrong on purpose".
        originals: the captions as they came, where cleaning changed any.
    """

    key: str
    uri: str
    captions: tuple[str, ...] = ()
    badges: tuple[str, ...] = ()
    originals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A ranked candidate of a query: a picture or a text.

    Attributes:
        place: from 1.
        right: whether it is a right answer.
        picture: the candidate, or None where it is a text.
        text: the candidate, or "" where it is a picture.
        by_itc: whether ITC alone puts it first.
    """

    place: int
    right: bool
    picture: Picture | None = None
    text: str = ""
    by_itc: bool = False


@dataclass(frozen=True)
class Query:
    """A question to the model and its answers.

    Attributes:
        text: asked with, or "" where it is a picture.
        picture: asked with, or None where it is a text.
        rank: of the best right answer, from 0, after ITM.
        rank_itc: the same by ITC alone.
        answers: the first ones, and the right one where it comes later.
        label: what kind of question it is, as the change of a pair.
    """

    text: str
    picture: Picture | None
    rank: int
    rank_itc: int
    answers: tuple[Answer, ...]
    label: str = ""


@dataclass(frozen=True)
class Gallery:
    """Queries that belong together.

    Attributes:
        title: of the group.
        note: how they were chosen and out of how many.
        good: whether the model is right in them.
        paired: whether the answers are the two of a pair.
        queries: the examples.
    """

    title: str
    note: str
    good: bool
    paired: bool
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Example:
    """A prediction of a kind that does not rank: a picture and its row of the table."""

    picture: Picture | None
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answered:
    """A question or statement and what the model says.

    Attributes:
        pictures: that it is about.
        asked: the question or statement; "" where there is none.
        given, truth: the model's answer and the right one.
        sure: probability of the answer given, from 0 to 1; None where it is not known.
    """

    pictures: tuple[Picture, ...]
    asked: str
    given: str
    truth: str
    sure: float | None


@dataclass(frozen=True)
class Answers:
    """Answers that belong together.

    Attributes:
        good: whether they are right.
        note: how they were chosen and out of how many.
        shown: the examples.
    """

    good: bool
    note: str
    shown: tuple[Answered, ...]


@dataclass(frozen=True)
class Place:
    """An expression and where it was found.

    Attributes:
        picture: under the heat map, with the boxes drawn into it.
        expression: what was looked for.
        right: whether the chosen box is the one that is meant.
        note: how far the boxes agree with it.
    """

    picture: Picture
    expression: str
    right: bool
    note: str


@dataclass(frozen=True)
class Outcome:
    """Queries of one group by who puts the right answer first.

    Attributes:
        label: of the group.
        both, itm, itc, neither: counts: ITM and ITC, ITM alone, ITC alone, none of them.
    """

    label: str
    both: int
    itm: int
    itc: int
    neither: int

    @property
    def total(self) -> int:
        """All queries of the group."""
        return self.both + self.itm + self.itc + self.neither


@dataclass(frozen=True)
class SplitResult:
    """What a run reached on one split.

    Attributes:
        name: of the split.
        records: in the split; 0 where that is not known.
        headline: the metric that it is judged by, or "".
        metrics, chance, random_weights: values by name, as the kind's score gives them.
        outcomes: who is right first, by group; empty for a kind that does not rank.
        galleries: examples.
        places: examples of grounding.
        answers: examples of a kind that answers.
        examples: of any other kind.
        text_only: of a model that reads only the text; empty for a kind without answers.
    """

    name: str
    records: int
    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    random_weights: Mapping[str, float]
    outcomes: tuple[Outcome, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    places: tuple[Place, ...] = ()
    examples: tuple[Example, ...] = ()
    text_only: Mapping[str, float] = field(default_factory=dict)
    answers: tuple[Answers, ...] = ()
    headline: str = ""


@dataclass(frozen=True)
class Run:
    """An entry of ``tasks``.

    Attributes:
        name: its key.
        kind, dataset, init: its values.
        splits: results; empty before it was evaluated.
        notes: what is missing, in words.
        behaviour: its behaviour tests; None of a kind or data set without.
    """

    name: str
    kind: str
    dataset: str
    init: str
    splits: tuple[SplitResult, ...] = ()
    notes: tuple[str, ...] = ()
    behaviour: "Behaviour | None" = None
