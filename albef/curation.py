"""Curation of a training split by a model, written as a filtered dataset.

A model scores the captions, and the filtered dataset keeps those that fit their images, like the
filter of BLIP's CapFilt. It has its own index, and the shards of the dataset that it is made from.
"""

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from albef.config import Section
from albef.data.shards import describe, index_digest
from albef.distributed import world
from albef.export.modules import Matcher
from albef.io import write_json
from albef.loading.reading import Records, read_batch, shared, stack_images, to_device
from albef.loading.workers import ahead
from albef.models.kernels import select
from albef.models.matching import match_logits
from albef.models.weights import Checkpoint
from albef.preprocessing.transforms import Evaluate
from albef.tasks.task import MAX_WORDS

SPLIT = "train"
"""The split that is curated. Evaluation splits stay unchanged."""
SCORES = pa.schema({"itc": pa.float32(), "itm": pa.float32()})
"""Scores of a caption and its image: the cosine of their features (``itc``), and the probability
that they match (``itm``)."""
_BATCH = 64  # images per forward pass
_ROWS = 10_000  # rows of the index that are edited at a time


class CurateConfig(Section):
    """A filtered dataset: an entry of ``curate``."""

    dataset: str
    """Name of the dataset, or filtered dataset, to curate."""
    by: str
    """Folder of the pre-training or retrieval checkpoint that scores the captions."""
    score: Literal["itc", "itm"] = "itc"
    """Score that decides: ``itc`` is the cosine of image and text features, ``itm`` the matching
    probability. ITM is learned later in training and is a weaker signal for captions that describe
    nothing."""
    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the captions to keep, best scores first. Set either ``keep`` or ``threshold``."""
    threshold: float | None = None
    """Lowest score of a caption that is kept."""

    @model_validator(mode="after")
    def _is_one_rule(self) -> Self:
        if (self.keep is None) == (self.threshold is None):
            raise ValueError("set either keep (a share) or threshold (a score)")
        return self


@torch.no_grad()
def score(checkpoint: Checkpoint, records: Records, device: torch.device, workers: int) -> pa.Table:
    """Return the :data:`SCORES` of each caption of some records, in order.

    Several processes share the records, and each returns the scores of all.
    """
    matcher = Matcher(checkpoint).to(device)
    model, tokenizer = matcher.model, checkpoint.tokenizer
    stack = partial(stack_images, resize=Evaluate(checkpoint.model.image.image_size))
    read = partial(read_batch, records, stack)
    scores: list[NDArray[np.float32]] = []
    for rows, images in ahead(read, shared(len(records), _BATCH), workers):
        texts = [tokenizer.clean(text, MAX_WORDS) for row in rows for text in row.captions]
        owner = torch.tensor([i for i, row in enumerate(rows) for _ in row.captions], device=device)
        encoded = tokenizer.encode(texts, checkpoint.config["values"]["max_tokens"])
        ids, mask = (torch.from_numpy(array).to(device) for array in encoded)
        image_states = model.encode_image(to_device({"image": images}, device)["image"])
        text_states = model.encode_text(ids, mask)
        itc = (model.image_feat(image_states)[owner] * model.text_feat(text_states)).sum(1)
        image = model.fusion_encoder.image_key_values(image_states)
        fused = model.fused_cls(text_states, mask, select(image, owner))
        itm = torch.softmax(match_logits(matcher.itm_head, fused), dim=1)[:, 1]
        scores.append(torch.stack([itc, itm]).float().cpu().numpy())
    joined = np.concatenate(world().join(scores), axis=1)
    return pa.table(list(joined), schema=SCORES)


def choose(scores: NDArray[np.float32], config: CurateConfig) -> NDArray[np.bool_]:
    """Return the mask of captions to keep, given the score of each.

    Of captions with equal scores, the earlier one ranks higher.
    """
    if config.threshold is not None:
        return scores >= config.threshold
    assert config.keep is not None
    keep_mask = np.zeros(len(scores), bool)
    keep_mask[np.argsort(-scores, kind="stable")[: round(config.keep * len(scores))]] = True
    return keep_mask


def write_filtered(
    folder: Path, base: Path, keep_mask: NDArray[np.bool_], origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the filtered dataset of the dataset in ``base``, and return its dataset.json.

    Of the scored captions, those in ``keep_mask`` stay; a record that loses all of them is removed.
    ``origin`` says in dataset.json how the dataset is made.

    Raises:
        ValueError: no caption of the training split is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits: Counter[str] = Counter()
    captions = offset = 0
    path = folder / "index.parquet"
    with (
        pq.ParquetFile(base / path.name) as index,
        pq.ParquetWriter(path, index.schema_arrow, compression="zstd") as writer,
    ):
        for batch in index.iter_batches(_ROWS):
            is_train = pc.equal(batch["split"], SPLIT).to_numpy(zero_copy_only=False)
            stays = np.repeat(~is_train, _counts(batch))
            scored = int((~stays).sum())
            stays[~stays] = keep_mask[offset : offset + scored]
            offset += scored
            rows = _with_captions(batch, stays)
            splits.update(rows["split"].to_pylist())
            captions += int(_counts(rows).sum())
            writer.write_batch(rows)
    if not splits[SPLIT]:
        raise ValueError("curation rejected every caption; increase keep or lower threshold")
    described = describe(base)
    curated = {"of": base.name, "data": described["digest"], **origin}
    described |= {"name": folder.name, "digest": index_digest(folder), "splits": dict(splits)}
    described |= {"captions": captions, "curated": curated}
    described.setdefault("shards_of", base.name)
    write_json(folder / "dataset.json", described)
    return described


def _counts(batch: pa.RecordBatch) -> NDArray[np.int32]:
    counts: NDArray[np.int32] = pc.list_value_length(batch["captions"]).to_numpy()
    return counts


def _with_captions(batch: pa.RecordBatch, stays: NDArray[np.bool_]) -> pa.RecordBatch:
    counts = _counts(batch)
    remaining = np.bincount(np.repeat(np.arange(len(counts)), counts)[stays], minlength=len(counts))
    offsets = pa.array(np.concatenate([[0], np.cumsum(remaining)]), pa.int32())
    for name in ("captions", "caption_words"):
        values = pc.list_flatten(batch[name]).filter(pa.array(stays))
        lists = pa.ListArray.from_arrays(offsets, values, type=batch.schema.field(name).type)
        column = batch.schema.get_field_index(name)
        batch = batch.set_column(column, batch.schema.field(column), lists)
    return batch.filter(pa.array((remaining > 0) | (counts == 0)))


def write_scores(path: Path, base: Path, scores: pa.Table, keep_mask: NDArray[np.bool_]) -> None:
    """Write the scored captions, in order, with their scores and whether each is kept.

    Column ``noise`` is the defect that the source of the data records for a caption, as built-in
    data do; "" means none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = scores.append_column("kept", pa.array(keep_mask))
    columns = [(name, pa.string()) for name in ("key", "caption", "noise")]
    schema, offset = pa.schema([*columns, *scores.schema]), 0
    with (
        pq.ParquetFile(base / "index.parquet") as index,
        pq.ParquetWriter(path, schema, compression="zstd") as writer,
    ):
        for batch in index.iter_batches(_ROWS, columns=["key", "split", "captions", "meta"]):
            rows = batch.filter(pc.equal(batch["split"], SPLIT))
            owner = pc.list_parent_indices(rows["captions"])
            texts, meta = pc.list_flatten(rows["captions"]), rows["meta"].take(owner)
            noise = [json.loads(it)["noise"] if '"noise"' in it else "" for it in meta.to_pylist()]
            spoken = rows["key"].take(owner), texts, pa.array(noise, pa.string())
            batch_scores = scores.slice(offset, len(owner)).combine_chunks()
            writer.write_table(pa.table([*spoken, *batch_scores.columns], schema=schema))
            offset += len(owner)
