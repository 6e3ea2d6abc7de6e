"""``albef data check SOURCE``: a trial of ingest and validation on the first rows of a source."""

import itertools
import json
import logging
import math
import os
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from albef.config import ParamsError, did_you_mean, validate
from albef.data.record import Record
from albef.data.rejection import Reason
from albef.data.shards import read_index
from albef.ingest import shard_writer
from albef.ingest.blocks import Blocks
from albef.ingest.config import IngestConfig, RowsConfig
from albef.ingest.duplicates import compare, read_heldout
from albef.ingest.pool import prepare_rows
from albef.ingest.prepare import Rules
from albef.ingest.quarantine import SUMMARY, write_quarantine
from albef.ingest.sources import read_rows, urls
from albef.ingest.sources.rows import Source
from albef.io import printable
from albef.validation.checking import check_dataset
from albef.validation.config import ValidateConfig
from albef.validation.image_stats import read_image_stats
from pipelines.own_data import (
    check_preset,
    minutes,
    split_off,
    suggest,
    to_yaml,
    train_images,
    write_preset,
)
from pipelines.stage import PARAMS, Stage, read_json

STOPS = 1
"""Exit code if ingest or validation would fail."""
_ROWS = 200
"""Rows of each source that are read, unless the user sets another number."""
_PRESET_ROWS = 5000
"""The same for a preset of local files, so that its limits fit all rows of a small dataset."""
_COUNTED = 100_000
"""Rows of a local source that are counted for a preset."""
_BLOCK = 200  # rows
_REPEATED = {"exact": "duplicate", "near": "near_duplicate"}
_EXTREMES = {
    "max_caption_words": ("words of a caption", "most"),
    "min_image_side": ("shorter side in pixels", "least"),
    "max_image_side": ("longer side in pixels", "most"),
}
"""Statistic of a dataset that each validation limit bounds."""
Result = Mapping[str, Any]


def main(
    source: str, rows: int | None, name: str | None, write: bool, as_json: bool, cwd: Path
) -> int:
    """Print the result of a check; return exit code 1 if ingest or validation would fail."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    result = check(source, rows, name, write, cwd)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print(render(result, write))
    if write:
        path = write_preset(result)
        print(
            f"wrote {path}; to use it: albef run --preset {path.stem}\n"
            f"expected time: {minutes(train_images(result))} minutes on two cores without a GPU",
            file=sys.stderr if as_json else sys.stdout,
        )
    return STOPS if result["stops"] or result["unmet"] else 0


def check(
    source: str,
    rows: int | None = None,
    name: str | None = None,
    write: bool = False,
    cwd: Path = Path(),
) -> dict[str, Any]:
    """Run ingest and validation on the first rows.

    Args:
        source: a dataset, a source of it, or a path, relative to ``cwd``.
        rows: most rows of each source; None chooses the number.
        name: name of the dataset that a path becomes; None derives it from the path.
        write: whether a preset for the path is to be written. Its limits are the defaults, not
            those of params.yaml.
        cwd: folder that a path is relative to.

    Returns:
        The values that :func:`render` turns into text; all of them are JSON.

    Raises:
        ParamsError: the source does not exist, or cannot be read as a whole.
    """
    if rows is not None and rows < 1:
        raise ParamsError(f"--rows {rows}: must be at least 1")
    stage, config, suggested = _choose(source, _path(cwd / source), name)
    intake, limits = IngestConfig(heldout=[stage.key]), ValidateConfig()
    if not write:
        intake = stage.section("ingest", IngestConfig)
        limits = stage.section("validate", ValidateConfig)
    elif suggested is None:
        raise ParamsError(f"--write: {source} is a dataset of {PARAMS}; give a path")
    else:
        check_preset(stage.key)
    is_local = all(not isinstance(it, urls.Config) for it in config.sources.values())
    rows = rows or (_PRESET_ROWS if write and is_local else _ROWS)
    result = _try(source, stage, config, intake, limits, rows)
    if suggested:
        result["suggested"] = split_off(suggested, result["splits"])
    if write and result["kept"] and is_local:
        result["train_images"] = _train_images(stage, config, result)
    return result


def _train_images(stage: Stage, config: RowsConfig, result: Result) -> int:
    """Return the number of images to train on, about: rows beyond the first ones are not decoded.

    They are assumed to be valid as often, and to share images as often, as the first ones.
    """
    scratch, section = stage.runtime.scratch_root, next(iter(result["suggested"].values()))
    rows = read_rows(
        stage.key, config.sources, stage.data_seed, scratch, _COUNTED, section.get("split_off")
    )
    of_training = sum(isinstance(row, Record) and row.split == "train" for _, row in rows)
    return round(of_training * int(result["kept"]) / int(result["rows"]))


def _try(
    source: str,
    stage: Stage,
    config: RowsConfig,
    intake: IngestConfig,
    limits: ValidateConfig,
    rows: int,
) -> dict[str, Any]:
    """Run ingest and validation on the first rows, in a temporary folder."""
    heldout = [stage.layout.heldout(name) for name in intake.heldout] if config.screened else []
    existing = [path for path in heldout if path.is_file()]
    with tempfile.TemporaryDirectory(prefix="albef-check-") as name:
        folder = Path(name)
        blocks = _read(folder / "blocks", stage, config, intake, rows)
        count = blocks.starts[-1]
        if not count:
            raise ParamsError(f"{source} has no rows")
        references = read_heldout(existing)
        compared = compare(blocks, config, intake.near_distance, references)
        reasons = write_quarantine(folder, blocks, compared, references, intake)
        unlisted = sum(number for (_, why), number in reasons.items() if why == Reason.UNLISTED)
        kept, merged = count - reasons.total(), int(compared.merged.sum())
        repeated = compared.repeated
        result: dict[str, Any] = {
            "source": source,
            "rows": count,
            "rows_asked": rows,
            "kept": kept - merged,
            "merged": merged,
            "unlisted": unlisted,
            "sources": _sources(folder, config),
            "repeated": {
                **{
                    kind: sum(it.reason == why for it in repeated)
                    for kind, why in _REPEATED.items()
                },
                "dropped": sum(it.row in compared.dropped for it in repeated),
                "rule": config.duplicates,
            },
            "min_yield": intake.min_yield,
            "stops": kept < max(1, intake.min_yield * (count - unlisted)),
            "not_compared": [str(path) for path in heldout if path not in existing],
            "unmet": [],
            "splits": [],
        }
        if kept:
            records = blocks.records(*compared[:2])
            result |= _validate(folder / "data", records, stage, limits)
            own = (it.all_splits() for it in config.sources.values() if isinstance(it, Source))
            result["splits"] = sorted({*result["splits"], *itertools.chain.from_iterable(own)})
    return result


def _read(
    folder: Path, stage: Stage, config: RowsConfig, intake: IngestConfig, rows: int
) -> Blocks:
    blocks = Blocks(folder)
    rules = Rules(intake, config.longest_side, min_scores=config.min_scores)
    scratch = stage.runtime.scratch_root
    source_rows = read_rows(
        stage.key, config.sources, stage.data_seed, scratch, rows, config.split_off
    )
    prepared_rows = prepare_rows(source_rows, rules, stage.runtime.workers)
    while block := list(itertools.islice(prepared_rows, _BLOCK)):
        blocks.write(block)
    return blocks


def _validate(
    folder: Path, records: Iterator[Record], stage: Stage, limits: ValidateConfig
) -> dict[str, Any]:
    """Validate the records as a dataset in a folder.

    Returns:
        The checks that fail, the limits that the records would meet if these can be found, and the
        splits.
    """
    shard_writer.write(folder, stage.key, records, shard_mb=512, licences=[], sources=[])
    index = read_index(folder, columns=["split"])
    stats = read_image_stats(folder, stage.runtime.threads)
    result, _ = check_dataset(folder, limits, stats)
    unmet = [outcome for outcome in result.checks if not outcome.passed]
    fitting: dict[str, Any] = {}
    for outcome in unmet:
        if outcome.threshold == "max_other_scripts":
            fitting["scripts"] = list(result.statistics["scripts"])
        elif outcome.threshold in _EXTREMES:
            statistic, bound = _EXTREMES[outcome.threshold]
            fitting[outcome.threshold] = int(result.statistics[statistic][bound])
        elif outcome.threshold and outcome.allowed == getattr(limits, outcome.threshold):
            fitting[outcome.threshold] = math.ceil(100 * outcome.failed / outcome.counted) / 100
    if unmet:
        checks = check_dataset(folder, limits.model_copy(update=fitting), stats)[0].checks
        fitting = fitting if all(outcome.passed for outcome in checks) else {}
    return {
        "unmet": [outcome.reason() for outcome in unmet],
        "fitting": fitting,
        "splits": sorted(set(index["split"].to_pylist())),
    }


def _choose(
    source: str, path: Path, name: str | None
) -> tuple[Stage, RowsConfig, Mapping[str, Any] | None]:
    """Return the ingest stage, its values, and a section for a path that params.yaml lacks."""
    dataset, _, source_name = source.partition(".")
    stage = Stage("ingest", dataset)
    datasets = stage.params.get("datasets") or {}
    if dataset in datasets and (not path.exists() or not source_name):
        config = stage.section(f"datasets.{dataset}", RowsConfig)
        if source_name and source_name not in config.sources:
            hint = did_you_mean(source_name, config.sources, f"{dataset}.")
            raise ParamsError(f"{PARAMS}: dataset {dataset} has no source {source_name!r}{hint}")
        chosen = {source_name: config.sources[source_name]} if source_name else config.sources
        return stage, config.model_copy(update={"sources": chosen}), None
    if not path.exists():
        hint = did_you_mean(source, datasets)
        raise ParamsError(f"{path} does not exist, and {PARAMS} has no dataset {source}{hint}")
    suggested = suggest(path, name)
    ((name, section),) = suggested.items()
    return Stage("ingest", name), validate(RowsConfig, section, where=str(path)), suggested


def _path(source: Path) -> Path:
    path = Path(os.path.abspath(source))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _sources(folder: Path, config: RowsConfig) -> dict[str, dict[str, Any]]:
    """Return for each source the rows read, kept and rejected, with an example of each reason."""
    summary = read_json(folder / SUMMARY)
    examples = pq.read_table(folder / "examples.parquet").to_pylist()
    sources = {}
    for name, source in config.sources.items():
        counts = summary.get(name, {"rows": 0, "kept": 0, "merged": 0, "rejected": {}})
        first = {row["reason"]: row for row in reversed(examples) if row["source"] == name}
        sources[name] = {
            "kind": source.kind,
            "rows": counts["rows"],
            "kept": counts["kept"],
            "merged": counts["merged"],
            "rejected": {
                reason: {"count": n, **{k: first[reason][k] for k in ("line", "key", "detail")}}
                for reason, n in sorted(counts["rejected"].items(), key=lambda pair: -pair[1])
            },
        }
    return sources


def render(result: Result, write: bool = False) -> str:
    """Return the result as text; ``write`` if a preset is written from it."""
    return "\n".join(_lines(result, write))


def _lines(result: Result, write: bool) -> Iterator[str]:
    for name, source in result["sources"].items():
        rows, kept = source["rows"], source["kept"] + source["merged"]
        extent = "the first" if rows == result["rows_asked"] else "all"
        yield f"{name} ({source['kind']}): {extent} {rows:,} rows"
        merged = f" as {source['kept']:,} records, one per image" if source["merged"] else ""
        yield f"  kept {kept:,} ({_percent(kept, rows)}){merged}"
        for reason, example in source["rejected"].items():
            yield f"  rejected {example['count']:,} ({_percent(example['count'], rows)}): {reason}"
            key = f", {_short(example['key'])}" if example["key"] else ""
            yield f"    first: row {example['line']}{key}: {_short(example['detail'])}"
    repeated, kept = result["repeated"], result["kept"] + result["merged"]
    if repeated["exact"] or repeated["near"]:
        yield (
            f"repeated: {repeated['exact']:,} identical images, {repeated['near']:,} similar "
            f"images; `duplicates: {repeated['rule']}` drops {repeated['dropped']:,} of them"
        )
    for path in result["not_compared"]:
        yield f"not compared with {path}, which does not exist yet (albef run --only heldout)"
    share = _percent(kept, result["rows"] - result["unlisted"])
    yield (
        f"ingest would {'fail' if result['stops'] else 'pass'}: {share} kept, "
        f"ingest.min_yield is {result['min_yield']:g}"
    )
    if kept:
        yield f"validation would {'fail' if result['unmet'] else 'pass'}"
    yield from (f"  {reason}" for reason in result["unmet"])
    if result.get("fitting"):
        fitting = to_yaml(result["fitting"], flow=True).strip()
        yield f"  they would pass with validate: {fitting}"
    if "suggested" in result:
        yield "\nThe dataset:" if write else "\nTo use it, add this to datasets in params.yaml:"
        text = to_yaml(result["suggested"])
        if "user_agent:" in text:
            yield "  # user_agent: say who downloads, and how to reach you"
        yield textwrap.indent(text.rstrip(), "  ")
        if not write:
            yield "or write a preset with --write"


def _percent(count: int, total: int) -> str:
    return f"{100 * count / max(total, 1):.3g} %"


def _short(text: str) -> str:
    return printable(text if len(text) <= 200 else f"{text[:197]}...")
