"""Curation of a filtered dataset: scores, and rejected and kept captions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.io import read_json
from albef.layout import Layout
from albef.report.figures import Chart, Histogram
from albef.report.thumbnails import SplitRecords, Thumbnail, sample


@dataclass(frozen=True)
class Curation:
    """Result of curating the captions of a training split."""

    facts: Mapping[str, Any]
    """Model, score and threshold, by label."""
    charts: Sequence[Chart] = ()
    examples: Sequence[tuple[str, Sequence[Thumbnail]]] = ()
    """Titles, each with captions in the order of their scores, which they begin with."""


def read(layout: Layout, name: str, described: Mapping[str, Any], count: int) -> Curation:
    """Return the curation of a filtered dataset, with ``count`` examples per group."""
    curated, quarantine = described["curated"], layout.quarantine(name)
    summary = read_json(quarantine / "curation.json") or {}
    facts = {
        "filtered from": curated["of"],
        "scored by": curated["by"],
        "weights": curated["weights"][:12],
        "score": curated["score"],
    }
    if not (quarantine / "scores.parquet").is_file():
        return Curation(facts)
    table = pq.read_table(quarantine / "scores.parquet")
    facts |= {"threshold": summary["below"]}
    return Curation(
        facts,
        list(_charts(table, curated["score"])),
        list(_examples(layout.data(curated["of"]), table, curated["score"], count)),
    )


def _charts(table: pa.Table, score: str) -> Iterator[Chart]:
    kinds = pc.unique(table["noise"]).to_pylist()
    for kind in sorted(kinds):
        scores = table.filter(pc.equal(table["noise"], kind))[score].to_numpy().astype(float)
        counts, edges = np.histogram(scores, 24)
        subject = f"{kind} captions (added noise)" if kind else "captions"
        title = f"{score.upper()} of {len(scores):,} {subject}"
        shares = {score.upper(): (counts / len(scores)).tolist()}
        bins = Histogram(edges.tolist(), shares)
        yield Chart(title, f"median {np.median(scores):.3g}", (), score, histogram=bins)


def _examples(
    base: Path, table: pa.Table, score: str, count: int
) -> Iterator[tuple[str, Sequence[Thumbnail]]]:
    if not (base / "index.parquet").is_file():
        return
    records = SplitRecords(base, "train")
    order, is_kept = np.argsort(table[score].to_numpy(), kind="stable"), table["kept"].to_numpy()
    for title, rows in (("Rejected", order[~is_kept[order]]), ("Kept", order[is_kept[order]])):
        chosen = table.take(sample(rows.tolist(), count)).to_pylist()
        captions = [f"{score} {row[score]:.3f}: {row['caption']}" for row in chosen]
        found = [records.thumbnail(row["key"]) for row in chosen]
        pairs = zip(captions, found, strict=True)
        yield title, [replace(it, captions=(text,), originals=()) for text, it in pairs if it]
    records.close()
