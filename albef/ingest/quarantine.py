"""Quarantine of a dataset: the rejected rows, each with its reason."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.data.rejection import Reason
from albef.ingest.blocks import EXAMPLES, Blocks, Row
from albef.ingest.config import IngestConfig
from albef.ingest.duplicates import GROUPS, Comparison, Duplicate
from albef.ingest.prepare import thumbnail
from albef.io import write_json

SCHEMA = pa.schema({
    "source": pa.string(), "line": pa.int64(), "key": pa.string(), "reason": pa.string(),
    "detail": pa.string(),
})  # fmt: skip
"""Columns of quarantine.parquet: the fields of :class:`albef.data.rejection.Rejection`."""
_EXAMPLE = pa.schema({
    **{field.name: field.type for field in SCHEMA}, "captions": pa.list_(pa.string()),
    "picture": pa.binary(), "of": pa.string(), "of_dataset": pa.string(), "distance": pa.int32(),
})  # fmt: skip
"""Columns of examples.parquet: the first rows of each source and reason. ``picture`` is a thumbnail
if the image can be decoded. If a row repeats another one, ``of`` is the key of that row,
``of_dataset`` its dataset if that is a different one, and ``distance`` the number of different bits
of the perceptual hashes."""
SUMMARY = "summary.json"
"""File with the number of rows of each source: all, kept as records, merged into the record of an
earlier row, and rejected by reason."""
_ROWS = 10_000  # rows that are collected before they are written


def write_quarantine(
    folder: Path,
    blocks: Blocks,
    compared: Comparison,
    heldout: pa.Table,
    limits: IngestConfig,
) -> Counter[tuple[str, str]]:
    """Write the rejected rows and the repeated images; count the former by source and reason.

    ``compared`` is the result of :func:`albef.ingest.duplicates.compare` with ``heldout``; images
    within ``limits`` get a thumbnail.
    """
    dropped, repeated = compared.dropped, compared.repeated
    folder.mkdir(parents=True, exist_ok=True)
    counts = _write_rows(folder, blocks, dropped, heldout, limits)
    groups = {
        "key": [blocks.at(duplicate.row, "key") for duplicate in repeated],
        "of": [blocks.at(duplicate.original, "key") for duplicate in repeated],
        "kind": ["exact" if repeat.reason == Reason.DUPLICATE else "near" for repeat in repeated],
        "distance": [duplicate.distance for duplicate in repeated],
        "dropped": [duplicate.row in dropped for duplicate in repeated],
    }
    table = pa.table(groups, GROUPS)
    pq.write_table(table, folder / "duplicates.parquet", compression="zstd")
    rows, merged = Counter[str](), Counter[str]()
    for block in range(len(blocks)):
        sources = blocks.table(block)["source"]
        of_block = compared.merged[blocks.starts[block] : blocks.starts[block + 1]]
        for counter, chosen in ((rows, sources), (merged, sources.filter(pa.array(of_block)))):
            counted = pc.value_counts(chosen).to_pylist()
            counter.update({of["values"]: of["counts"] for of in counted})
    summary = {}
    for name, count in rows.items():
        rejected = {reason: n for (source, reason), n in counts.items() if source == name}
        kept = count - merged[name] - sum(rejected.values())
        summary[name] = {"rows": count, "kept": kept, "merged": merged[name], "rejected": rejected}
    write_json(folder / SUMMARY, summary)
    return counts


def _write_rows(
    folder: Path,
    blocks: Blocks,
    dropped: Mapping[int, Duplicate],
    heldout: pa.Table,
    limits: IngestConfig,
) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    examples: list[dict[str, Any]] = []
    batch: list[dict[str, Any]] = []
    with pq.ParquetWriter(folder / "quarantine.parquet", SCHEMA, compression="zstd") as writer:
        for row in blocks.rows(dropped, kept=False):
            values = {**row.values, "key": row.values["name"]}
            is_duplicate = values["reason"] is None
            if is_duplicate:
                values |= _describe(row, dropped[row.number], blocks, heldout)
            group = values["source"], values["reason"]
            counts[group] += 1
            if counts[group] <= EXAMPLES:
                if is_duplicate:
                    values["thumbnail"] = thumbnail(blocks.images(row)[0], limits)
                examples.append({**values, "picture": values["thumbnail"] or None})
            batch.append(values)
            if len(batch) == _ROWS:
                writer.write_table(pa.Table.from_pylist(batch, SCHEMA))
                batch.clear()
        writer.write_table(pa.Table.from_pylist(batch, SCHEMA))
    table = pa.Table.from_pylist(examples, _EXAMPLE)
    pq.write_table(table, folder / "examples.parquet", compression="zstd")
    return counts


def _describe(row: Row, duplicate: Duplicate, blocks: Blocks, heldout: pa.Table) -> dict[str, Any]:
    dataset = None
    if duplicate.original < 0:
        original = heldout.slice(-1 - duplicate.original, 1).to_pylist()[0]
        key, dataset = original["key"], original["dataset"]
    else:
        key = blocks.at(duplicate.original, "key")
    name = f"{key} of dataset {dataset}" if dataset else key
    near = f"{name} (perceptual hashes differ in {duplicate.distance} bits)"
    detail = {
        Reason.MALFORMED_ROW: f"key {row.values['key']} repeats that of an earlier row",
        Reason.DUPLICATE: f"the image file equals that of {name}",
        Reason.NEAR_DUPLICATE: f"the image looks like that of {near}",
        Reason.CONTAMINATION: f"the image looks like evaluation image {near}",
    }[duplicate.reason]
    return {
        "reason": str(duplicate.reason),
        "detail": detail,
        "of": key,
        "of_dataset": dataset,
        "distance": duplicate.distance,
    }
