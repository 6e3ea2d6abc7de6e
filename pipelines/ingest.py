"""ingest@DATASET: build the records of a dataset and write them as shards with an index.

Rows are prepared in blocks, compared with each other, and written as shards. Blocks stay in
scratch: rows that a killed run or the previous run prepared are not prepared again.
"""

import hashlib
import json
import logging
import shutil
from collections import Counter, deque
from collections.abc import Container, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import albef.data
import albef.ingest
from albef.data.rejection import Reason, Rejection
from albef.data.shards import ShardError
from albef.data.store import Store
from albef.ingest.blocks import Batch, Blocks
from albef.ingest.config import IngestConfig, RowsConfig
from albef.ingest.duplicates import compare, read_heldout
from albef.ingest.pool import NumberedRow, portions, prepared
from albef.ingest.prepare import Prepared, Rules
from albef.ingest.quarantine import write_quarantine
from albef.ingest.shard_writer import ShardWriter
from albef.ingest.sources import read_rows
from albef.io import file_digest
from albef.run_record import code_digest
from pipelines.rows import log_progress, read_config
from pipelines.stage import Stage, main

log = logging.getLogger("albef")
_PACKAGES = ("ftfy", "imagehash", "numpy", "pillow", "scipy", "simplejpeg")
_ROWS, _BYTES = 1000, 2**25
"""Rows, or bytes of images as the source gives them, after which a block is closed."""


def run(stage: Stage) -> None:
    """Build a dataset from its sources."""
    config = read_config(stage)
    limits = stage.section("ingest", IngestConfig)
    paths = [stage.layout.heldout(name) for name in limits.heldout] if config.screened else []
    rules = Rules(limits, config.longest_side, min_scores=config.min_scores)
    with stage.scratch("rows") as work:
        data, quarantine = work / "data", work / "quarantine"
        blocks = Blocks(work / "blocks", _digest(rules))
        _read(blocks, stage, config, rules)
        heldout = read_heldout(paths)
        dropped, repeated = compare(blocks, config, limits.near_distance, heldout)
        for folder in (data, quarantine):  # A killed run may have left these folders.
            shutil.rmtree(folder, ignore_errors=True)
        reasons = write_quarantine(quarantine, blocks, dropped, repeated, heldout, limits)
        rows, kept = blocks.starts[-1], blocks.starts[-1] - reasons.total()
        cut = _rows_of_cut_shards(quarantine) if reasons else 0
        if not kept or max(0, kept - cut) < limits.min_yield * rows:
            _place(quarantine, stage.layout.quarantine(stage.key))
            raise ShardError(_too_few(stage, rows, cut, reasons, limits.min_yield))
        described = _write(data, blocks, dropped, config, stage)
        if (written := sum(described["splits"].values())) != kept:
            raise ShardError(
                f"{rows} rows gave {written} records in shards and {reasons.total()} in the "
                "quarantine, which do not add up; please report this"
            )
        _place(quarantine, stage.layout.quarantine(stage.key))
        _place(data, stage.layout.data(stage.key))
        blocks.finish()
    stage.made(stage.layout.data(stage.key) / "dataset.json")
    stage.record["records"] = described["splits"]
    stage.record["set_aside"] = reasons.total()
    for split, count in described["splits"].items():
        log.info("%s: %d records", split, count)
    for (source, reason), count in sorted(reasons.items()):
        log.info("%s: %d rows set aside: %s", source, count, reason)
    totals = described["captions"], described["shards"], described["digest"][:16]
    log.info("%d captions, %d shards, digest %s", *totals)


def _digest(rules: Rules) -> str:
    """Return the digest of everything but the row that a prepared row depends on.

    This is the values, the code, and the versions of the packages that the code uses.
    """
    folders = (Path(package.__path__[0]) for package in (albef.data, albef.ingest))
    code = sorted(file for folder in folders for file in folder.rglob("*.py"))
    values = [
        rules.limits.model_dump(mode="json", exclude={"crops", "heldout", "min_yield"}),
        [rules.longest_side, dict(rules.min_scores)],
        code_digest(code),
        [version(name) for name in _PACKAGES],
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _sources(config: RowsConfig) -> list[dict[str, Any]]:
    """Return the values of all sources, in order, with their names."""
    return [
        {"name": name, **source.model_dump(mode="json", exclude={"licences"})}
        for name, source in config.sources.items()
    ]


def _licences(config: RowsConfig) -> list[Mapping[str, str]]:
    """Return the licences of all sources, each once."""
    licences = [licence for source in config.sources.values() for licence in source.terms()]
    return [licence for i, licence in enumerate(licences) if licence not in licences[:i]]


def _read(blocks: Blocks, stage: Stage, config: RowsConfig, rules: Rules) -> None:
    """Write all rows into blocks; rows that were prepared before are not prepared again."""
    batches: deque[Batch] = deque()
    pending: list[Prepared | Rejection] = []

    def write() -> None:
        while batches and len(pending) >= batches[0].missing:
            batch = batches.popleft()
            blocks.write(pending[: batch.missing], batch)
            del pending[: batch.missing]

    def missing() -> Iterator[NumberedRow]:
        seed, scratch, off = stage.data_seed, stage.runtime.scratch_root, config.split_off
        rows = read_rows(
            stage.key, config.sources, seed, scratch, split_off=off, engine=stage.runtime.engine
        )
        for portion in portions(log_progress(rows), _ROWS, _BYTES):
            batch, new = blocks.batch(portion)
            batches.append(batch)
            write()
            yield from new

    for row in prepared(missing(), rules, stage.runtime.workers, stage.runtime.engine):
        pending.append(row)
        write()


def _write(
    folder: Path, blocks: Blocks, dropped: Container[int], config: RowsConfig, stage: Stage
) -> dict[str, Any]:
    """Write the shards of all kept rows, and their index; return what dataset.json holds."""
    store = Store(config.store) if config.store else None
    with ShardWriter(folder, stage.key, config.shard_mb, store) as writer:
        for block in range(len(blocks)):
            for row in blocks.rows(block, blocks.kept(block, dropped)):
                writer.add(row.record(blocks.images(row)))
        sources = _sources(config)
        for values, source in zip(sources, config.sources.values(), strict=True):
            inputs = {name: file_digest(path) for name, path in source.inputs().items()}
            values |= {"seed": stage.data_seed, "inputs": inputs}
        return writer.finish(_licences(config), sources)


def _rows_of_cut_shards(quarantine: Path) -> int:
    """Return the number of rows before the ends of cut shards.

    Each cut shard may have lost as many rows as it has left.
    """
    rows = pq.read_table(
        quarantine / "quarantine.parquet", filters=[("reason", "==", Reason.CUT_SHARD)]
    )
    lines: list[int] = rows["line"].to_pylist()
    return sum(lines) - len(lines)


def _too_few(
    stage: Stage, rows: int, cut: int, reasons: Counter[tuple[str, str]], min_yield: float
) -> str:
    if not rows:
        return f"data set {stage.key} has no row: its sources are empty"
    counts: Counter[str] = Counter()
    for (_, reason), count in reasons.items():
        counts[reason] += count
    remaining = max(0, rows - reasons.total() - cut)
    top_reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common(5))
    path = stage.layout.quarantine(stage.key) / "quarantine.parquet"
    without = f" without the {cut} of shards that were cut" if cut else ""
    required = f", less than ingest.min_yield {min_yield:g} asks for" if min_yield else ""
    lower = " or lower ingest.min_yield" if remaining else ""
    return (
        f"of {rows} rows {remaining} are left{without} ({100 * remaining / rows:.3g} %){required}; "
        f"set aside were {top_reasons}: see {path}, mend the source{lower}"
    )


def _place(folder: Path, target: Path) -> None:
    """Move a finished folder to its target, which never holds a partial folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for old in (part, target):
        shutil.rmtree(old, ignore_errors=True)
    shutil.move(folder, part)
    part.rename(target)


if __name__ == "__main__":
    main(run)
