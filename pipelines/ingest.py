"""ingest@DATASET: build the records of a dataset and write them as shards with an index.

Rows are prepared in blocks, compared with each other, and written as shards. Blocks stay in
scratch: rows that a killed run or the previous run prepared are not prepared again.
"""

import hashlib
import itertools
import json
import logging
import shutil
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import albef.data
import albef.ingest
from albef.data.record import Record
from albef.data.rejection import Reason, Rejection
from albef.data.shards import ShardError
from albef.data.store import Store
from albef.ingest import shard_writer
from albef.ingest.blocks import Blocks, Values
from albef.ingest.config import IngestConfig, RowsConfig
from albef.ingest.duplicates import compare, read_heldout
from albef.ingest.pool import NumberedRow, portions, prepare_rows
from albef.ingest.prepare import Prepared, Rules
from albef.ingest.quarantine import write_quarantine
from albef.io import file_digest
from albef.run_record import code_digest
from pipelines.rows import read, workers
from pipelines.stage import Stage, main

log = logging.getLogger("albef")
_PACKAGES = ("ftfy", "imagehash", "numpy", "pillow", "scipy", "simplejpeg")
_ROWS, _BYTES = 1000, 2**25
"""Rows, or bytes of images as the source gives them, after which a block is closed."""


def run(stage: Stage) -> None:
    """Build a dataset from its sources."""
    config = stage.section(f"datasets.{stage.key}", RowsConfig)
    limits = stage.section("ingest", IngestConfig)
    paths = [stage.layout.heldout(name) for name in limits.heldout] if config.screened else []
    rules = Rules(limits, config.longest_side, min_scores=config.min_scores)
    with stage.scratch("rows") as work:
        data, quarantine = work / "data", work / "quarantine"
        blocks = Blocks(work / "blocks", _digest(rules))
        _prepare(blocks, stage, config, rules)
        heldout = read_heldout(paths)
        compared = compare(blocks, config, limits.near_distance, heldout)
        for folder in (data, quarantine):  # A killed run may have left these folders.
            shutil.rmtree(folder, ignore_errors=True)
        reasons = write_quarantine(quarantine, blocks, compared, heldout, limits)
        kept, merged = blocks.starts[-1] - reasons.total(), int(compared.merged.sum())
        unlisted = sum(count for (_, why), count in reasons.items() if why == Reason.UNLISTED)
        rows = blocks.starts[-1] - unlisted
        cut = _rows_of_cut_shards(quarantine) if reasons else 0
        if not kept or max(0, kept - cut) < limits.min_yield * rows:
            _publish(quarantine, stage.layout.quarantine(stage.key))
            raise ShardError(_yield_message(stage, rows, cut, reasons, limits.min_yield))
        described = _write_shards(data, blocks.records(*compared[:2]), config, stage)
        if (written := sum(described["splits"].values())) != kept - merged:
            wanted = kept - merged
            raise ShardError(
                f"{written} records were written instead of {wanted}; please report it"
            )
        _publish(quarantine, stage.layout.quarantine(stage.key))
        _publish(data, stage.layout.data(stage.key))
        blocks.finish()
    stage.made(stage.layout.data(stage.key) / "dataset.json")
    stage.record["records"] = described["splits"]
    stage.record["rejected"] = reasons.total()
    if merged:
        stage.record["merged"] = merged
        log.info("%d rows merged into an earlier row of the same image", merged)
    for split, count in described["splits"].items():
        log.info("%s: %d records", split, count)
    for (source, reason), count in sorted(reasons.items()):
        log.info("%s: %d rows rejected: %s", source, count, reason)
    totals = described["captions"], described["shards"], described["digest"][:16]
    log.info("%d captions, %d shards, digest %s", *totals)


def _digest(rules: Rules) -> str:
    """Return the digest of the values, code and packages that prepared rows depend on."""
    folders = (Path(package.__path__[0]) for package in (albef.data, albef.ingest))
    code = sorted(file for folder in folders for file in folder.rglob("*.py"))
    values = [
        rules.limits.model_dump(mode="json", exclude={"crops", "heldout", "min_yield"}),
        [rules.longest_side, dict(rules.min_scores)],
        code_digest(code),
        [version(name) for name in _PACKAGES],
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _prepare(blocks: Blocks, stage: Stage, config: RowsConfig, rules: Rules) -> None:
    """Write all rows into blocks; rows that were prepared before are not prepared again."""
    # Each batch comes with the number of its new rows.
    batches: deque[tuple[int, list[tuple[bytes, Values | None]]]] = deque()
    pending: deque[Prepared | Rejection] = deque()

    def write() -> None:
        while batches and len(pending) >= batches[0][0]:
            _, batch = batches.popleft()
            rows = [pending.popleft() if known is None else known for _, known in batch]
            blocks.write(rows, [digest for digest, _ in batch])

    def missing() -> Iterator[NumberedRow]:
        for portion in portions(read(stage, config), _ROWS, _BYTES):
            batch = blocks.find(portion)
            new = [known is None for _, known in batch]
            batches.append((sum(new), batch))
            write()
            yield from itertools.compress(portion, new)

    for row in prepare_rows(missing(), rules, workers(stage, config), stage.runtime.engine):
        pending.append(row)
        write()


def _write_shards(
    folder: Path, records: Iterator[Record], config: RowsConfig, stage: Stage
) -> dict[str, Any]:
    sources: list[dict[str, Any]] = []
    licences: list[Mapping[str, str]] = []
    for name, source in config.sources.items():
        values = source.model_dump(mode="json", exclude={"licences"})
        inputs = {key: file_digest(path) for key, path in source.inputs().items()}
        sources.append({"name": name, **values, "seed": stage.data_seed, "inputs": inputs})
        licences += source.terms()
    return shard_writer.write(
        folder,
        stage.key,
        records,
        shard_mb=config.shard_mb,
        licences=[term for i, term in enumerate(licences) if term not in licences[:i]],
        sources=sources,
        store=Store(config.store) if config.store else None,
    )


def _rows_of_cut_shards(quarantine: Path) -> int:
    """Return the number of rows left of cut shards; each may have lost as many."""
    filters = [("reason", "==", Reason.CUT_SHARD)]
    rows = pq.read_table(quarantine / "quarantine.parquet", filters=filters)
    return sum(line - 1 for line in rows["line"].to_pylist())


def _yield_message(
    stage: Stage, rows: int, cut: int, reasons: Counter[tuple[str, str]], min_yield: float
) -> str:
    if not rows:
        return f"the sources of dataset {stage.key} have no rows"
    counts: Counter[str] = Counter()
    for (_, reason), count in reasons.items():
        counts[reason] += count
    kept = max(0, rows - reasons.total() - cut)
    rejected = ", ".join(f"{count} {reason}" for reason, count in counts.most_common(5))
    missing = f", not counting {cut} of shards that were cut off" if cut else ""
    limit = f", below ingest.min_yield {min_yield:g}" if min_yield else ""
    path = stage.layout.quarantine(stage.key) / "quarantine.parquet"
    lower = " or lower ingest.min_yield" if kept else ""
    return (
        f"{kept} of {rows} rows were kept{missing} ({100 * kept / rows:.3g} %){limit}; rejected: "
        f"{rejected}. See {path}, then fix the source{lower}"
    )


def _publish(folder: Path, target: Path) -> None:
    """Move a finished folder to its target, which never holds a partial folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for old in (part, target):
        shutil.rmtree(old, ignore_errors=True)
    shutil.move(folder, part)
    part.rename(target)


if __name__ == "__main__":
    main(run)
