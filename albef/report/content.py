"""What the page shows, as plain values: no file layout, no HTML.

Everything may be missing, since a report can be made at any time: an empty tuple, None or ""
then stands for it and the page says so. Texts are shown as they are and are not trusted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from albef.lineage import Step
from albef.report.origins import Cost, Dataset, Export, Model
from albef.report.results import Run


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


NOTHING = "No value of this run is a range, so there was nothing to search."
"""Note of a search that had nothing to do."""


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
class Report:
    """Everything on the page.

    Attributes:
        seed: of everything random.
        runs, trainings, datasets, searches, costs, models, exports: as far as they exist.
        chains: of each export, or checkpoint that is not exported, back to the sources.
        cards: runs that have a model card, ``cards/RUN.md`` beside the page.
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
    chains: tuple[Step, ...] = ()
    cards: tuple[str, ...] = ()
