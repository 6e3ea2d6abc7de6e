"""Data sets, checkpoints and exports, read from their products for page and card."""

from collections.abc import Iterator, Mapping
from typing import Any

from albef.layout import HEADLINE, Layout
from albef.report import examples
from albef.report.metrics import flatten
from albef.report.origins import Dataset, Export, Licence, Model, Samples, Validation
from albef.report.pictures import SplitRecords
from albef.validation.content import drifted
from pipelines.stage import read_json

_SPLITS = ("train", "val", "test")


def read_dataset(layout: Layout, name: str, used_by: tuple[str, ...], count: int) -> Dataset:
    """A data set, its verdict and some of its pictures.

    Args:
        layout: where products lie.
        name: of the data set.
        used_by: trainings and runs that read it.
        count: pictures of each split.
    """
    folder = layout.data(name)
    described = read_json(folder / "dataset.json")
    if described is None:
        note = f"This data set has not been made yet: {folder} is missing."
        return Dataset(name, used_by=used_by, notes=(note,))
    samples = []
    for split, size in described["splits"].items():
        if size:
            records = SplitRecords(folder, split)
            places = examples.spread(range(len(records)), count)
            samples.append(Samples(split, tuple(records.at(place) for place in places)))
            records.close()
    samples.sort(key=lambda s: _SPLITS.index(s.split) if s.split in _SPLITS else len(_SPLITS))
    return Dataset(
        name=name,
        digest=described["digest"],
        splits={s.split: described["splits"][s.split] for s in samples},
        captions=described["captions"],
        sources=tuple(
            (str(source.get("name", "")), {k: v for k, v in flatten(source) if k != "name"})
            for source in described.get("sources", [])
        ),
        licences=tuple(
            Licence(*(str(entry.get(k, "")) for k in ("what", "licence", "attribution", "url")))
            for entry in described.get("licences", [])
        ),
        samples=tuple(samples),
        used_by=used_by,
        validation=_validation(layout, name, described["digest"]),
    )


def _validation(layout: Layout, name: str, digest: str) -> Validation | None:
    result = read_json(layout.validation(name) / "result.json")
    if result is None:
        return None
    return Validation(
        passed=result["passed"],
        current=result["digest"] == digest,
        checks=tuple((c["what"], _found(c), c["passed"]) for c in result["checks"]),
        statistics=tuple(_statistics(result.get("statistics", {}))),
        page=str(layout.validation(name) / "report.html"),
        drifted=drifted(result),
    )


def _found(check: Mapping[str, Any]) -> str:
    bound = f" ({check['bound']})" if check.get("bound") else ""
    allowed = f", {check['allowed']:.3g} of them may" if check.get("allowed") else ""
    return f"{check['failed']:,} of {check['counted']:,} do not{bound}{allowed}"


def _statistics(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, int | float):
            yield name, f"{value:,}"
        elif isinstance(value, Mapping) and {"least", "median", "most"} <= set(value):
            least, median, most = (f"{value[key]:g}" for key in ("least", "median", "most"))
            yield name, least if least == most else f"{least} to {most}, median {median}"


def read_model(layout: Layout, name: str) -> Model:
    """What a checkpoint says of itself."""
    config = read_json(layout.model(name) / "config.json")
    if config is None:
        return Model(name, note=f"There is no checkpoint yet: {layout.model(name)} is missing.")
    return Model(
        name=name,
        kind=str(config.get("kind", "")),
        values=dict(flatten(config.get("values", {}))),
        sizes=dict(flatten(config.get("model", {}))),
    )


def read_export(layout: Layout, name: str, manifest: Mapping[str, Any]) -> Export:
    """An export, by its manifest and metrics."""
    scores = read_json(layout.export_metrics(name)) or {}
    sizes = scores.pop("bytes", {})
    known: Mapping[str, float] = scores.get("torch", {})
    headline = (read_json(layout.metrics(name)) or {}).get(HEADLINE, {})
    primary = next((metric for metric in headline.values() if metric in known), "")
    return Export(name, dict(flatten(manifest)), primary, scores, sizes)
