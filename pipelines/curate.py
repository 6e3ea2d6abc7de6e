"""curate@DATASET: write a filtered dataset of the captions that a model scores well."""

import hashlib
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from albef.curation import SCORES, SPLIT, CurateConfig, choose, score, write_filtered, write_scores
from albef.data.rejection import Reason
from albef.data.shards import Shards, read_index
from albef.distributed import world
from albef.io import atomic
from albef.loading.reading import Part
from albef.models.kernels import evaluating
from albef.models.weights import Checkpoint, load_checkpoint
from pipelines.launch import launch, sharing
from pipelines.stage import Stage, main, verified_digest, write_json

_PART = 1280, 20_480  # least and most records of a part; each part is saved as soon as it is done
log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Score the captions of a dataset's training split.

    The stage writes the filtered dataset, its verdict (it is as valid as the dataset it is made
    from), and a file with what happened to each caption.
    """
    config = stage.section(f"curate.{stage.key}", CurateConfig)
    digest = verified_digest(stage, config.dataset)
    base, checkpoint = stage.layout.data(config.dataset), load_checkpoint(Path(config.by))
    inputs = " ".join([digest, checkpoint.digest, stage.code])
    with (
        sharing(stage) as device,
        stage.scratch(hashlib.sha256(inputs.encode()).hexdigest()) as folder,
    ):
        results = _score(stage, checkpoint, base, folder, device)
    if not stage.first:
        return
    filtered, quarantine = stage.layout.data(stage.key), stage.layout.quarantine(stage.key)
    origin = {"by": config.by, "weights": checkpoint.digest, "score": config.score}
    verdict = stage.layout.verdict(stage.key)
    scores = results[config.score].to_numpy()
    kept_mask = choose(scores, config)
    description = write_filtered(filtered, base, kept_mask, origin)
    write_scores(quarantine / "scores.parquet", base, results, kept_mask)
    write_json(quarantine / "curation.json", {"below": float(scores[kept_mask].min())})
    stage.record["kept"] = int(kept_mask.sum())
    log.info("%s: kept %d of %d captions", stage.key, kept_mask.sum(), len(kept_mask))
    write_json(verdict, {"dataset": stage.key, "digest": description["digest"]})
    write_json(quarantine / "summary.json", _summary(base, filtered))
    stage.made(filtered / "dataset.json", verdict, quarantine / "summary.json")


def _score(
    stage: Stage, checkpoint: Checkpoint, base: Path, folder: Path, device: torch.device
) -> pa.Table:
    records, parts = Shards(base, SPLIT), list[pa.Table]()
    least, most = _PART
    size = min(most, max(least, len(records) // 100 // least * least))
    for start in range(0, len(records), size):
        batch = Part(records, start, start + size)
        path = folder / f"part-{start:012}.parquet"
        if not world().broadcast(path.exists):
            with evaluating("auto", device):
                table = score(checkpoint, batch, device, stage.runtime.workers)
            if stage.first:
                with atomic(path) as part:
                    pq.write_table(table, part)
            done = start + len(batch)
            log.info("%s: %d of %d records processed", stage.address, done, len(records))
            stage.tally()
        parts += [pq.read_table(path)] if stage.first else []
    return pa.concat_tables(parts) if parts else SCORES.empty_table()


def _summary(base: Path, filtered: Path) -> dict[str, object]:
    rows, kept = (
        {entry["values"]: entry["counts"] for entry in pc.value_counts(index["source"]).to_pylist()}
        for index in (read_index(folder, columns=["source"]) for folder in (base, filtered))
    )
    dropped = {source: count - kept.get(source, 0) for source, count in rows.items()}
    return {
        source: {
            "rows": count,
            "kept": count - dropped[source],
            "rejected": {Reason.LOW_SCORE: dropped[source]} if dropped[source] else {},
        }
        for source, count in rows.items()
    }


if __name__ == "__main__":
    main(run, launch)
