"""Gather what there is of all products and write the report: one page that needs nothing else."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from albef.config import Section
from albef.digest import file_digest
from albef.layout import BEHAVIOUR, Layout
from albef.report import curves, examples, located
from albef.report.behaviour import Behaviour, behaviour
from albef.report.content import (
    Cost,
    Dataset,
    Export,
    Licence,
    Model,
    Report,
    Run,
    Samples,
    Search,
    SplitResult,
    Training,
    Trial,
    Validation,
)
from albef.report.metrics import PRIMARY, flatten
from albef.report.page import render
from albef.report.pictures import SplitRecords
from pipelines.stage import Stage, main

BASELINES = ("chance", "random_weights", "text_only")
"""Sections of a metrics file that stand beside those of the splits."""
NOT_SHOWN = ("paths", "runtime", "release")
"""Sections of params.yaml that change no product."""


class ReportConfig(Section):
    """Values of the report."""

    examples: Annotated[int, Field(ge=1, le=100)]
    """Queries, pairs and sample pictures shown of each group."""


def run(stage: Stage) -> None:
    """Write the report on everything that exists by now."""
    config = stage.section("report", ReportConfig)
    page = render(gather(stage.params, stage.layout, stage.seed, config.examples))
    path = stage.layout.report()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)
    stage.record["bytes"] = len(page.encode())


def gather(params: Mapping[str, Any], layout: Layout, seed: int, count: int) -> Report:
    """Read the products of a params file.

    Args:
        params: the whole file, plain.
        layout: where products lie.
        seed: of the run.
        count: examples of each group.
    """
    tasks: Mapping[str, Any] = params.get("tasks", {})
    inits = [values.get("init", "pretrained") for values in tasks.values()]
    models = dict.fromkeys(["pretrained", *(init for init in inits if init not in tasks), *tasks])
    used: dict[str, list[str]] = {name: [] for name in params.get("datasets", {})}
    owners = {"pre-training": params.get("pretrain", {}), **tasks}
    for owner, values in owners.items():
        used.setdefault(values.get("dataset", ""), []).append(owner)
    used.pop("", None)
    return Report(
        seed=seed,
        runs=tuple(_run(layout, name, values, count) for name, values in tasks.items()),
        trainings=tuple(
            Training(name, curves.read(layout.curves(name)))
            for name in models
            if layout.curves(name).is_dir()
        ),
        datasets=tuple(_dataset(layout, name, tuple(by), count) for name, by in used.items()),
        searches=tuple(_search(layout, name, values) for name, values in tasks.items()),
        costs=tuple(Cost(name, _json(layout.record(name))) for name in _stages(params)),
        models=tuple(_model(layout, name) for name in models),
        exports=tuple(
            _export(layout, name, manifest)
            for name in tasks
            if (manifest := _json(layout.export(name) / "manifest.json")) is not None
        ),
        values=dict(flatten({k: v for k, v in params.items() if k not in NOT_SHOWN})),
    )


def _stages(params: Mapping[str, Any]) -> Iterator[str]:
    """Addresses of the stages before this one, in the order of the graph."""
    for name in ("ingest", "validate"):
        yield from (f"{name}@{dataset}" for dataset in params.get("datasets", {}))
    yield "pretrain"
    for name in ("search", "finetune", "evaluate"):
        yield from (f"{name}@{run}" for run in params.get("tasks", {}))
    yield from (f"export@{run}" for run in params.get("export", {}).get("runs", {}))


def _export(layout: Layout, name: str, manifest: Mapping[str, Any]) -> Export:
    scores = _json(layout.export_metrics(name)) or {}
    sizes = scores.pop("bytes", {})
    known: Mapping[str, float] = scores.get("torch", {})
    primary = next((metric for metric in PRIMARY if metric in known), "")
    return Export(name, dict(flatten(manifest)), primary, scores, sizes)


def _json(path: Path) -> Any:
    """What a JSON file holds; None where there is none."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); run the stage that makes it") from None


def _run(layout: Layout, name: str, values: Mapping[str, Any], count: int) -> Run:
    kind, dataset, init = (str(values.get(key, "")) for key in ("kind", "dataset", "init"))
    metrics = _json(layout.metrics(name))
    if metrics is None:
        note = f"This run has not been evaluated yet: {layout.metrics(name)} is missing."
        return Run(name, kind, dataset, init, notes=(note,))
    notes = []
    path = layout.predictions(name)
    table = pq.read_table(path) if path.is_file() else None
    if table is None:
        notes.append(f"There are no examples, since {path} is missing.")
    folder = layout.data(dataset)
    present = (_json(folder / "dataset.json") or {}).get("splits", {})
    if not present:
        notes.append(f"There are no pictures, since the data set at {folder} is missing.")
    splits = []
    for split, section in metrics.items():
        if split in (*BASELINES, BEHAVIOUR) or not isinstance(section, Mapping):
            continue
        beside = {key: _numbers(metrics.get(key, {}).get(split, {})) for key in BASELINES}
        records = SplitRecords(folder, split) if split in present else None
        result = SplitResult(
            name=split,
            records=present.get(split, 0),
            metrics=_numbers(section),
            chance=beside["chance"],
            random_weights=beside["random_weights"],
            text_only=beside["text_only"],
        )
        if table is not None:
            part = table.filter(pc.equal(table["split"], split))
            result = _with_examples(result, part, records, count)
        splits.append(result)
        if records:
            records.close()
    # The first of evaluate's splits is the one that a run is judged by; JSON has lost its order.
    splits.sort(key=lambda split: (split.name != "test", split.name))
    if BEHAVIOUR in metrics and not layout.behaviour(name).is_file():
        notes.append(f"Behaviour tests are not shown, since {layout.behaviour(name)} is missing.")
    tested = _behaviour(layout, name, dataset, metrics, count)
    return Run(name, kind, dataset, init, tuple(splits), tuple(notes), tested)


def _behaviour(
    layout: Layout, name: str, dataset: str, metrics: Mapping[str, Any], count: int
) -> Behaviour | None:
    """The behaviour tests of a run, as far as they and their pictures are here."""
    path, folder = layout.behaviour(name), layout.data(dataset)
    table = pq.read_table(path) if path.is_file() else None
    if table is None or table.num_rows == 0:
        return None
    split = table["split"][0].as_py()
    present = (_json(folder / "dataset.json") or {}).get("splits", {})
    records = SplitRecords(folder, split) if split in present else None
    try:
        return behaviour(table, metrics, records, count)
    finally:
        if records:
            records.close()


def _with_examples(
    result: SplitResult, table: pa.Table, records: SplitRecords | None, count: int
) -> SplitResult:
    """A result with counts and examples, as far as predictions and records are here."""
    if table.num_rows == 0:
        return result
    if located.is_grounding(table):
        return replace(result, places=located.places(table, records, count) if records else ())
    if not examples.is_ranking(table):
        return replace(result, examples=examples.rows(table, records, count))
    return replace(
        result,
        outcomes=examples.outcomes(table, records),
        galleries=examples.galleries(table, records, count) if records else (),
    )


def _numbers(section: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in flatten(section)
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _dataset(layout: Layout, name: str, used_by: tuple[str, ...], count: int) -> Dataset:
    folder = layout.data(name)
    described = _json(folder / "dataset.json")
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


_SPLITS = ("train", "val", "test")


def _validation(layout: Layout, name: str, digest: str) -> Validation | None:
    result = _json(layout.validation(name) / "result.json")
    if result is None:
        return None
    return Validation(
        passed=result["passed"],
        current=result["digest"] == digest,
        checks=tuple((c["what"], _found(c), c["passed"]) for c in result["checks"]),
        statistics=tuple(_statistics(result.get("statistics", {}))),
        page=str(layout.validation(name) / "report.html"),
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


def _search(layout: Layout, name: str, values: Mapping[str, Any]) -> Search:
    choice = _json(layout.search(name) / "choice.json")
    if choice is None:
        note = f"There has been no search yet: {layout.search(name)} is missing."
        return Search(name, note=note)
    told = _json(layout.search(name) / "trials.json") or {}
    trials = told.get("trials", [])
    scales = {
        key: bool(value.get("log"))
        for key, value in values.items()
        if isinstance(value, Mapping) and "low" in value
    }
    best = [t for t in trials if t["params"] == choice and t["value"] is not None][:1]
    return Search(
        run=name,
        scales=scales,
        choice=choice,
        trials=tuple(
            Trial(
                number=trial["number"],
                state=trial["state"],
                params=trial["params"],
                values=tuple(trial["values"]),
                value=trial["value"],
                start=trial["start"],
                chosen=trial in best,
                error=trial.get("error", ""),
            )
            for trial in trials
        ),
        note="" if trials else "No value of this run is a range, so there was nothing to search.",
        evidence=told.get("evidence", {}),
    )


def _model(layout: Layout, name: str) -> Model:
    config = _json(layout.model(name) / "config.json")
    if config is None:
        return Model(name, note=f"There is no checkpoint yet: {layout.model(name)} is missing.")
    told = config.get("provenance", {})
    weights = _sha(layout.model(name) / "model.safetensors")
    described = _json(layout.data(str(told.get("dataset", ""))) / "dataset.json") or {}
    parent = _sha(layout.model(str(told.get("parent", ""))) / "model.safetensors")
    at_hand = {"data": described.get("digest", ""), "parent_weights": parent}
    facts = (
        (key, str(value), _compared(str(value), at_hand[key]) if key in at_hand else "")
        for key, value in flatten(told)
    )
    return Model(
        name=name,
        kind=str(config.get("kind", "")),
        values=dict(flatten(config.get("values", {}))),
        sizes=dict(flatten(config.get("model", {}))),
        provenance=(*facts, ("weights", weights or "not here", "")),
    )


def _compared(told: str, found: str) -> str:
    if not found:
        return "not here to compare with"
    return "the one at hand" if told == found else "another one than the one at hand"


def _sha(path: Path) -> str:
    """SHA-256 of a file, or "" where there is none."""
    return file_digest(path) if path.is_file() else ""


if __name__ == "__main__":
    main(run)
