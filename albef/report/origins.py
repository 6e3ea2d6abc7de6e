"""Where models come from, as plain values: data sets, checkpoints, exports, what they took.

As far as it is known; an empty tuple, None or "" stands for what is missing. Texts are shown as
they are and are not trusted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from albef.report.results import Picture
from albef.validation.content import Drifted


@dataclass(frozen=True)
class Validation:
    """The verdict on a data set.

    Attributes:
        passed: whether every expectation was met.
        current: whether the data that were checked are the ones described here.
        checks: (what is expected, found, met).
        statistics: numbers about the data set, in words.
        page: where the whole report lies.
        drifted: how far each distribution is from the accepted profile, and those of the training
            split from those of the evaluation splits.
    """

    passed: bool
    current: bool
    checks: tuple[tuple[str, str, bool], ...]
    statistics: tuple[tuple[str, str], ...]
    page: str
    drifted: tuple[Drifted, ...] = ()


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
class Cost:
    """What a stage took, from its run record; ``record`` is None where there is none."""

    stage: str
    record: Mapping[str, Any] | None


@dataclass(frozen=True)
class Model:
    """A checkpoint.

    Attributes:
        name: of its folder.
        kind: what was trained.
        values: of the training, by dotted name.
        sizes: of the model, by dotted name.
        note: what is missing, in words.
    """

    name: str
    kind: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
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
