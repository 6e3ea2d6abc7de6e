"""``albef data check SOURCE``: what ingest would do with the first rows of a source, done in a
folder that is thrown away.
"""

import io
import itertools
import json
import logging
import math
import os
import sys
import tempfile
import textwrap
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from ruamel.yaml import YAML

from albef.config import ParamsError, nearest, validate
from albef.ingest import shard_writer
from albef.ingest.blocks import Blocks
from albef.ingest.config import IngestConfig, RowsConfig
from albef.ingest.derive import derive
from albef.ingest.duplicates import compare, read_heldout
from albef.ingest.pool import prepared
from albef.ingest.prepare import Rules
from albef.ingest.quarantine import SUMMARY, write_quarantine
from albef.ingest.sources import count_of, read_rows
from pipelines.rows import read_config
from pipelines.stage import PARAMS, Stage, read_json

STOPS = 1
"""Exit code where ingest would stop."""
_BLOCK = 200  # rows
_MIB = 2**20
_SUGGESTED = {"longest_side": 512, "duplicates": "drop_near", "screened": True}
"""Values of a data set for a path that params.yaml does not name yet."""
Result = Mapping[str, Any]


def main(source: str, rows: int = 200, as_json: bool = False, here: Path = Path()) -> int:
    """Print what ingest would do; exit code 1 where it would stop."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    result = check(source, rows, here)
    print(json.dumps(result, indent=2, ensure_ascii=False) if as_json else render(result))
    return STOPS if result["stops"] else 0


def check(source: str, most: int, here: Path = Path()) -> dict[str, Any]:
    """Do what ingest does with the first rows.

    Args:
        source: a data set, a source of it, or a path, relative to ``here``.

    Returns:
        What :func:`render` puts in words; all of it is JSON.

    Raises:
        ParamsError: there is no such source, or it cannot be read as a whole.
    """
    if most < 1:
        raise ParamsError(f"--rows {most}: at least one row")
    stage, config, suggested = _choose(source, _path(here / source))
    limits = stage.section("ingest", IngestConfig)
    heldout = [stage.layout.heldout(name) for name in limits.heldout] if config.screened else []
    there = [path for path in heldout if path.is_file()]
    with tempfile.TemporaryDirectory(prefix="albef-check-") as name:
        folder = Path(name)
        blocks = Blocks(folder / "blocks")
        rules = Rules(limits, config.longest_side)
        rows = read_rows(stage.key, config.sources, stage.data_seed, stage.scratch_root, most)
        made = prepared(rows, rules, stage.runtime.workers)
        while block := list(itertools.islice(made, _BLOCK)):
            blocks.write(block, "")
        count = blocks.starts[-1]
        if not count:
            raise ParamsError(f"{source} has no row")
        others = read_heldout(there)
        dropped, repeated = compare(blocks, config, limits.near_distance, others)
        reasons = write_quarantine(folder, blocks, dropped, repeated, others, limits)
        sources = _sources(folder, blocks, dropped, config, most)
    kept = count - reasons.total()
    result = {
        "source": source,
        "rows": count,
        "kept": kept,
        "sources": sources,
        "repeated": {
            "exact": sum(picture.reason == "duplicate" for picture in repeated),
            "near": sum(picture.reason == "near_duplicate" for picture in repeated),
            "dropped": sum(picture.row in dropped for picture in repeated),
            "rule": config.duplicates,
        },
        "stored": {
            name: sum(source[name] for source in sources.values())
            for name in ("picture_bytes", "shard_bytes")
        },
        "whole": _whole(sources, config.shard_mb),
        "min_yield": limits.min_yield,
        "stops": kept < limits.min_yield * count or not kept,
        "not_compared": [str(path) for path in heldout if path not in there],
    }
    return {**result, "suggested": suggested} if suggested else result


def _choose(source: str, path: Path) -> tuple[Stage, RowsConfig, Mapping[str, Any] | None]:
    """The stage that would ingest, its values, and a section for what params.yaml does not name."""
    dataset, _, part = source.partition(".")
    stage = Stage("ingest", dataset)
    known = stage.params.get("datasets") or {}
    if dataset in known and (not path.exists() or not part):
        config = read_config(stage)
        if part and part not in config.sources:
            hint = _hint(part, config.sources, f"{dataset}.", "it has")
            raise ParamsError(f"{PARAMS}: data set {dataset} has no source {part!r}; {hint}")
        chosen = {part: config.sources[part]} if part else config.sources
        return stage, config.model_copy(update={"sources": chosen}), None
    if not path.exists():
        hint = _hint(source, known, "", "its data sets are")
        raise ParamsError(f"there is no path {path}, and no {source} in {PARAMS}; {hint}")
    name = "".join(c if c.isalnum() else "_" for c in path.stem.lower()).strip("_") or "mine"
    section = {"sources": {name: derive(path)}, **_SUGGESTED}
    return Stage("ingest", name), validate(RowsConfig, section, where=str(path)), {name: section}


def _path(source: Path) -> Path:
    """A path, from the root where it lies below it."""
    path = Path(os.path.abspath(source))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _hint(name: str, known: Mapping[str, Any], prefix: str, listed: str) -> str:
    near = nearest(name, list(known))
    return f"did you mean {prefix}{near}?" if near else f"{listed} {', '.join(known)}"


def _sources(
    folder: Path, blocks: Blocks, dropped: Container[int], config: RowsConfig, most: int
) -> dict[str, dict[str, Any]]:
    """Of each source what was read, kept, stored, and set aside with its first example."""
    summary = read_json(folder / SUMMARY)
    examples = pq.read_table(folder / "examples.parquet").to_pylist()
    sources = {}
    for name, source in config.sources.items():
        counts = summary.get(name, {"rows": 0, "kept": 0, "set_aside": {}})
        first = {row["reason"]: row for row in reversed(examples) if row["source"] == name}
        sources[name] = {
            "kind": source.model_dump()["kind"],
            "rows": counts["rows"],
            "total": count_of(source) if counts["rows"] == most else counts["rows"],
            "kept": counts["kept"],
            "picture_bytes": 0,
            "shard_bytes": 0,
            "set_aside": {
                reason: {"count": n, **{k: first[reason][k] for k in ("line", "key", "detail")}}
                for reason, n in sorted(counts["set_aside"].items(), key=lambda pair: -pair[1])
            },
        }
    for row, record in (pair for block in range(len(blocks)) for pair in blocks.records(block)):
        if record is not None and row.number not in dropped:
            sources[record.source]["picture_bytes"] += sum(map(len, record.images))
            sources[record.source]["shard_bytes"] += shard_writer.room(record)
    return sources


def _whole(sources: Mapping[str, Result], shard_mb: int) -> dict[str, int] | None:
    """What the whole would come to, where the rows of each source are as its first ones."""
    if any(source["total"] is None for source in sources.values()):
        return None

    def scaled(name: str) -> int:
        some = (source for source in sources.values() if source["rows"])
        return round(math.fsum(source[name] * source["total"] / source["rows"] for source in some))

    size = scaled("shard_bytes")
    return {
        "rows": sum(source["total"] for source in sources.values()),
        "kept": scaled("kept"),
        "shard_bytes": size,
        "shards": math.ceil(size / (shard_mb * _MIB)),
    }


def render(result: Result) -> str:
    """The result in words."""
    return "\n".join(_lines(result))


def _lines(result: Result) -> Iterator[str]:
    for name, source in result["sources"].items():
        rows, total, kept = source["rows"], source["total"], source["kept"]
        which = "all" if total == rows else "the first"
        of = f" of about {total:,}" if total not in (None, rows) else ""
        yield f"{name} ({source['kind']}): {which} {rows:,} rows{of}"
        yield f"  kept {kept:,} ({_percent(kept, rows)})"
        for reason, why in source["set_aside"].items():
            yield f"  set aside {why['count']:,} ({_percent(why['count'], rows)}): {reason}"
            key = f", {_short(why['key'])}" if why["key"] else ""
            yield f"    first: row {why['line']}{key}: {_short(why['detail'])}"
    repeated, whole, kept = result["repeated"], result["whole"], result["kept"]
    if repeated["exact"] or repeated["near"]:
        yield (
            f"repeated: {repeated['exact']:,} equal pictures, {repeated['near']:,} that look "
            f"alike; duplicates: {repeated['rule']} drops {repeated['dropped']:,} of them"
        )
    if kept:
        mean = result["stored"]["picture_bytes"] / kept / 1024
        yield f"stored: {mean:.1f} KiB of pictures a record"
    if whole:
        yield (
            f"the whole, if it is like this: about {whole['kept']:,} records, "
            f"{whole['shard_bytes'] / _MIB:,.1f} MiB in {whole['shards']:,} "
            f"shard{'s' * (whole['shards'] > 1)}"
        )
    elif kept:
        yield "how many rows there are in all is not known before they are read"
    for path in result["not_compared"]:
        yield f"not compared with {path}, which is not made yet (albef run --only heldout)"
    yield (
        f"ingest would {'stop' if result['stops'] else 'go on'}: "
        f"{_percent(kept, result['rows'])} kept, ingest.min_yield is {result['min_yield']:g}"
    )
    if "suggested" in result:
        yield "\nTo take it, write under datasets in params.yaml:"
        yaml = YAML()
        yaml.default_flow_style = None  # what holds no mapping is one line
        yaml.width = sys.maxsize
        text = io.StringIO()
        yaml.dump(result["suggested"], text)
        if "user_agent:" in text.getvalue():
            yield "  # user_agent: say who asks and how to reach you"
        yield textwrap.indent(text.getvalue().rstrip(), "  ")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.3g} %"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."
