"""What becomes of prepared rows beside each other: which are dropped, and what is told of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from albef.data.refusal import Reason, Refusal
from albef.ingest import duplicates
from albef.ingest.blocks import Blocks, Row
from albef.ingest.config import IngestConfig, RowsConfig
from albef.ingest.duplicates import Twin
from albef.ingest.prepare import thumbnail
from albef.ingest.quarantine import Quarantine
from pipelines.stage import read_json, write_json

SUMMARY = "summary.json"


def compared(
    blocks: Blocks, config: RowsConfig, distance: int | None, heldout: Sequence[Path]
) -> tuple[dict[int, Twin], list[Twin]]:
    """The rows that are dropped for another one, by number; and all repeated ones, in order."""
    twins = {twin.row: twin for twin in duplicates.repeated_keys(blocks)}
    own = duplicates.prints(blocks)
    if config.screened:
        tests = pa.concat_tables([duplicates.HELDOUT.empty_table(), *map(pq.read_table, heldout)])
        for twin in duplicates.contaminated(own, tests, distance, blocks):
            twins.setdefault(twin.row, twin)
    repeated = list(duplicates.repeated(own, set(twins), distance, blocks))
    dropped = {
        "keep": (),
        "drop_exact": (Reason.DUPLICATE,),
        "drop_near": (Reason.DUPLICATE, Reason.NEAR_DUPLICATE),
    }[config.duplicates]
    twins |= {twin.row: twin for twin in repeated if twin.reason in dropped}
    return twins, repeated


def names_of(heldout: Sequence[Path]) -> pa.Table:
    """Data set and key of each held-out picture."""
    tables = [pq.read_table(path, columns=["dataset", "key"]) for path in heldout]
    return pa.concat_tables(tables) if tables else pa.table({"dataset": [], "key": []})


def set_aside(
    folder: Path,
    blocks: Blocks,
    twins: Mapping[int, Twin],
    groups: Sequence[Twin],
    names: pa.Table,
    limits: IngestConfig,
) -> Counter[tuple[str, str]]:
    """Write the quarantine and what is repeated; what is written already stays.

    Args:
        folder: of the quarantine.
        blocks: all rows.
        twins, groups: see :func:`compared`.
        names: see :func:`names_of`.
        limits: of pictures that are shown.

    Returns:
        How many rows by source and reason.
    """
    summary = read_json(folder / SUMMARY)  # written last
    if summary is not None:
        counts = {
            (name, why): n for name, own in summary.items() for why, n in own["set_aside"].items()
        }
        return Counter(counts)
    rows: Counter[str] = Counter()
    with Quarantine(folder) as quarantine:
        for row in (row for block in range(len(blocks)) for row in blocks.rows(block)):
            rows[row.values["source"]] += 1
            twin = twins.get(row.number)
            if row.refusal is not None:
                quarantine.add(row.refusal)
            elif twin is not None:
                _drop(row, twin, blocks, names, limits, quarantine)
    _write_groups(folder / "duplicates.parquet", twins, groups, blocks)
    reasons = quarantine.reasons
    write_json(
        folder / SUMMARY,
        {
            name: {
                "rows": count,
                "kept": count - sum(n for (own, _), n in reasons.items() if own == name),
                "set_aside": {why: n for (own, why), n in reasons.items() if own == name},
            }
            for name, count in rows.items()
        },
    )
    return reasons


def _write_groups(
    path: Path, twins: Mapping[int, Twin], groups: Sequence[Twin], blocks: Blocks
) -> None:
    repeated = {
        "key": [blocks.at(twin.row, "key") for twin in groups],
        "of": [blocks.at(twin.other, "key") for twin in groups],
        "kind": ["exact" if twin.reason == Reason.DUPLICATE else "near" for twin in groups],
        "distance": [twin.distance for twin in groups],
        "dropped": [twin.row in twins for twin in groups],
    }
    pq.write_table(pa.table(repeated, duplicates.GROUPS), path, compression="zstd")


def _drop(
    row: Row,
    twin: Twin,
    blocks: Blocks,
    names: pa.Table,
    limits: IngestConfig,
    quarantine: Quarantine,
) -> None:
    """Set a row aside for another one."""
    values, dataset = row.values, None
    if twin.other < 0:
        place = -1 - twin.other
        of, dataset = names["key"][place].as_py(), names["dataset"][place].as_py()
        other = f"{of} of the data set {dataset}"
    else:
        of = other = blocks.at(twin.other, "key")
    said = {
        Reason.MALFORMED_ROW: f"its key {values['key']} is that of an earlier row",
        Reason.DUPLICATE: f"its picture is that of {other}",
        Reason.NEAR_DUPLICATE: f"its picture looks like that of {other}",
        Reason.CONTAMINATION: f"its picture looks like that of {other}, which is evaluated on",
    }[twin.reason]
    if twin.reason in (Reason.NEAR_DUPLICATE, Reason.CONTAMINATION):
        said += f" ({twin.distance} bits apart)"
    quarantine.add(
        Refusal(values["source"], values["line"], values["name"], twin.reason, said),
        lambda: {
            "captions": values["captions"],
            "picture": thumbnail(blocks.image(row.number), limits) or None,
            "of": of,
            "of_dataset": dataset,
            "distance": twin.distance,
        },
    )
