"""curate@VIEW: keep the captions of a data set that a model finds to fit, as a view of it."""

import hashlib
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from albef.curation import (
    SCORES,
    SPLIT,
    CurateConfig,
    choose,
    precision_and_recall,
    score,
    write_scores,
    write_view,
)
from albef.data.refusal import Reason
from albef.data.shards import Shards, read_index
from albef.distributed import world
from albef.io import atomic
from albef.loading.reading import Part
from albef.models.kernels import evaluating
from albef.models.weights import Checkpoint, load_checkpoint
from pipelines.launch import launch, sharing
from pipelines.stage import Stage, first, main, verified_digest, write_json

_AT_ONCE = 20_000  # records that are scored before their scores are kept
log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Score the captions of a data set's training split, write the view of those that stay, which
    is as valid as the data set, and beside it what became of each caption."""
    config = stage.section(f"curate.{stage.key}", CurateConfig)
    digest = verified_digest(stage, config.dataset)
    base, checkpoint = stage.layout.data(config.dataset), load_checkpoint(Path(config.by))
    made_of = " ".join([digest, checkpoint.digest, stage.code])
    with (
        sharing(stage) as device,
        stage.scratch(hashlib.sha256(made_of.encode()).hexdigest()) as folder,
    ):
        scores = _score(stage, checkpoint, base, folder, device)
    if not first():
        return
    view, beside = stage.layout.data(stage.key), stage.layout.quarantine(stage.key)
    values = scores[config.score].to_numpy()
    kept = choose(values, config)
    about = {"by": config.by, "weights": checkpoint.digest, "score": config.score}
    described = write_view(view, base, kept, about)
    verdict = stage.layout.verdict(stage.key)
    write_json(verdict, {"dataset": stage.key, "digest": described["digest"]})
    write_scores(beside / "scores.parquet", base, scores, kept)
    write_json(beside / "summary.json", _summary(base, view))
    noise = pq.read_table(beside / "scores.parquet", columns=["noise"])["noise"].to_pylist()
    found = precision_and_recall(values, kept, noise)
    write_json(beside / "curation.json", {"below": float(values[kept].min()), **found})
    stage.made(view / "dataset.json", verdict, beside / "curation.json")
    stage.record["kept"] = int(kept.sum())
    log.info("%s: %d of %d captions stay", stage.key, kept.sum(), len(kept))
    if found.get("found"):
        words = ", ".join(f"{name} {value:.1f} %" for name, value in found["found"].items())
        log.info("of %d captions that are known to be wrong: %s", found["captions"], words)


def _score(
    stage: Stage, checkpoint: Checkpoint, base: Path, folder: Path, device: torch.device
) -> pa.Table:
    """The scores of all captions, some records after the other: what is there stays."""
    records, parts = Shards(base, SPLIT), list[pa.Table]()
    for start in range(0, len(records), _AT_ONCE):
        some = Part(records, start, start + _AT_ONCE)
        path = folder / f"scores-{start:012}.parquet"
        if not world().broadcast(path.exists):
            with evaluating("auto", device):
                table = score(checkpoint, some, device, stage.runtime.workers)
            if first():
                with atomic(path) as part:
                    pq.write_table(table, part)
            log.info("%s: %d of %d records", stage.address, start + len(some), len(records))
            stage.tally()
        parts += [pq.read_table(path)] if first() else []
    return pa.concat_tables(parts) if parts else SCORES.empty_table()


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
