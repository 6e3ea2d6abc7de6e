"""``albef data check SOURCE``: what ingest would do with the first rows of a source, done in a
folder that is thrown away.
"""

import itertools
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from albef.config import ParamsError, Section, nearest, validate
from albef.ingest import shard_writer
from albef.ingest.blocks import Blocks
from albef.ingest.config import IngestConfig, RowsConfig
from albef.ingest.derive import derive
from albef.ingest.pool import prepared
from albef.ingest.prepare import Rules
from albef.ingest.sources import count_of
from pipelines.check_words import told
from pipelines.quarantine import SUMMARY, compared, names_of, set_aside
from pipelines.rows import batches, read_config, read_rows
from pipelines.stage import PARAMS, Stage, read_json

STOPS = 1
"""Exit code where ingest would stop."""
_BATCH, _BYTES = 200, 2**25
_MIB = 2**20
_SUGGESTED = {
    "shard_mb": 256, "store": None, "longest_side": 512, "duplicates": "drop_near",
    "screened": True,
}  # fmt: skip
_TRAINED = {
    "accepted": "profiles/none.json",
    "evaluated_on": "profiles/none.json",
    "augment": {"flip": True, "crop": [0.5, 1.0], "randaugment": 7},
    "window": None, "max_damaged_records": 0, "max_damaged_shards": 0,
}  # fmt: skip
"""Values of a data set for a path that params.yaml does not name yet: of ingest, and the others."""
log = logging.getLogger("albef")


def main(source: str, rows: int = 200, as_json: bool = False, here: Path = Path()) -> int:
    """Print what ingest would do; exit code 1 where it would stop.

    Args:
        source: as :func:`check` takes it.
        rows: of each source.
        as_json: print the result for machines.
        here: the folder that a path is relative to.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    result = check(source, rows, here)
    print(json.dumps(result, indent=2, ensure_ascii=False) if as_json else told(result))
    return STOPS if result["stops"] else 0


def check(source: str, most: int, here: Path = Path()) -> dict[str, Any]:
    """Do what ingest does with the first rows.

    Args:
        source: a data set, a source of it, or a path.
        most: rows of each source.
        here: the folder that a path is relative to.

    Returns:
        What :func:`told` puts in words; all of it is JSON.

    Raises:
        ParamsError: there is no such source, or it cannot be read as a whole.
    """
    if most < 1:
        raise ParamsError(f"--rows {most}: at least one row")
    stage, config, suggested = _chosen(source, _path(here / source))
    limits = stage.section("ingest", IngestConfig)
    heldout = [stage.layout.heldout(name) for name in limits.heldout] if config.screened else []
    there = [path for path in heldout if path.is_file()]
    with tempfile.TemporaryDirectory(prefix="albef-check-") as folder:
        blocks = _filled(Path(folder) / "blocks", stage, config, limits, most)
        twins, groups = compared(blocks, config, limits.near_distance, there)
        reasons = set_aside(Path(folder), blocks, twins, groups, names_of(there), limits)
        rows = blocks.starts[-1]
        if not rows:
            raise ParamsError(f"{source} has no row")
        kept = rows - reasons.total()
        stored = _stored(blocks, set(twins), config)
        sources = _sources(Path(folder), config, most)
    result = {
        "source": source,
        "rows": rows,
        "kept": kept,
        "sources": sources,
        "repeated": {
            "exact": sum(twin.reason == "duplicate" for twin in groups),
            "near": sum(twin.reason == "near_duplicate" for twin in groups),
            "dropped": sum(twin.row in twins for twin in groups),
            "rule": config.duplicates,
        },
        "stored": {
            "picture_bytes": sum(pictures for pictures, _ in stored.values()),
            "shard_bytes": sum(size for _, size in stored.values()),
        },
        "whole": _whole(sources, stored, config.shard_mb),
        "min_yield": limits.min_yield,
        "stops": kept < limits.min_yield * rows or not kept,
        "not_compared": [str(path) for path in heldout if path not in there],
    }
    return {**result, "suggested": suggested} if suggested else result


def _chosen(source: str, path: Path) -> tuple[Stage, RowsConfig, Mapping[str, Any] | None]:
    """The stage that would ingest, its values, and a section for what params.yaml does not name."""
    named = Stage("ingest", source.partition(".")[0])
    known = named.params.get("datasets")
    if isinstance(known, Mapping) and named.key in known and not path.exists():
        return named, _one_of(read_config(named), source), None
    if not path.exists():
        near = nearest(source, list(known or ()))
        hint = f"did you mean {near}?" if near else f"its data sets are {', '.join(known or ())}"
        raise ParamsError(f"there is no path {path}, and no {source} in {PARAMS}; {hint}")
    if isinstance(known, Mapping) and source in known:
        return named, read_config(named), None
    name = "".join(c if c.isalnum() else "_" for c in path.stem.lower()).strip("_") or "mine"
    section = {"sources": {name: derive(path)}, **_SUGGESTED}
    config = validate(RowsConfig, section, where=str(path))
    return Stage("ingest", name), config, {name: {**section, **_TRAINED}}


def _path(source: Path) -> Path:
    """A path, from the root where it lies below it."""
    path = Path(os.path.abspath(source))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _one_of(config: RowsConfig, source: str) -> RowsConfig:
    dataset, dot, name = source.partition(".")
    if not dot:
        return config
    if name not in config.sources:
        near = nearest(name, list(config.sources))
        hint = f"did you mean {dataset}.{near}?" if near else f"it has {', '.join(config.sources)}"
        raise ParamsError(f"{PARAMS}: data set {dataset} has no source {name!r}; {hint}")
    return config.model_copy(update={"sources": {name: config.sources[name]}})


def _filled(
    folder: Path, stage: Stage, config: RowsConfig, limits: IngestConfig, most: int
) -> Blocks:
    blocks = Blocks(folder)
    rows = read_rows(config.sources, stage, most)
    given = (own for batch, _ in batches(rows, _BATCH, _BYTES) for own in batch)
    made = prepared(given, Rules(limits, config.longest_side), stage.runtime.workers)
    while batch := list(itertools.islice(made, _BATCH)):
        blocks.write(batch, "")
    return blocks


def _stored(blocks: Blocks, dropped: set[int], config: RowsConfig) -> dict[str, tuple[int, int]]:
    """Bytes of the pictures that are kept of each source, and of their records in shards."""
    found = dict.fromkeys(config.sources, (0, 0))
    for block in range(len(blocks)):
        for row, stored in blocks.stored(block):
            if stored is not None and row.number not in dropped:
                pictures, shards = found[row.values["source"]]
                pictures += sum(map(len, stored.images))
                shards += shard_writer.room(stored.record())
                found[row.values["source"]] = pictures, shards
    return found


def _sources(folder: Path, config: RowsConfig, most: int) -> dict[str, Any]:
    """Of each source what was read, kept, and set aside with its first example."""
    summary = read_json(folder / SUMMARY)
    examples = pq.read_table(folder / "examples.parquet").to_pylist()
    found = {}
    for name, source in config.sources.items():
        own = summary.get(name, {"rows": 0, "kept": 0, "set_aside": {}})
        first = {row["reason"]: row for row in reversed(examples) if row["source"] == name}
        found[name] = {
            "kind": _kind(source),
            "rows": own["rows"],
            "total": count_of(source) if own["rows"] == most else own["rows"],
            "kept": own["kept"],
            "set_aside": {
                reason: {"count": n, **{k: first[reason][k] for k in ("line", "key", "detail")}}
                for reason, n in sorted(own["set_aside"].items(), key=lambda pair: -pair[1])
            },
        }
    return found


def _kind(source: Section) -> str:
    return str(getattr(source, "kind", ""))


def _whole(
    sources: Mapping[str, Any], stored: Mapping[str, tuple[int, int]], shard_mb: int
) -> dict[str, int] | None:
    """What the whole would come to, where the rows of each source are as its first ones."""
    if any(own["total"] is None for own in sources.values()):
        return None
    times = {name: own["total"] / own["rows"] for name, own in sources.items() if own["rows"]}
    size = round(sum(stored[name][1] * factor for name, factor in times.items()))
    return {
        "rows": sum(own["total"] for own in sources.values()),
        "kept": round(sum(sources[name]["kept"] * factor for name, factor in times.items())),
        "shard_bytes": size,
        "shards": math.ceil(size / (shard_mb * _MIB)),
    }
