"""curate@VIEW: keep the captions of a data set that a model finds to fit, or add those that one
writes, as a view of it."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from albef.curation import (
    SCORES,
    SPLIT,
    WRITTEN,
    CurateConfig,
    adding,
    choose,
    keeping,
    precision_and_recall,
    score,
    write_captions,
    write_scores,
    write_view,
)
from albef.data.refusal import Reason
from albef.data.shards import Shards, describe, read_index
from albef.distributed import world
from albef.io import atomic
from albef.loading.reading import Part
from albef.models.kernels import evaluating
from albef.models.weights import Checkpoint, load_checkpoint
from pipelines.launch import launch, sharing
from pipelines.stage import Stage, first, main, verified_digest, write_json

_AT_ONCE = 20_000  # records that are worked on before what came of them is kept
log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Score the captions of a data set's training split, or write one more of each record; make the
    view, which is as valid as the data set, and beside it what became of each caption."""
    config = stage.section(f"curate.{stage.key}", CurateConfig)
    digest = verified_digest(stage, config.dataset)
    base, checkpoint = stage.layout.data(config.dataset), load_checkpoint(Path(config.by))
    if config.chooses == (checkpoint.kind == "captioning"):
        raise ValueError(
            f"curate.{stage.key}: {config.by} is of kind {checkpoint.kind}: one that scores "
            "captions asks for keep or threshold, one of kind captioning, which writes them, for "
            "neither"
        )
    made_of = " ".join([digest, checkpoint.digest, stage.code])
    with (
        sharing(stage) as device,
        stage.scratch(hashlib.sha256(made_of.encode()).hexdigest()) as folder,
    ):
        made = _apply(stage, checkpoint, base, folder, device)
    if not first():
        return
    view, beside = stage.layout.data(stage.key), stage.layout.quarantine(stage.key)
    about = {"by": config.by, "weights": checkpoint.digest}
    verdict = stage.layout.verdict(stage.key)
    if config.chooses:
        kept = choose(made[config.score].to_numpy(), config)
        described = write_view(view, base, keeping(kept), about | {"score": config.score})
        write_scores(beside / "scores.parquet", base, made, kept)
        _write_precision(stage, made[config.score].to_numpy(), kept, beside)
    else:
        described = write_view(view, base, adding(made["written"].to_pylist()), about)
        beside.mkdir(parents=True, exist_ok=True)
        before = describe(base)["captions"]
        log.info("%s: %d captions added to %d", stage.key, described["captions"] - before, before)
    write_json(verdict, {"dataset": stage.key, "digest": described["digest"]})
    write_json(beside / "summary.json", _summary(base, view))
    stage.made(view / "dataset.json", verdict, beside / "summary.json")


def _write_precision(
    stage: Stage, scores: NDArray[np.float32], kept: NDArray[np.bool_], beside: Path
) -> None:
    """Write and log how well captions are found that are known to be wrong."""
    noise = pq.read_table(beside / "scores.parquet", columns=["noise"])["noise"].to_pylist()
    found = precision_and_recall(scores, kept, noise)
    write_json(beside / "curation.json", {"below": float(scores[kept].min()), **found})
    stage.record["kept"] = int(kept.sum())
    log.info("%s: %d of %d captions stay", stage.key, kept.sum(), len(kept))
    if found.get("found"):
        words = ", ".join(f"{name} {value:.1f} %" for name, value in found["found"].items())
        log.info("of %d captions that are known to be wrong: %s", found["captions"], words)


def _apply(
    stage: Stage, checkpoint: Checkpoint, base: Path, folder: Path, device: torch.device
) -> pa.Table:
    """What the checkpoint makes of all records, some after the other: what is there stays."""
    writes = checkpoint.kind == "captioning"
    make, schema = (write_captions, WRITTEN) if writes else (score, SCORES)
    records, parts = Shards(base, SPLIT), list[pa.Table]()
    for start in range(0, len(records), _AT_ONCE):
        some = Part(records, start, start + _AT_ONCE)
        path = folder / f"part-{start:012}.parquet"
        if not world().broadcast(path.exists):
            with evaluating("auto", device):
                table = make(checkpoint, some, device, stage.runtime.workers)
            if first():
                with atomic(path) as part:
                    pq.write_table(table, part)
            log.info("%s: %d of %d records", stage.address, start + len(some), len(records))
            stage.tally()
        parts += [pq.read_table(path)] if first() else []
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _summary(base: Path, view: Path) -> dict[str, object]:
    """Rows, kept, and set aside of each source, as the quarantine of a data set has them."""
    rows, kept = (
        {it["values"]: it["counts"] for it in pc.value_counts(index["source"]).to_pylist()}
        for index in (read_index(folder, columns=["source"]) for folder in (base, view))
    )
    gone = {source: count - kept.get(source, 0) for source, count in rows.items()}
    return {
        source: {
            "rows": count,
            "kept": count - gone[source],
            "set_aside": {Reason.LOW_SCORE: gone[source]} if gone[source] else {},
        }
        for source, count in rows.items()
    }


if __name__ == "__main__":
    main(run, launch)
