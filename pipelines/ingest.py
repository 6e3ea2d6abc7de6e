"""ingest@DATASET: make the records of a data set and write them as shards with an index.

Rows are prepared in blocks, compared with each other, and written as shards; a killed run goes on
at the first block or shard that is missing.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import shutil
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import albef.builtin
import albef.data
import albef.ingest
from albef.data.record import Record
from albef.data.refusal import Reason
from albef.data.shards import ShardError
from albef.data.store import Store
from albef.ingest.blocks import Blocks
from albef.ingest.config import IngestConfig, RowsConfig
from albef.ingest.duplicates import compare, read_heldout
from albef.ingest.pool import Given, portions, prepared
from albef.ingest.prepare import Rules
from albef.ingest.quarantine import write_quarantine
from albef.ingest.shard_writer import ShardWriter
from albef.ingest.sources import files_of, licences_of, read_rows
from albef.io import file_digest, write_json
from pipelines.rows import logged, read_config
from pipelines.stage import Stage, main

log = logging.getLogger("albef")
_ROWS, _BYTES = 1000, 2**25
"""A block is closed with so many rows, or with so many bytes of pictures as they came."""


def run(stage: Stage) -> None:
    """Make a data set from its sources."""
    config = read_config(stage)
    limits = stage.section("ingest", IngestConfig)
    paths = [stage.layout.heldout(name) for name in limits.heldout] if config.screened else []
    rules = Rules(limits, config.longest_side, min_scores=config.min_scores)
    with stage.scratch(_fingerprint(stage, config, limits, paths)) as work:
        data, quarantine = work / stage.key, work / "quarantine"
        blocks = _read(work / "blocks", data, stage, config, rules)
        heldout = read_heldout(paths)
        dropped, repeated = compare(blocks, config, limits.near_distance, heldout)
        reasons = write_quarantine(quarantine, blocks, dropped, repeated, heldout, limits)
        rows, kept = blocks.starts[-1], blocks.starts[-1] - reasons.total()
        cut = _rows_of_cut_shards(quarantine) if reasons else 0
        if kept - cut < limits.min_yield * rows:
            _place(quarantine, stage.layout.quarantine(stage.key), shutil.copytree)
            raise ShardError(_too_few(stage, rows, cut, reasons, limits.min_yield))
        described = _write(data, blocks, dropped, config, stage)
        _check_counts(described, quarantine, rows)
        _place(quarantine, stage.layout.quarantine(stage.key), shutil.copytree)
        _place(data, stage.layout.data(stage.key), shutil.move)
        shutil.rmtree(work)
    stage.made(stage.layout.data(stage.key) / "dataset.json")
    stage.record["records"] = described["splits"]
    stage.record["set_aside"] = reasons.total()
    for split, count in described["splits"].items():
        log.info("%s: %d records", split, count)
    for (source, reason), count in sorted(reasons.items()):
        log.info("%s: %d rows set aside: %s", source, count, reason)
    totals = described["captions"], described["shards"], described["digest"][:16]
    log.info("%d captions, %d shards, digest %s", *totals)


def _fingerprint(
    stage: Stage, config: RowsConfig, limits: IngestConfig, heldout: Sequence[Path]
) -> str:
    """Of all that a data set's bytes depend on but the pictures that its sources point to."""
    named = [path for source in config.sources.values() for path in files_of(source).values()]
    packages = (albef.builtin, albef.data, albef.ingest)
    folders = (Path(package.__path__[0]) for package in packages)
    code = sorted(file for folder in folders for file in folder.rglob("*.py"))
    values = [
        stage.data_seed,
        _sources(config),
        _licences(config),
        config.model_dump(mode="json", exclude={"sources"}),
        limits.model_dump(mode="json", exclude={"min_yield"}),
        [file_digest(path) for path in (*named, *heldout, *code)],
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _sources(config: RowsConfig) -> list[dict[str, Any]]:
    """The values of all sources, in order, with their names."""
    return [
        {"name": name, **source.model_dump(mode="json", exclude={"licences"})}
        for name, source in config.sources.items()
    ]


def _licences(config: RowsConfig) -> list[Mapping[str, str]]:
    """The licences of all sources, each once."""
    every = [licence for source in config.sources.values() for licence in licences_of(source)]
    return [licence for i, licence in enumerate(every) if licence not in every[:i]]


def _read(folder: Path, data: Path, stage: Stage, config: RowsConfig, rules: Rules) -> Blocks:
    """All rows in blocks, prepared; those that are there already are not prepared again."""
    blocks = Blocks(folder)
    done = folder / "all.json"
    if not data.exists() and not all(map(blocks.has_images, range(len(blocks)))):
        blocks.cut(0)  # they went into shards that are gone
        done.unlink(missing_ok=True)
    if done.exists():
        return blocks
    shutil.rmtree(folder.with_name("quarantine"), ignore_errors=True)  # of other rows
    cuts: deque[tuple[int, str]] = deque()

    def missing() -> Iterator[Given]:
        number = -1
        seed, scratch, off = stage.data_seed, stage.scratch_root, config.split_off
        rows = logged(read_rows(stage.key, config.sources, seed, scratch, split_off=off))
        for number, batch in enumerate(portions(rows, _ROWS, _BYTES)):
            digest = _digest(batch)
            if number < len(blocks):
                if blocks.digest(number) == digest:
                    continue
                log.info("a source has changed since row %d was read", blocks.starts[number] + 1)
                blocks.cut(number)
            cuts.append((len(batch), digest))
            yield from batch
        if number + 1 < len(blocks):
            blocks.cut(number + 1)

    made = prepared(missing(), rules, stage.runtime.workers)
    for first in made:
        count, digest = cuts.popleft()
        blocks.write([first, *itertools.islice(made, count - 1)], digest)
    write_json(done, {"rows": blocks.starts[-1]})
    return blocks


def _digest(rows: Iterable[Given]) -> str:
    """SHA-256 of all that rows hold."""
    digest = hashlib.sha256()
    for line, row in rows:
        if isinstance(row, Record):
            for image in row.images:
                digest.update(len(image).to_bytes(8, "big") + image)
            row = dataclasses.replace(row, image=b"", more=())
        digest.update(repr((line, row)).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _write(
    folder: Path, blocks: Blocks, dropped: Container[int], config: RowsConfig, stage: Stage
) -> dict[str, Any]:
    """The shards and their index, from the first shard on that is not there yet."""
    spent: deque[tuple[int, int]] = deque()  # blocks, with the shard that their last record is in
    store = Store(config.store) if config.store else None
    with ShardWriter(folder, stage.key, config.shard_mb, store) as writer:
        skipped = writer.finished
        for block in range(len(blocks)) if not writer.complete else ():
            kept = sum(not row.refusal and row.number not in dropped for row in blocks.rows(block))
            if skipped >= kept:
                skipped -= kept
                continue
            for row, record in blocks.records(block):
                if record is None or row.number in dropped:
                    continue
                if skipped:
                    skipped -= 1
                    continue
                writer.add(record)
            spent.append((block, writer.shards))
            while spent and spent[0][1] < writer.shards:
                blocks.drop_images(spent.popleft()[0])
        sources = _sources(config)
        for values, source in zip(sources, config.sources.values(), strict=True):
            inputs = {name: file_digest(path) for name, path in files_of(source).items()}
            values |= {"seed": stage.data_seed, "inputs": inputs}
        return writer.finish(_licences(config), sources)


def _check_counts(described: Mapping[str, Any], quarantine: Path, rows: int) -> None:
    """Every row of the sources is in one place."""
    kept = sum(described["splits"].values())
    set_aside = pq.read_metadata(quarantine / "quarantine.parquet").num_rows
    if kept + set_aside != rows:
        raise ShardError(
            f"the sources gave {rows} rows, but {kept} are in shards and {set_aside} in the "
            "quarantine: this is an error of the program; please report it"
        )


def _rows_of_cut_shards(quarantine: Path) -> int:
    """Rows before the ends of shards that were cut: as many more may be lost of each."""
    rows = pq.read_table(
        quarantine / "quarantine.parquet", filters=[("reason", "==", Reason.CUT_SHARD)]
    )
    lines: list[int] = rows["line"].to_pylist()
    return sum(lines) - len(lines)


def _too_few(
    stage: Stage, rows: int, cut: int, reasons: Counter[tuple[str, str]], least: float
) -> str:
    why: Counter[str] = Counter()
    for (_, reason), count in reasons.items():
        why[reason] += count
    kept = rows - reasons.total()
    listed = ", ".join(f"{count} {reason}" for reason, count in why.most_common(5))
    path = stage.layout.quarantine(stage.key) / "quarantine.parquet"
    without = f" without the {cut} of shards that were cut" if cut else ""
    return (
        f"of {rows} rows {kept - cut} are left{without} ({100 * (kept - cut) / rows:.3g} %), less "
        f"than ingest.min_yield {least:g} asks for; set aside were {listed}: see {path}, mend the "
        "source or lower ingest.min_yield"
    )


def _place(part: Path, target: Path, put: Callable[[Path, Path], object]) -> None:
    """Put a finished folder in its place, from whatever file system; nothing half is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(target.name + ".part")
    for old in (beside, target):
        shutil.rmtree(old, ignore_errors=True)
    put(part, beside)
    beside.rename(target)


if __name__ == "__main__":
    main(run)
