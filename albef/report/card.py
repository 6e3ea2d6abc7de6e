"""The model card of a run: what a model is for, how good, of which data, and where it ends.

Markdown with the front matter that the Hugging Face Hub reads. The card of a run is made of its
products alone; that of a release is the same with figures measured anew and the comparison.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from albef.data.shards import ShardError, describe, shared_keys
from albef.io import file_digest, read_json
from albef.layout import BASELINES, BEHAVIOUR, HEADLINE, Layout
from albef.report import scores
from albef.report.metric_names import order
from albef.report.page import environment
from albef.runtime import manifest


class Measured(NamedTuple):
    """Metrics of a precision; a release has them with the behaviour tests, measured anew."""

    metrics: Mapping[str, float]
    behaviour: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What the figures were measured on, and those of the same model in torch and of guessing.

    ``new`` has :class:`Measured` by precision of its export; it is empty where it is not exported,
    and ``machine`` where it was not timed. ``whole``: whether these are all records of the split.
    """

    dataset: str
    split: str
    records: int
    digest: str
    whole: bool
    primary: str
    new: Mapping[str, Any]
    torch: Mapping[str, float]
    chance: Mapping[str, float]
    machine: str = ""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Of the precision that is loaded, or of torch."""
        return next((measured.metrics for measured in self.new.values()), self.torch)

    @property
    def is_guessing(self) -> bool:
        """Whether the model is no better than chance."""
        value, chance = self.metrics.get(self.primary), self.chance.get(self.primary)
        return value is not None and chance is not None and value <= chance


@dataclass(frozen=True)
class Dataset:
    """A data set that the model learned from or was judged on, and what it was used for."""

    name: str
    role: str
    described: Mapping[str, Any] | None = None
    """Its dataset.json, if that is at hand."""
    trained: bool = False
    """Whether a model learned from it."""
    shared: Sequence[str] | None = None
    """Keys of the test records with a picture of its training split; None is not known."""


class Compared(NamedTuple):
    """A release beside the one before: a sentence, and what the gate judged, as (what, precision,
    released, this, change, allowed)."""

    note: str
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Card:
    """Everything on a card.

    Attributes:
        does: what a model of the kind does, after "It"; "" where that is not at hand.
        hub: the Hugging Face Hub's name of its task, or "".
        reads: what has to be known to use it, as :class:`albef.runtime.manifest.Facts` has it; of
            a checkpoint ``image_size`` and ``max_tokens``.
        precisions: of its export; empty where it is not exported.
        evaluation: the figures of the split that counts.
        metrics: what the run's evaluation in torch wrote, baselines included.
        datasets: of training and test.
        provenance: facts by name.
        version: it is released as; "" where it is not.
        compared: beside the released one.
        calibration: how far its probabilities hold (:func:`albef.export.calibration.describe`);
            empty where it has none, or is not exported.
    """

    run: str
    kind: str
    does: str
    hub: str
    reads: Mapping[str, Any]
    precisions: tuple[str, ...]
    evaluation: Evaluation
    metrics: Mapping[str, Any]
    datasets: Sequence[Dataset]
    provenance: Mapping[str, object]
    version: str = ""
    compared: Compared | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)


def read(params: Mapping[str, Any], layout: Layout, run: str) -> Card | None:
    """The card of a run; None before it was evaluated or where its checkpoint is not here."""
    metrics = read_json(layout.metrics(run))
    config = read_json(layout.model(run) / "config.json")
    if metrics is None or config is None:
        return None
    predictions, about = layout.predictions(run), {}
    if predictions.is_file():
        about = scores.described(pq.read_schema(predictions))
    reads, provenance = dict(config.get("values", {})), {}
    if "answering" in reads:
        reads["answering"] = {"by": reads["answering"]}  # as in a manifest
    precisions: tuple[str, ...] = ()
    try:
        export = manifest.read(layout.export(run))
    except manifest.ExportError:  # none, or of another version: the checkpoint is described
        pass
    else:
        reads, precisions = export.model.model_dump(), export.precisions
        provenance = {
            "manifest, SHA-256": manifest.digest(layout.export(run)),
            "ONNX opset": export.onnx.opset,
        }
    weights = layout.model(run) / "model.safetensors"
    if weights.is_file():
        provenance["checkpoint, SHA-256"] = file_digest(weights)
    evaluation = _evaluation(params, layout, run, metrics, precisions)
    return Card(
        run=run,
        kind=str(config.get("kind", "")),
        does=about.get("does", ""),
        hub=about.get("hub", ""),
        reads=reads,
        precisions=precisions,
        evaluation=evaluation,
        metrics=metrics,
        calibration=(read_json(layout.export_metrics(run)) or {}).get("calibration", {}),
        datasets=list(read_datasets(params, layout, run, (evaluation.dataset, evaluation.split))),
        provenance=provenance | training_facts(config.get("provenance", {})),
    )


def _evaluation(
    params: Mapping[str, Any],
    layout: Layout,
    run: str,
    metrics: Mapping[str, Any],
    precisions: Sequence[str],
) -> Evaluation:
    """Figures of the split that the export was evaluated on, or of the one that counts."""
    export = params.get("export", {}).get("runs", {}).get(run) or {}
    measured = read_json(layout.export_metrics(run)) or {}
    splits = [name for name in metrics.get("chance", {}) if name != BEHAVIOUR]
    split = str(export.get("split") or ("test" if "test" in splits else next(iter(splits), "test")))
    dataset = str(export.get("dataset") or params["tasks"][run]["dataset"])
    described = read_json(layout.data(dataset) / "dataset.json") or {}
    total = int(described.get("splits", {}).get(split, 0))
    records = min(total, export.get("examples") or total) if measured else total
    headline = metrics.get(HEADLINE, {})
    torch = measured.get("torch") or metrics.get(split, {})
    return Evaluation(
        dataset=dataset,
        split=split,
        records=records,
        digest=str(described.get("digest", "")),
        whole=records == total,
        primary=next((m for m in (headline.get(split), *headline.values()) if m in torch), ""),
        new={name: Measured(measured[name], {}) for name in precisions if name in measured},
        torch=torch,
        chance=metrics.get("chance", {}).get(split, {}) if records == total else {},
    )


def training_facts(provenance: Mapping[str, Any]) -> dict[str, object]:
    """What a checkpoint tells of its origin, in single facts; ``albef lineage`` has the chain."""
    return {f"checkpoint: {n}": v for n, v in provenance.items() if not isinstance(v, Mapping)}


def read_datasets(
    params: Mapping[str, Any], layout: Layout, run: str, test: tuple[str, str]
) -> Iterator[Dataset]:
    """What a run, and those that it started from, learned from; and the data set and split of the
    ``test``."""
    tasks, name = params["tasks"], run
    roles: dict[str, list[str]] = {}
    while name in tasks:
        if tasks[name].get("epochs"):
            roles.setdefault(tasks[name]["dataset"], []).append(f"training of {name}")
        name = tasks[name]["init"].partition("/epochs/")[0]
    if name == "pretrained":
        roles.setdefault(params["pretrain"]["dataset"], []).append("pre-training")
    elif name not in tasks:
        role = "imported; what it learned from is not known here"
        yield Dataset(f"checkpoint {name}", role, trained=True)
    training_sets = set(roles)
    roles.setdefault(test[0], []).append("test")
    for dataset, uses in roles.items():
        described, shared = None, None
        try:
            described = describe(layout.data(dataset))
            if dataset in training_sets:
                shared = shared_keys(layout.data(test[0]), test[1], layout.data(dataset))
        except ShardError:
            uses.append("not at hand when this was written")
        yield Dataset(dataset, ", ".join(uses), described, dataset in training_sets, shared)


def render(card: Card) -> str:
    """The card as a page of Markdown; equal contents give equal bytes."""
    text = (
        environment()
        .get_template("card.md.j2")
        .render(
            card=card,
            evaluation=card.evaluation,
            tables=list(_tables(card)),
            json=json.dumps,
            table=_table,
            tabulate=lambda sides: _tabulate("", sides, dict.fromkeys(chain(*sides.values()))),
            shared={data.name: data.shared for data in card.datasets if data.shared is not None},
        )
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _tables(card: Card) -> Iterator[tuple[str, str]]:
    """Tables of the results, each under what introduces it."""
    evaluation, metrics = card.evaluation, card.metrics
    measured = {name: item.metrics for name, item in evaluation.new.items()}
    baselines = {
        name.replace("_", " "): metrics[name][evaluation.split]
        for name in BASELINES[1:]
        if evaluation.whole and evaluation.split in metrics.get(name, {})
    }
    columns = {"torch": evaluation.torch, **measured, "chance": evaluation.chance, **baselines}
    names = sorted(evaluation.metrics, key=lambda n: (n != evaluation.primary, order(n)))
    yield "", _tabulate("metric", columns, names)
    if calibration := card.calibration:
        intro = (
            f"A probability is off by {calibration['ece']:.2f} percentage points in the mean "
            f"(expected calibration error of {calibration['answers']} answers), "
            f"{calibration['ece_before']:.2f} before scores are divided by the temperature "
            f"{calibration['temperature']:g}, fitted on validation data. In "
            "percent, by the least probability asked for (`min_probability`), how many are "
            "answered, and how many of these are right:"
        )
        header = ("least probability", "answered", "right")
        keys = ("min_probability", "answered", "accuracy")
        rows = ([row[key] for key in keys] for row in calibration["coverage"])
        yield intro, _table([header, *rows])
    for split, values in metrics.items():
        covered = (evaluation.split, BEHAVIOUR, HEADLINE, *BASELINES)
        if split not in covered and isinstance(values, Mapping):
            columns = {"torch": values} | _baselines(metrics, split)
            zero_shot = any(name.startswith("zero_shot_") for name in values)
            note = ", into classes that are named in words alone (zero-shot)" if zero_shot else ""
            table = _tabulate("metric", columns, sorted(values, key=order))
            yield f"Split `{split}`{note}, in torch:", table
    if tests := metrics.get(BEHAVIOUR):
        measured = {name: item.behaviour for name, item in evaluation.new.items() if item.behaviour}
        columns = {"torch": tests, **measured, **_baselines(metrics, BEHAVIOUR)}
        intro = (
            "## Behaviour tests\n\nOf a text that is true of a picture some words are changed, and "
            "both are judged (`docs/how-to/test-behavior.md`). In percent of the cases, those "
            "that do as is expected:"
        )
        yield intro, _tabulate("test", columns, tests)


def _baselines(metrics: Mapping[str, Any], section: str) -> dict[str, Mapping[str, float]]:
    return {
        name.replace("_", " "): metrics.get(name, {}).get(section, {}) for name in BASELINES[:2]
    }


def _tabulate(header: str, columns: Mapping[str, Mapping[str, float]], names: Iterable[str]) -> str:
    """A table of named values, a column each."""
    cells = ((f"`{name}`", *(column.get(name) for column in columns.values())) for name in names)
    return _table([(header, *columns), *cells])


def _table(rows: Iterable[Sequence[object]]) -> str:
    header, *others = rows
    lines = (
        [f"{cell:.4g}" if isinstance(cell, int | float) else str(cell or "") for cell in row]
        for row in (header, ["---"] * len(header), *others)
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
