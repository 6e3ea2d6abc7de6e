"""Curation of a training split by a model, written as a filtered dataset.

A model scores the captions, and the filtered dataset keeps those that fit their images.
Alternatively, a model generates one more caption per image. These are the filter and the captioner
of BLIP's CapFilt.

A filtered dataset has its own index and no shards. Its images are those of the dataset that it is
made from.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from albef.data.record import word_count
from albef.data.shards import describe, index_digest
from albef.distributed import world
from albef.export.modules import Matcher
from albef.io import write_json
from albef.loading.reading import Records, read_batch, shared, stack_images, to_device
from albef.loading.workers import ahead
from albef.models.kernels import select
from albef.models.matching import match_logits
from albef.models.weights import Checkpoint
from albef.preprocessing.text import clean_caption
from albef.preprocessing.transforms import Evaluate
from albef.tasks import captioning
from albef.tasks.task import MAX_WORDS

SPLIT = "train"
"""The split that is curated. Evaluation splits stay unchanged."""
SCORES = pa.schema({"itc": pa.float32(), "itm": pa.float32()})
"""Scores of a caption and its image: the cosine of their features (``itc``), and the probability
that they match (``itm``)."""
WRITTEN = pa.schema({"written": pa.string()})
"""Schema of the generated captions, one per image."""
Edit = Callable[[pa.RecordBatch, int], tuple[pa.RecordBatch, int]]
"""Function that edits rows of an index for a filtered dataset.

It takes the rows and the offset of the first score, or generated caption, that belongs to them. It
returns the edited rows and how many scores or captions it used.
"""
_BATCH = 64  # images per forward pass
_ROWS = 10_000  # rows of the index that are edited at a time


class CurateConfig(Section):
    """A filtered dataset: an entry of ``curate``."""

    dataset: str
    """Name of the dataset, or filtered dataset, to curate."""
    by: str
    """Folder of the checkpoint to curate with. A pre-training or retrieval checkpoint scores the
    captions; a captioning checkpoint writes one more caption per image."""
    score: Literal["itc", "itm"] = "itc"
    """Score that decides: ``itc`` is the cosine of image and text features, ``itm`` the matching
    probability. ITM is learned later in training and is a weaker signal for captions that describe
    nothing."""
    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the captions to keep, best scores first. Set either ``keep`` or ``threshold``; leave
    both unset if ``by`` is a captioning checkpoint."""
    threshold: float | None = None
    """Lowest score of a caption that is kept."""

    @model_validator(mode="after")
    def _is_one_rule(self) -> Self:
        if self.keep is not None and self.threshold is not None:
            raise ValueError("set either keep (a share) or threshold (a score), not both")
        return self

    @property
    def chooses(self) -> bool:
        """Return whether the entry keeps some captions, instead of adding generated ones."""
        return self.keep is not None or self.threshold is not None


@torch.no_grad()
def score(checkpoint: Checkpoint, records: Records, device: torch.device, workers: int) -> pa.Table:
    """Return the :data:`SCORES` of each caption of some records, in order.

    Several processes share the records, and each returns the scores of all.

    Raises:
        CheckpointError: the checkpoint cannot match images and texts.
    """
    matcher = Matcher(checkpoint).to(device)
    model, tokenizer = matcher.model, checkpoint.tokenizer
    stack = partial(stack_images, resize=Evaluate(checkpoint.model.image.image_size))
    read = partial(read_batch, records, stack)
    scores: list[NDArray[np.float32]] = []
    for rows, images in ahead(read, shared(len(records), _BATCH), workers):
        texts = [clean_caption(text, MAX_WORDS) for row in rows for text in row.captions]
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


@torch.no_grad()
def write_captions(
    checkpoint: Checkpoint, records: Records, device: torch.device, workers: int
) -> pa.Table:
    """Return a caption of each image, in order, as column ``written``.

    A captioning checkpoint generates them.
    """
    values = {**checkpoint.config["values"], "model": checkpoint.model}
    config = captioning.Config.model_construct(**values)
    task = captioning.Task.restore(config, checkpoint).to(device).eval()
    task.workers = workers
    return pa.table({"written": task.predict(records, _BATCH)["written"]}, schema=WRITTEN)


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
    folder: Path, base: Path, edit: Edit, origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the filtered dataset that results from editing the rows of the dataset in ``base``.

    Return the content of its dataset.json. ``origin`` says there how it is made.

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
            rows, used = edit(batch, offset)
            offset += used
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


def keeping(keep_mask: NDArray[np.bool_]) -> Edit:
    """Return an edit that removes scored captions that ``keep_mask`` does not keep.

    A record that loses all its captions is removed.
    """

    def edit(batch: pa.RecordBatch, offset: int) -> tuple[pa.RecordBatch, int]:
        is_train = pc.equal(batch["split"], SPLIT).to_numpy(zero_copy_only=False)
        stays = np.repeat(~is_train, _counts(batch))
        scored = int((~stays).sum())
        stays[~stays] = keep_mask[offset : offset + scored]
        return _with_captions(batch, stays), scored

    return edit


def adding(texts: Sequence[str]) -> Edit:
    """Return an edit that appends a generated caption to each record of :data:`SPLIT`.

    A record that already has this caption stays unchanged. ``meta`` stores the generated caption as
    ``written``.
    """

    def edit(batch: pa.RecordBatch, offset: int) -> tuple[pa.RecordBatch, int]:
        columns = {name: batch[name].to_pylist() for name in ("captions", "caption_words", "meta")}
        (rows,) = pc.equal(batch["split"], SPLIT).to_numpy(zero_copy_only=False).nonzero()
        for row, text in zip(rows, texts[offset : offset + len(rows)], strict=True):
            if text and text not in columns["captions"][row]:
                columns["captions"][row].append(text)
                columns["caption_words"][row].append(word_count(text))
                meta = json.loads(columns["meta"][row]) | {"written": text}
                columns["meta"][row] = json.dumps(meta, sort_keys=True)
        for name, values in columns.items():
            batch = _replaced(batch, name, pa.array(values, batch.schema.field(name).type))
        return batch, len(rows)

    return edit


def _counts(batch: pa.RecordBatch) -> NDArray[np.int32]:
    counts: NDArray[np.int32] = pc.list_value_length(batch["captions"]).to_numpy()
    return counts


def _with_captions(batch: pa.RecordBatch, stays: NDArray[np.bool_]) -> pa.RecordBatch:
    """Return rows of an index with only the captions of mask ``stays``."""
    counts = _counts(batch)
    remaining = np.bincount(np.repeat(np.arange(len(counts)), counts)[stays], minlength=len(counts))
    offsets = pa.array(np.concatenate([[0], np.cumsum(remaining)]), pa.int32())
    for name in ("captions", "caption_words"):
        values = pc.list_flatten(batch[name]).filter(pa.array(stays))
        lists = pa.ListArray.from_arrays(offsets, values, type=batch.schema.field(name).type)
        batch = _replaced(batch, name, lists)
    return batch.filter(pa.array((remaining > 0) | (counts == 0)))


def _replaced(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    """Return the batch with new values in a column."""
    column = batch.schema.get_field_index(name)
    return batch.set_column(column, batch.schema.field(column), values)


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
            noise = pa.array(map(_noise, texts.to_pylist(), meta.to_pylist()), pa.string())
            spoken = rows["key"].take(owner), texts, noise
            batch_scores = scores.slice(offset, len(owner)).combine_chunks()
            writer.write_table(pa.table([*spoken, *batch_scores.columns], schema=schema))
            offset += len(owner)


def _noise(caption: str, meta: str) -> str:
    if '"noise"' not in meta:
        return ""
    annotations = json.loads(meta)
    return "" if caption == annotations.get("written") else str(annotations["noise"])
