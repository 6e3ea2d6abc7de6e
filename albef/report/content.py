"""What the page shows, as plain values: no file layout, no HTML.

Everything may be missing, since a report can be made at any time: an empty tuple, None or ""
then stands for it and the page says so. Texts are shown as they are and are not trusted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    """

    key: str
    uri: str
    captions: tuple[str, ...] = ()
    badges: tuple[str, ...] = ()


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
        metrics, chance, random_weights: values by name, as the kind's score gives them.
        outcomes: who is right first, by group; empty for a kind that does not rank.
        galleries: examples.
        places: examples of grounding.
        examples: of another kind that does not rank.
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


@dataclass(frozen=True)
class Training:
    """The curves of a training.

    Attributes:
        name: of the model that came of it.
        curves: (step, value) points by name, as ``train/loss``, ``lr``, ``val/r_mean``.
    """

    name: str
    curves: Mapping[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True)
class Validation:
    """The verdict on a data set.

    Attributes:
        passed: whether every expectation was met.
        current: whether the data that were checked are the ones described here.
        checks: (what is expected, found, met).
        statistics: numbers about the data set, in words.
        page: where the whole report lies.
    """

    passed: bool
    current: bool
    checks: tuple[tuple[str, str, bool], ...]
    statistics: tuple[tuple[str, str], ...]
    page: str


@dataclass(frozen=True)
class Samples:
    """Some pictures of a split."""

    split: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Licence:
    """Whose work is shown, and under what terms."""

    what: str
    licence: str
    attribution: str
    url: str


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        name, digest: of it.
        splits: records by split.
        captions: in all.
        sources: what it was made from: name and values of each.
        licences: of everything in it.
        samples: some pictures of each split.
        used_by: trainings and runs that read it.
        validation: None before it was validated.
        notes: what is missing, in words.
    """

    name: str
    digest: str = ""
    splits: Mapping[str, int] = field(default_factory=dict)
    captions: int = 0
    sources: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    licences: tuple[Licence, ...] = ()
    samples: tuple[Samples, ...] = ()
    used_by: tuple[str, ...] = ()
    validation: Validation | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """A trial of a search; its value is None where it was stopped early or failed of ``error``."""

    number: int
    state: str
    params: Mapping[str, float]
    values: tuple[float, ...]
    value: float | None
    start: bool
    chosen: bool
    error: str = ""


@dataclass(frozen=True)
class Search:
    """The search of a run.

    Attributes:
        run: its name.
        scales: whether each searched value is drawn on a logarithmic scale.
        choice: the values handed to fine-tuning.
        trials: in order; empty where nothing was to be searched.
        note: what is missing, in words.
        evidence: what the choice rests on, as the search wrote it.
    """

    run: str
    scales: Mapping[str, bool] = field(default_factory=dict)
    choice: Mapping[str, float] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    note: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a stage took, from its run record; ``record`` is None where there is none."""

    stage: str
    record: Mapping[str, Any] | None


@dataclass(frozen=True)
class Model:
    """A checkpoint and where it comes from.

    Attributes:
        name: of its folder.
        kind: what was trained.
        values: of the training, by dotted name.
        sizes: of the model, by dotted name.
        provenance: facts, each with "" or what a comparison with the files at hand says.
        note: what is missing, in words.
    """

    name: str
    kind: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    provenance: tuple[tuple[str, str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Export:
    """The folder of a run that goes to production.

    Attributes:
        run: its name.
        facts: what its manifest says, by dotted name.
        primary: the metric that may not drop.
        scores: metrics on the test split: of torch, and of each precision in use.
        bytes: size of the graphs of each precision.
    """

    run: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    primary: str = ""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    bytes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        seed: of everything random.
        runs, trainings, datasets, searches, costs, models, exports: as far as they exist.
        values: of params.yaml that no model or data set tells, by dotted name.
    """

    seed: int
    runs: tuple[Run, ...] = ()
    trainings: tuple[Training, ...] = ()
    datasets: tuple[Dataset, ...] = ()
    searches: tuple[Search, ...] = ()
    costs: tuple[Cost, ...] = ()
    models: tuple[Model, ...] = ()
    exports: tuple[Export, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
