"""The model card of a run, from its products: of the report, and of a release."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from albef.data.overlap import shared
from albef.data.shards import ShardError, describe
from albef.io import file_digest
from albef.layout import BEHAVIOUR, HEADLINE, Layout
from albef.report.card_content import Card, Dataset, Evaluation, Reads
from albef.report.scores import described as describe_predictions
from albef.runtime import manifest
from pipelines.stage import read_json


class Measures(NamedTuple):
    """Recorded metrics of a precision, as far as a card shows them."""

    metrics: Mapping[str, float]
    behaviour: Mapping[str, float]


def read_card(params: Mapping[str, Any], layout: Layout, run: str) -> Card | None:
    """The card of a run; None before it was evaluated or where its checkpoint is not here."""
    metrics = read_json(layout.metrics(run))
    config = read_json(layout.model(run) / "config.json")
    if metrics is None or config is None:
        return None
    try:
        written = manifest.read(layout.export(run))
    except manifest.ExportError:  # none, or of another version: the checkpoint is described
        written = None
    values = config.get("values", {})
    predictions = layout.predictions(run)
    about = describe_predictions(pq.read_schema(predictions)) if predictions.is_file() else {}
    evaluation = _evaluation(params, layout, run, metrics)
    if written:
        facts = written.model
        reads = Reads(*(getattr(facts, name) for name in Reads.__dataclass_fields__))
    else:
        reads = Reads(values.get("image_size", 0), values.get("max_tokens", 0))
    return Card(
        run=run,
        kind=str(config.get("kind", "")),
        does=about.get("does", ""),
        hub=about.get("hub", ""),
        reads=reads,
        precisions=written.precisions if written else (),
        evaluation=evaluation,
        metrics=metrics,
        datasets=tuple(datasets(params, layout, run, (evaluation.dataset, evaluation.split))),
        provenance=dict(_provenance(layout, run, config, written)),
    )


def _evaluation(
    params: Mapping[str, Any], layout: Layout, run: str, metrics: Mapping[str, Any]
) -> Evaluation:
    """Figures of the split that the export was evaluated on, or of the one that counts."""
    own = params.get("export", {}).get("runs", {}).get(run, {})
    scores = read_json(layout.export_metrics(run)) or {}
    splits = [name for name in metrics.get("chance", {}) if name != BEHAVIOUR]
    split = str(own.get("split") or ("test" if "test" in splits else next(iter(splits), "test")))
    dataset = str(own.get("dataset") or params["tasks"][run]["dataset"])
    described = read_json(layout.data(dataset) / "dataset.json") or {}
    present = int(described.get("splits", {}).get(split, 0))
    records = min(present, own.get("examples") or present) if scores else present
    headline = metrics.get(HEADLINE, {})
    torch = scores.get("torch") or metrics.get(split, {})
    new = {
        n: Measures(v, {}) for n, v in scores.items() if not n.startswith("torch") and n != "bytes"
    }
    whole = records == present
    return Evaluation(
        dataset=dataset,
        split=split,
        records=records,
        digest=str(described.get("digest", "")),
        whole=whole,
        primary=next((m for m in (headline.get(split), *headline.values()) if m in torch), ""),
        new=new,
        torch=torch,
        chance=metrics.get("chance", {}).get(split, {}) if whole else {},
    )


def _provenance(
    layout: Layout, run: str, config: Mapping[str, Any], written: manifest.Manifest | None
) -> Iterator[tuple[str, object]]:
    """Digests of what the card speaks of; the whole chain is told by ``albef lineage``."""
    if written:
        yield "manifest, SHA-256", manifest.digest(layout.export(run))
        yield "ONNX opset", written.onnx.opset
    weights = layout.model(run) / "model.safetensors"
    if weights.is_file():
        yield "checkpoint, SHA-256", file_digest(weights)
    yield from told_of(config.get("provenance", {}))


def told_of(provenance: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """What a checkpoint says of its origin, in single facts."""
    for name, value in provenance.items():
        if not isinstance(value, Mapping):
            yield f"checkpoint: {name}", value


def datasets(
    params: Mapping[str, Any], layout: Layout, run: str, test: tuple[str, str]
) -> Iterator[Dataset]:
    """What a run, and those that it started from, learned from; and what it was judged on.

    Args:
        params: the whole file, plain.
        layout: where products lie.
        run: the run.
        test: data set and split that it was judged on.
    """
    tasks, name = params["tasks"], run
    roles: dict[str, list[str]] = {}
    while name in tasks:
        if tasks[name].get("epochs"):
            roles.setdefault(tasks[name]["dataset"], []).append(f"training of {name}")
        name = tasks[name]["init"].partition("/epochs/")[0]
    if name == "pretrained":
        roles.setdefault(params["pretrain"]["dataset"], []).append("pre-training")
    elif name not in tasks:
        told = "imported; what it learned from is not known here"
        yield Dataset(f"checkpoint {name}", told, trained=True)
    trained = set(roles)
    roles.setdefault(test[0], []).append("test")
    for dataset, own in roles.items():
        described, both = None, None
        try:
            described = describe(layout.data(dataset))
            if dataset in trained:
                both = shared(layout.data(test[0]), test[1], layout.data(dataset))
        except ShardError:
            own.append("not at hand when this was written")
        yield Dataset(dataset, ", ".join(own), described, dataset in trained, both)
