"""What stands on a model card, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from albef.runtime.manifest import Answering

BASELINES = ("chance", "random_weights", "text_only")
"""Sections of a metrics file that stand beside those of the splits."""


@dataclass(frozen=True)
class Reads:
    """What a model reads and answers.

    Attributes:
        image_size: side of the square picture in pixels.
        max_tokens: of a text, [CLS] included.
        max_words: of a text; 0 where that is not known.
        surface: what it can be asked, of an export.
        classes: names of them, of kinds that have some.
        answering: of VQA.
    """

    image_size: int
    max_tokens: int
    max_words: int = 0
    surface: str = ""
    classes: tuple[str, ...] = ()
    answering: Answering | None = None


class Measured(Protocol):
    """What a precision of an export was measured at."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Of the split, by name."""

    @property
    def behaviour(self) -> Mapping[str, float]:
        """Percent of cases that pass, by behaviour test."""


@dataclass(frozen=True)
class Evaluation:
    """What the figures were measured on.

    Attributes:
        dataset, split, records, digest: of the test data.
        whole: whether these are all records of the split.
        primary: name of the metric that counts.
        new: figures by precision of its export; empty where it is not exported.
        torch: recorded metrics of the same model in torch.
        chance: what guessing would score on the same records.
        machine: where it was timed; "" where it was not.
    """

    dataset: str
    split: str
    records: int
    digest: str
    whole: bool
    primary: str
    new: Mapping[str, Measured]
    torch: Mapping[str, float]
    chance: Mapping[str, float]
    machine: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set that the model learned from or was judged on.

    Attributes:
        name: of it.
        role: what it was used for.
        described: its dataset.json, if that is at hand.
        trained: whether a model learned from it.
        shared: keys of the test records with a picture of its training split; None where that is
            not known.
    """

    name: str
    role: str
    described: Mapping[str, Any] | None = None
    trained: bool = False
    shared: Sequence[str] | None = None


@dataclass(frozen=True)
class Compared:
    """A release beside the one before.

    Attributes:
        note: a sentence on what it was compared with.
        rows: what the gate judged, as (what, precision, released, this, change, allowed).
    """

    note: str
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Card:
    """Everything on a card.

    Attributes:
        run, kind: of the model.
        does: what a model of the kind does, after "It"; "" where that is not at hand.
        hub: the Hugging Face Hub's name of its task, or "".
        reads: what it reads.
        precisions: of its export; empty where it is not exported.
        evaluation: the figures of the split that counts.
        metrics: what the run's evaluation in torch wrote, baselines included.
        datasets: of training and test.
        provenance: facts by name.
        version: it is released as; "" where it is not.
        compared: beside the released one.
        further: other metrics of the run: by what they test, by version, by name.
    """

    run: str
    kind: str
    does: str
    hub: str
    reads: Reads
    precisions: tuple[str, ...]
    evaluation: Evaluation
    metrics: Mapping[str, Any]
    datasets: Sequence[Dataset]
    provenance: Mapping[str, object]
    version: str = ""
    compared: Compared | None = None
    further: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
