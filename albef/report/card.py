"""The model card of a run: Markdown with the front matter that the Hugging Face Hub reads.

The card of a release has newly measured figures and a comparison with the previous release.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from albef.data.shards import ShardError, describe, shared_keys
from albef.io import file_digest, read_json
from albef.layout import BASELINES, BEHAVIOUR, HEADLINE, Layout
from albef.report import scores
from albef.report.metric_names import order, split_order
from albef.report.page import environment
from albef.runtime import manifest


class Measured(NamedTuple):
    """Metrics of one precision, and in a release the results of its behavior tests."""

    metrics: Mapping[str, float]
    behaviour: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of an export, of the same model in torch, and of chance.

    ``new`` has :class:`Measured` by precision; it is empty without an export. ``machine`` is empty
    if the export was not timed. ``whole`` is true if all records of the split were used.
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
        """Return the metrics of the default precision, or of torch without an export."""
        return next((measured.metrics for measured in self.new.values()), self.torch)

    @property
    def is_guessing(self) -> bool:
        """Return whether the model does not beat chance."""
        value, chance = self.metrics.get(self.primary), self.chance.get(self.primary)
        return value is not None and chance is not None and value <= chance


@dataclass(frozen=True)
class Dataset:
    """A dataset that the model was trained or tested on, and its role."""

    name: str
    role: str
    described: Mapping[str, Any] | None = None
    """Its dataset.json, if that is available."""
    trained: bool = False
    """True if a model was trained on it."""
    shared: Sequence[str] | None = None
    """Keys of the test records that share an image with its training split; None if unknown."""


@dataclass(frozen=True)
class Card:
    """Content of a card. What is unknown, or an export or release that is missing, is empty.

    ``does`` continues "It", such as "answers questions". ``hub`` is the Hugging Face Hub's name of
    the task. ``reads`` has facts of :class:`albef.runtime.manifest.Facts`, for a checkpoint those
    in its values. ``evaluation`` is of the main split. ``metrics`` is the run's metrics file.
    ``calibration`` is that of :func:`albef.export.calibration.describe`.
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
    note: str = ""
    """Note on the comparison of a release with the previous one."""
    rows: Sequence[Sequence[str]] = ()
    """The gate's judgements as (what, precision, released, this, change, allowed)."""
    calibration: Mapping[str, Any] = field(default_factory=dict)


def read(params: Mapping[str, Any], layout: Layout, run: str) -> Card | None:
    """Return the card of a run; None if it is not evaluated or its checkpoint is missing."""
    metrics = read_json(layout.metrics(run))
    config = read_json(layout.model(run) / "config.json")
    if metrics is None or config is None:
        return None
    predictions, about = layout.predictions(run), {}
    if predictions.is_file():
        about = scores.kind_metadata(pq.read_schema(predictions))
    reads, provenance = dict(config.get("values", {})), {}
    if "answering" in reads:
        reads["answering"] = {"by": reads["answering"]}  # the same form as in a manifest
    precisions: tuple[str, ...] = ()
    try:
        export = manifest.read(layout.export(run))
    except manifest.ExportError:  # without an export of this version, describe the checkpoint
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
    export = params.get("export", {}).get("runs", {}).get(run) or {}
    measured = read_json(layout.export_metrics(run)) or {}
    splits = [name for name in metrics.get("chance", {}) if name != BEHAVIOUR]
    first = min(splits, key=lambda name: split_order(name, params), default="test")
    split = str(export.get("split", "test") if export else first)
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
    """Return the single facts in the provenance of a checkpoint, by name."""
    return {f"checkpoint: {n}": v for n, v in provenance.items() if not isinstance(v, Mapping)}


def read_datasets(
    params: Mapping[str, Any], layout: Layout, run: str, test: tuple[str, str]
) -> Iterator[Dataset]:
    """Yield the datasets that a run and its ancestors were trained on, and the test dataset.

    ``test`` is the dataset and split of the test.
    """
    tasks, name, roles = params["tasks"], run, dict[str, list[str]]()
    while name in tasks:
        if tasks[name].get("epochs"):
            roles.setdefault(tasks[name]["dataset"], []).append(f"training of {name}")
        name = tasks[name]["init"].partition("/epochs/")[0]
    if name == "pretrained":
        roles.setdefault(params["pretrain"]["dataset"], []).append("pre-training")
    elif name not in tasks:
        role = "imported; its training data are unknown"
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
            uses.append("missing locally when this card was written")
        yield Dataset(dataset, ", ".join(uses), described, dataset in training_sets, shared)


def render(card: Card) -> str:
    """Return the card as Markdown; equal contents give equal bytes."""
    template = environment().get_template("card.md.j2")
    text = template.render(
        card=card,
        evaluation=card.evaluation,
        tables=list(_tables(card)),
        json=json.dumps,
        table=_table,
        shared={data.name: data.shared for data in card.datasets if data.shared is not None},
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _tables(card: Card) -> Iterator[tuple[str, str]]:
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
            f"The expected calibration error of {calibration['answers']} answers is "
            f"{calibration['ece']:.2f} percentage points; {calibration['ece_before']:.2f} without "
            f"the temperature {calibration['temperature']:.4g}, which was fitted on validation "
            "data. Percent of questions that are answered at a minimum probability "
            "(`min_probability`), and percent of these answers that are correct:"
        )
        header = ("minimum probability", "answered", "correct")
        keys = ("min_probability", "answered", "accuracy")
        rows = ([row[key] for key in keys] for row in calibration["coverage"])
        yield intro, _table([header, *rows])
    for split, values in metrics.items():
        covered = (evaluation.split, BEHAVIOUR, HEADLINE, *BASELINES)
        if split not in covered and isinstance(values, Mapping):
            columns = {"torch": values} | _baselines(metrics, split)
            zero_shot = any(name.startswith("zero_shot_") for name in values)
            note = ", zero-shot classification by class names" if zero_shot else ""
            table = _tabulate("metric", columns, sorted(values, key=order))
            yield f"Split `{split}`{note}, in torch:", table
    if tests := metrics.get(BEHAVIOUR):
        measured = {name: item.behaviour for name, item in evaluation.new.items() if item.behaviour}
        columns = {"torch": tests, **measured, **_baselines(metrics, BEHAVIOUR)}
        intro = (
            "## Behavior tests\n\nA true text of an image is changed, and the model judges both "
            "(`docs/how-to/test-behavior.md`). Percent of the cases that pass:"
        )
        yield intro, _tabulate("test", columns, sorted(tests, key=order))


def _baselines(metrics: Mapping[str, Any], section: str) -> dict[str, Mapping[str, float]]:
    return {
        name.replace("_", " "): metrics.get(name, {}).get(section, {}) for name in BASELINES[:2]
    }


def _tabulate(header: str, columns: Mapping[str, Mapping[str, float]], names: Iterable[str]) -> str:
    cells = ((f"`{name}`", *(column.get(name) for column in columns.values())) for name in names)
    return _table([(header, *columns), *cells])


def _table(rows: Iterable[Sequence[object]]) -> str:
    header, *others = rows
    lines = (
        [f"{cell:.4g}" if isinstance(cell, int | float) else str(cell or "") for cell in row]
        for row in (header, ["---"] * len(header), *others)
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
