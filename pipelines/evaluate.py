"""Evaluate a run on its test splits, next to chance, random weights and the text-only baseline."""

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field

from albef.config import Count, Section, did_you_mean
from albef.data.shards import Shards, describe
from albef.evaluation import text_only
from albef.evaluation.behaviour import judging
from albef.evaluation.behaviour.suite import OVERALL, BehaviourConfig
from albef.layout import BASELINES, BEHAVIOUR, HEADLINE
from albef.loading.reading import Part
from albef.metrics.family import family_of
from albef.models.kernels import evaluating
from albef.models.weights import load_checkpoint
from albef.tasks.task import RunConfig, RunTask, Table
from albef.trackers import Trackers, training
from pipelines.launch import launch, sharing
from pipelines.stage import Stage, main, read_json, run_of, write_json

log = logging.getLogger("albef")


class Reference(Section):
    """A published value of a metric."""

    value: float
    """Published value of the metric on the first evaluated split, in percent."""
    tolerance: Annotated[float, Field(ge=0)]
    """Maximum absolute difference that passes."""
    source: str
    """Source of the value, such as a paper or your own run."""


class EvaluateConfig(Section):
    """Values of the evaluation."""

    splits: tuple[str, ...] = ("test",)
    """Splits to evaluate. Splits that the dataset does not have are skipped; if it has none of
    them, `val` is evaluated."""
    batch_size: Count = 64
    """Number of images of one forward pass."""
    random_weights: Annotated[int, Field(ge=1)] = 2000
    """Number of records of a split, the first ones, for the baseline of random weights. A ranking
    of fewer records is easier, but the effect on random weights is small."""
    behaviour: BehaviourConfig
    """Behavior tests, which run on the first split that is evaluated."""
    reference: dict[str, dict[str, Reference]] | None = None
    """Published values by run and metric. A difference beyond the tolerance fails the stage."""


def run(stage: Stage) -> None:
    """Evaluate a run: metrics, three baselines, and predictions as Parquet.

    If the kind has answers, a text-only model is trained on the train split.
    """
    config, kind = run_of(stage)
    with sharing(stage) as device:
        _evaluate(stage, config, kind, device)


def _evaluate(stage: Stage, config: RunConfig, kind: type[RunTask], device: torch.device) -> None:
    settings = stage.section("evaluate", EvaluateConfig)
    checkpoint = load_checkpoint(stage.layout.model(stage.key))
    torch.manual_seed(stage.seed)
    trained = kind.restore(config, checkpoint).to(device).eval()
    blank = kind.blank(config, checkpoint).to(device).eval()
    trained.workers = blank.workers = stage.runtime.workers
    family = family_of(kind)
    computing = evaluating(config.precision, device)
    data = stage.layout.data(config.dataset)
    present = describe(data)["splits"]
    metrics: dict[str, dict[str, object]] = {"chance": {}, "random_weights": {}}
    headline = metrics[HEADLINE] = {}
    texts = text_only.read(data, "train", kind) if stage.first else []
    if texts:
        metrics["text_only"] = {}
    tables: dict[str, Table] = {}
    splits = splits_of([*dict.fromkeys((*settings.splits, *trained.further_splits))], present)
    with computing:
        trained.cache_frozen(stage.runtime, [Shards(data, split) for split in splits])
    for split in splits:
        records = Shards(data, split)
        with computing:
            table = tables[split] = trained.predict(records, settings.batch_size)
            subset = Part(records, 0, settings.random_weights)
            random_table = blank.predict(subset, settings.batch_size)
        metrics[split] = dict(family.score(table))
        metrics["chance"][split] = family.chance(table)
        metrics["random_weights"][split] = family.score(random_table)
        if texts:  # only in the first process
            metrics["text_only"][split] = text_only.score(texts, text_only.read(data, split, kind))
        names = (kind.primary, family.examples(table).metric)
        # A split with hidden answers has predictions but no metrics.
        if scored := [name for name in names if name in metrics[split]]:
            headline[split] = scored[0]
    with computing:
        sections, cases = run_behaviour_tests(settings, trained, blank, Shards(data, splits[0]))
    if not stage.first:
        return
    path = stage.layout.predictions(stage.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    for section, values in sections.items():
        metrics.setdefault(section, {}).update(values)
    pq.write_table(cases, stage.layout.behaviour(stage.key))
    write_json(stage.layout.metrics(stage.key), metrics)
    source = {
        "run": stage.key,
        "checkpoint": checkpoint.digest,
        "dataset": config.dataset,
        "data": describe(data)["digest"],
        "seed": stage.seed,
        "code": stage.code,
    }
    pq.write_table(predictions_table(kind, tables, source), path)
    stage.made(stage.layout.metrics(stage.key), path, stage.layout.behaviour(stage.key))
    _track(stage, config, metrics)
    main_split = metrics[splits[0]]
    if kind.primary in main_split:
        stage.record["metrics"] = {kind.primary: main_split[kind.primary]}
    reference = (settings.reference or {}).get(stage.key, {})
    if found := list(deviations(main_split, reference)):
        raise ValueError(f"metrics deviate from evaluate.reference: {'; '.join(found)}")


def _track(stage: Stage, config: RunConfig, metrics: Mapping[str, Mapping[str, object]]) -> None:
    if not (names := stage.runtime.trackers):
        return
    address = f"finetune@{stage.key}"
    record = read_json(stage.layout.record(address)) or {}
    final = {
        f"{split}/{name}": float(value)
        for split in metrics[HEADLINE]
        for name, value in metrics[split].items()
        if isinstance(value, int | float)
    }
    run = training(stage.layout, address, stage.seed, config.model_dump())
    Trackers(names, run, record.get("trackers", {})).finish(final)


def predictions_table(
    kind: type[RunTask], tables: Mapping[str, Table], source: Mapping[str, object]
) -> pa.Table:
    """Return the predictions on all splits, each with its per-example score.

    The metadata describes the kind and its columns, so a reader needs no knowledge of the kind.
    """
    parts, columns, family = [], {}, family_of(kind)
    for split, table in tables.items():
        columns[split] = family.examples(table)._asdict()
        scores = list(columns[split].pop("scores"))
        parts.append(pa.table({"split": [split] * len(scores), **table, "credit": scores}))
    about = {"does": kind.does, "hub": kind.hub, "examples": columns}
    metadata = {"albef": json.dumps(source), "kind": json.dumps(about)}
    return pa.concat_tables(parts, promote_options="default").replace_schema_metadata(metadata)


def run_behaviour_tests(
    settings: EvaluateConfig, trained: RunTask, blank: RunTask, records: Shards
) -> tuple[dict[str, dict[str, object]], pa.Table]:
    """Run the behavior tests.

    Returns:
        Sections of the metrics, and the cases; both are empty without tests.
    """
    config = settings.behaviour
    tests = judging.prepare(config, type(trained), records) if trained.judges else None
    if tests is None:
        return {}, judging.SCHEMA.empty_table()
    tables = [
        tests.judge(task.agreement(records, tests.pairs, settings.batch_size))
        for task in (trained, blank)
    ]
    rates, random_weights = map(judging.rates, tables)
    log.info("behavior tests: %.1f %% of %d cases pass", rates[OVERALL], len(tests.cases))
    return {
        BEHAVIOUR: dict(rates),
        HEADLINE: {BEHAVIOUR: OVERALL},
        "chance": {BEHAVIOUR: judging.chances(tables[0])},
        "random_weights": {BEHAVIOUR: random_weights},
    }, pa.table(tables[0], schema=judging.SCHEMA)


def splits_of(requested: Sequence[str], present: Collection[str]) -> list[str]:
    """Return the requested splits that a dataset has, or ``val`` if it has none of them.

    Raises:
        ValueError: ``val`` is missing too, or a split has a reserved name.
    """
    if taken := {BEHAVIOUR, HEADLINE, *BASELINES}.intersection(requested):
        raise ValueError(
            f"split {min(taken)} has the name of a section of the metrics; rename the split"
        )
    splits = [split for split in requested if split in present]
    if not splits and "val" in present:
        log.info("this dataset has no split of evaluate.splits; evaluating val")
        splits = ["val"]
    if not splits:
        raise ValueError(
            f"evaluate.splits names {', '.join(requested)}, but the dataset has only "
            f"{', '.join(present)}"
        )
    return splits


def deviations(metrics: Mapping[str, object], reference: Mapping[str, Reference]) -> Iterator[str]:
    """Yield deviations from the reference beyond its tolerance; every deviation is logged."""
    for name, published in reference.items():
        value = metrics.get(name)
        if not isinstance(value, float):
            yield f"there is no metric {name}{did_you_mean(name, metrics)}"
            continue
        difference = value - published.value
        text = (
            f"{name} is {value:.2f}, {difference:+.2f} from {published.value:g} of "
            f"{published.source} (tolerance {published.tolerance:g})"
        )
        log.info("%s", text)
        if abs(difference) > published.tolerance:
            yield text


if __name__ == "__main__":
    main(run, launch)
