"""ingest@DATASET: make the records of a data set and write them as shards with an index.

Rows are prepared in blocks, compared with each other, and written as shards; a killed run goes on
at the first block or shard that is missing.
"""

import itertools
import logging
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import albef.builtin
import albef.data
import albef.ingest
from albef.data.shards import ShardError
from albef.data.store import Store
from albef.ingest.blocks import Blocks
from albef.ingest.config import IngestConfig, RowsConfig
from albef.ingest.duplicates import Twin
from albef.ingest.pool import Given, portions, prepared
from albef.ingest.prepare import Rules
from albef.ingest.shard_writer import ShardWriter
from albef.ingest.sources import files_of, licences_of
from albef.io import file_digest
from pipelines.quarantine import compared, names_of, set_aside
from pipelines.rows import digest_of, logged, read_config, read_rows, sha
from pipelines.stage import Stage, main, write_json
from pipelines.workdir_lock import alone

log = logging.getLogger("albef")
_ROWS, _BYTES = 1000, 2**25
"""A block is closed with so many rows, or with so many bytes of pictures as they came."""


def run(stage: Stage) -> None:
    """Make a data set from its sources."""
    config = read_config(stage)
    limits = stage.section("ingest", IngestConfig)
    heldout = [stage.layout.heldout(name) for name in limits.heldout] if config.screened else []
    with alone(stage.scratch(_fingerprint(stage, config, limits, heldout))) as work:
        data, quarantine = work / stage.key, work / "quarantine"
        blocks = _filled(work / "blocks", data, stage, Rules(limits, config.longest_side))
        twins, groups = compared(blocks, config, limits.near_distance, heldout)
        reasons = set_aside(quarantine, blocks, twins, groups, names_of(heldout), limits)
        if blocks.starts[-1] - reasons.total() < limits.min_yield * blocks.starts[-1]:
            _place(quarantine, stage.layout.quarantine(stage.key), shutil.copytree)
            raise ShardError(_too_few(stage, blocks.starts[-1], reasons, limits.min_yield))
        described = _written(data, blocks, twins, config, stage)
        _account(described, quarantine, blocks.starts[-1])
        _place(quarantine, stage.layout.quarantine(stage.key), shutil.copytree)
        _place(data, stage.layout.data(stage.key), shutil.move)
        shutil.rmtree(work)
    stage.made(stage.layout.data(stage.key) / "dataset.json")
    _tell(stage, described, reasons)


def _fingerprint(
    stage: Stage, config: RowsConfig, limits: IngestConfig, heldout: Sequence[Path]
) -> str:
    """Of all that a data set's bytes depend on but the pictures that its sources point to."""
    named = [path for own in config.sources.values() for path in files_of(own).values()]
    packages = (albef.builtin, albef.data, albef.ingest)
    code = sorted(file for own in packages for file in Path(own.__path__[0]).rglob("*.py"))
    return sha(
        [
            stage.data_seed,
            _sources(config),
            _licences(config),
            config.model_dump(mode="json", exclude={"sources"}),
            limits.model_dump(mode="json", exclude={"min_yield"}),
            [file_digest(path) for path in (*named, *heldout, *code)],
        ]
    )


def _sources(config: RowsConfig) -> list[dict[str, Any]]:
    """The values of all sources, in order, with their names."""
    return [
        {"name": name, **own.model_dump(mode="json", exclude={"licences"})}
        for name, own in config.sources.items()
    ]


def _told(config: RowsConfig, seed: int) -> list[dict[str, Any]]:
    """What a data set says of its sources: their values, the seed, digests of the files read."""
    told = _sources(config)
    for values, own in zip(told, config.sources.values(), strict=True):
        inputs = {name: file_digest(path) for name, path in files_of(own).items()}
        values |= {"seed": seed, "inputs": inputs}
    return told


def _filled(folder: Path, data: Path, stage: Stage, rules: Rules) -> Blocks:
    """All rows in blocks, prepared; those that are there already are not prepared again."""
    config = read_config(stage)
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
        rows = logged(read_rows(config.sources, stage))
        for number, batch in enumerate(portions(rows, _ROWS, _BYTES)):
            digest = digest_of(batch)
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


def _written(
    folder: Path, blocks: Blocks, twins: Mapping[int, Twin], config: RowsConfig, stage: Stage
) -> dict[str, Any]:
    """The shards and their index, from the first shard on that is not there yet."""
    spent: deque[tuple[int, int]] = deque()  # blocks, with the shard that their last record is in
    store = Store(config.store) if config.store else None
    with ShardWriter(folder, stage.key, config.shard_mb, store) as writer:
        skipped = writer.finished
        for block in range(len(blocks)) if not writer.complete else ():
            kept = [r.number for r in blocks.rows(block) if not r.refusal and r.number not in twins]
            if skipped >= len(kept):
                skipped -= len(kept)
                continue
            for row, stored in blocks.stored(block):
                if stored is None or row.number in twins:
                    continue
                if skipped:
                    skipped -= 1
                    continue
                writer.add(stored.record())
            spent.append((block, writer.shards))
            while spent and spent[0][1] < writer.shards:
                blocks.drop_images(spent.popleft()[0])
        return writer.finish(_licences(config), _told(config, stage.data_seed))


def _account(described: Mapping[str, Any], quarantine: Path, rows: int) -> None:
    """Hold that every row of the sources is in one place."""
    kept = sum(described["splits"].values())
    aside = pq.read_metadata(quarantine / "quarantine.parquet").num_rows
    if kept + aside != rows:
        raise ShardError(
            f"the sources gave {rows} rows, but {kept} are in shards and {aside} in the "
            "quarantine: this is an error of the program; please report it"
        )


def _too_few(stage: Stage, rows: int, reasons: Counter[tuple[str, str]], least: float) -> str:
    why: Counter[str] = Counter()
    for (_, reason), count in reasons.items():
        why[reason] += count
    kept = rows - reasons.total()
    listed = ", ".join(f"{count} {reason}" for reason, count in why.most_common(5))
    path = stage.layout.quarantine(stage.key) / "quarantine.parquet"
    return (
        f"of {rows} rows {kept} are left ({100 * kept / rows:.3g} %), less than ingest.min_yield "
        f"{least:g} asks for; set aside were {listed}: see {path}, mend the source or lower "
        "ingest.min_yield"
    )


def _tell(stage: Stage, described: Mapping[str, Any], reasons: Counter[tuple[str, str]]) -> None:
    for split, count in described["splits"].items():
        log.info("%s: %d records", split, count)
    for (source, reason), count in sorted(reasons.items()):
        log.info("%s: %d rows set aside: %s", source, count, reason)
    log.info(
        "%d captions, %d shards, digest %s",
        described["captions"],
        described["shards"],
        described["digest"][:16],
    )
    stage.record["records"] = described["splits"]
    stage.record["set_aside"] = reasons.total()


def _licences(config: RowsConfig) -> list[Mapping[str, str]]:
    """The licences of all sources, each once."""
    every = [licence for source in config.sources.values() for licence in licences_of(source)]
    return [licence for i, licence in enumerate(every) if licence not in every[:i]]


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
