"""Curation: how well a model finds that each caption of a training split fits its picture, and the
view of a data set that keeps the captions which do, or one with a caption more that a model wrote
of each picture (the filter and the captioner of BLIP's CapFilt).

A view is a data set with an index of its own and no shards: its pictures are those of the data set
that it is a view of.
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
from albef.data.shards import describe, index_digest
from albef.distributed import world
from albef.export.modules import Matcher
from albef.io import write_json
from albef.loading.reading import Records, pictures, read_batch, shared, to_device
from albef.loading.workers import ahead
from albef.models.kernels import select
from albef.models.matching import match_logits
from albef.models.weights import Checkpoint
from albef.preprocessing.text import clean_caption
from albef.preprocessing.transforms import Evaluate
from albef.tasks import captioning
from albef.tasks.task import MAX_WORDS

SPLIT = "train"
"""The split that is scored; what a model is evaluated on stays as it is."""
SCORES = pa.schema({"itc": pa.float32(), "itm": pa.float32()})
"""Of a caption and its picture: the cosine of their features, and the probability that they belong
together."""
WRITTEN = pa.schema({"written": pa.string()})
"""Of a picture: the caption that a model wrote."""
Edit = Callable[[pa.RecordBatch, int], tuple[pa.RecordBatch, int]]
"""Makes rows of a view of rows of an index: what is known of captions, or of records, is taken from
a place on; how many of these it took."""
_BATCH = 64  # pictures of a forward pass
_ROWS = 10_000  # of the index that are worked on at a time
_STEPS = 20  # of a curve


class CurateConfig(Section):
    """A view: an entry of ``curate``."""

    dataset: str
    """Data set, or other view, that it is a view of."""
    by: str
    """Folder of the checkpoint that scores the captions, of pre-training or of a retrieval run; or
    of a captioning run, which writes one more of each picture."""
    score: Literal["itc", "itm"] = "itc"
    """What decides: the cosine of the two features, or the probability of ITM, which is learned
    later and tells less of captions that say nothing."""
    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the captions that stay, the best ones; or else ``threshold``; neither of a view to
    which captions are written."""
    threshold: float | None = None
    """Least score of a caption that stays."""

    @model_validator(mode="after")
    def _is_one_rule(self) -> Self:
        if self.keep is not None and self.threshold is not None:
            raise ValueError("give it either keep, a share, or threshold, a score")
        return self

    @property
    def chooses(self) -> bool:
        """Whether it keeps some of the captions; else it adds those that a model writes."""
        return self.keep is not None or self.threshold is not None


@torch.no_grad()
def score(checkpoint: Checkpoint, records: Records, device: torch.device, workers: int) -> pa.Table:
    """The :data:`SCORES` of each caption of some records, in order.

    Several processes share the records, and each returns the scores of all.

    Raises:
        CheckpointError: the checkpoint matches no images and texts.
    """
    matcher = Matcher(checkpoint).to(device)
    model, tokenizer = matcher.model, checkpoint.tokenizer
    read = partial(
        read_batch, records, partial(pictures, resize=Evaluate(checkpoint.model.image.image_size))
    )
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
    """A caption of each picture by a captioning run, in order, as column ``written``."""
    values = {**checkpoint.config["values"], "model": checkpoint.model}
    config = captioning.Config.model_construct(**values)
    task = captioning.Task.restore(config, checkpoint).to(device).eval()
    task.workers = workers
    return pa.table({"written": task.predict(records, _BATCH)["written"]}, schema=WRITTEN)


def choose(scores: NDArray[np.float32], config: CurateConfig) -> NDArray[np.bool_]:
    """Which captions stay, by the score of each; of equal ones the earlier is the better."""
    if config.threshold is not None:
        return scores >= config.threshold
    assert config.keep is not None
    keep_mask = np.zeros(len(scores), bool)
    keep_mask[np.argsort(-scores, kind="stable")[: round(config.keep * len(scores))]] = True
    return keep_mask


def write_view(folder: Path, base: Path, edit: Edit, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Write the view of the data set, or view, in ``base`` whose rows are edited; ``origin`` says
    how it came about.

    Returns:
        What its dataset.json holds.

    Raises:
        ValueError: nothing is left to train on.
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
        raise ValueError("no caption is good enough: raise keep or lower threshold")
    described = describe(base)
    curated = {"of": base.name, "data": described["digest"], **origin}
    described |= {"name": folder.name, "digest": index_digest(folder), "splits": dict(splits)}
    described |= {"captions": captions, "curated": curated}
    described.setdefault("shards_of", base.name)
    write_json(folder / "dataset.json", described)
    return described


def keeping(keep_mask: NDArray[np.bool_]) -> Edit:
    """Of the captions that are scored those that ``keep_mask`` keeps; a record without any goes."""

    def edit(batch: pa.RecordBatch, offset: int) -> tuple[pa.RecordBatch, int]:
        stays = ~_is_scored(batch)
        scored = int((~stays).sum())
        stays[~stays] = keep_mask[offset : offset + scored]
        return _with_captions(batch, stays), scored

    return edit


def adding(texts: Sequence[str]) -> Edit:
    """What was written of each record of :data:`SPLIT`, as its last caption unless it has that one;
    ``meta`` says what it is."""

    def edit(batch: pa.RecordBatch, offset: int) -> tuple[pa.RecordBatch, int]:
        columns = {name: batch[name].to_pylist() for name in ("captions", "caption_words", "meta")}
        (rows,) = pc.equal(batch["split"], SPLIT).to_numpy(zero_copy_only=False).nonzero()
        for row, text in zip(rows, texts[offset : offset + len(rows)], strict=True):
            if text and text not in columns["captions"][row]:
                columns["captions"][row].append(text)
                columns["caption_words"][row].append(len(text.split()))
                meta = json.loads(columns["meta"][row]) | {"written": text}
                columns["meta"][row] = json.dumps(meta, sort_keys=True)
        for name, values in columns.items():
            batch = _replaced(batch, name, pa.array(values, batch.schema.field(name).type))
        return batch, len(rows)

    return edit


def _is_scored(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """Whether each caption of a part of an index is of the split that is scored."""
    is_train: NDArray[np.bool_] = pc.equal(batch["split"], SPLIT).to_numpy(zero_copy_only=False)
    return np.repeat(is_train, _counts(batch))


def _counts(batch: pa.RecordBatch) -> NDArray[np.int32]:
    counts: NDArray[np.int32] = pc.list_value_length(batch["captions"]).to_numpy()
    return counts


def _with_captions(batch: pa.RecordBatch, stays: NDArray[np.bool_]) -> pa.RecordBatch:
    """The rows of an index with those of their captions that stay; a row that loses all goes."""
    counts = _counts(batch)
    remaining = np.bincount(np.repeat(np.arange(len(counts)), counts)[stays], minlength=len(counts))
    offsets = pa.array(np.concatenate([[0], np.cumsum(remaining)]), pa.int32())
    for name in ("captions", "caption_words"):
        values = pc.list_flatten(batch[name]).filter(pa.array(stays))
        lists = pa.ListArray.from_arrays(offsets, values, type=batch.schema.field(name).type)
        batch = _replaced(batch, name, lists)
    return batch.filter(pa.array((remaining > 0) | (counts == 0)))


def _replaced(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    """The batch with other values in a column."""
    column = batch.schema.get_field_index(name)
    return batch.set_column(column, batch.schema.field(column), values)


def write_scores(path: Path, base: Path, scores: pa.Table, keep_mask: NDArray[np.bool_]) -> None:
    """Write the captions that were scored, in order, with what came of each. ``noise`` is what
    their source knows to be wrong with one, as built-in data do; "" is nothing."""
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


def precision_and_recall(
    scores: NDArray[np.float32], keep_mask: NDArray[np.bool_], noise: Sequence[str]
) -> dict[str, Any]:
    """Precision and recall of finding captions that are known to be wrong, or to say nothing: of
    what went, and for each share that might go, in percent; empty where none is known."""
    kinds = np.array(noise)
    if not (kinds != "").any():
        return {}

    def measure(removed: NDArray[Any]) -> dict[str, float]:
        is_noise = kinds[removed] != ""
        recalls = {
            f"recall of {kind}": 100 * float((kinds[removed] == kind).sum() / (kinds == kind).sum())
            for kind in sorted(set(kinds) - {""})
        }
        recall = float(is_noise.sum() / (kinds != "").sum())
        return {"precision": 100 * float(is_noise.mean()), "recall": 100 * recall, **recalls}

    worst = np.argsort(-scores, kind="stable")[::-1]
    cuts = [round(len(worst) * step / _STEPS) for step in range(1, _STEPS)]
    return {
        "captions": int((kinds != "").sum()),
        "found": measure(np.flatnonzero(~keep_mask)) if not keep_mask.all() else {},
        "curve": [
            {"went": 100 * cut / len(worst), "below": float(scores[worst[cut]]),
             **measure(worst[:cut])}
            for cut in cuts if cut
        ],
    }  # fmt: skip
