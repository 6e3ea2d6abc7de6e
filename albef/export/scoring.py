"""A run's predictions on a split by a model as it is put to use, in the columns of its task.

Pictures and texts go in as they would in production, so that the metric speaks of the whole
export: preprocessing, tokenizer, loops and graphs. Shapes: I images, T texts, E shared width.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from albef.models.ranking import NOT_RANKED
from albef.runtime.answering import Answering
from albef.runtime.classifying import Classifying
from albef.runtime.matching import Grounding, Matching
from albef.runtime.model import BATCH, Model, batches
from albef.tasks import classification, entailment, grounding, ranking, vqa
from albef.tasks.task import Pairs, Records, RunTask, Table


def predict(model: Model, task: RunTask, records: Records) -> Table:
    """The table that ``task.predict`` makes, of a model's calls.

    A grounding model's map is attention alone, where the task has Grad-CAM's.

    Args:
        model: of the task's kind.
        task: tells how it is evaluated.
        records: of the split.
    """
    return _KINDS[model.facts.kind](model, task, records)


def agreement(model: Model, task: RunTask, records: Records, pairs: Pairs) -> list[float]:
    """What ``task.agreement`` says, of a model's calls.

    Args:
        model: of the task's kind, which judges.
        task: tells how it is evaluated.
        records: of the split.
        pairs: places of records, and a text for the picture of each.
    """
    if isinstance(model, Classifying):
        chances = _classified(model, task, classification.Retold(records, pairs))["probabilities"]
        place = model.facts.classes.index(entailment.ENTAILED)
        return [own[place] for own in chances]
    found: list[float] = []
    for part in batches(len(pairs)):
        some = pairs[part]
        shown = {place: records[place].image for place, _ in some}  # one object is encoded once
        images, texts = [shown[place] for place, _ in some], [text for _, text in some]
        found += cast(Matching, model).match(images, texts).tolist()
    return found


def _ranked(model: Model, task: RunTask, records: Records) -> Table:
    model = cast(Matching, model)
    rows = [replace(records[i], image=b"") for i in range(len(records))]
    ids, mask = model.ids([caption for row in rows for caption in row.captions])
    texts = [model.encode_text(ids[part], mask[part]) for part in batches(len(ids))]
    states, text_feat = (np.concatenate(part) for part in zip(*texts, strict=True))
    lengths = mask.sum(axis=1)
    image_feat = np.concatenate(
        [
            model.embed_image([records[i].image for i in range(len(records))[part]])
            for part in batches(len(records))
        ]
    )

    def match(pairs: Tensor) -> Tensor:
        chosen = pairs.numpy()
        scores = np.full(chosen.shape, NOT_RANKED, np.float32)
        for part in batches(len(records)):
            some = range(len(records))[part]
            images = model.encode_image(model.pixels([records[i].image for i in some]))
            for inner, row in enumerate(some):
                own = chosen[row].nonzero()[0]
                if len(own):
                    longest = lengths[own].max()
                    said, told = states[own, :longest], mask[own, :longest]
                    logits = model.score(said[None], told[None], images.take([inner]))
                    scores[row, own] = logits[0, :, 1]
        return torch.from_numpy(scores)

    rerank_k = cast(ranking.RankingTask, task).rerank_k
    return ranking.ranked(rows, torch.from_numpy(image_feat @ text_feat.T), rerank_k, match)


def _answered(model: Model, task: RunTask, records: Records) -> Table:
    model = cast(Answering, model)
    rows, found = [], []
    for part in batches(len(records)):
        some = [records[i] for i in range(len(records))[part]]
        shown = {row.image_id: row.image for row in some}  # one picture may have many questions
        images = [shown[row.image_id] for row in some]
        found += model.ask(images, [row.captions[0] for row in some], model.answering.k)
        rows += [replace(row, image=b"") for row in some]
    return vqa.answered(rows, found)


def _classified(model: Model, task: RunTask, records: Records) -> Table:
    model = cast(Classifying, model)
    rows, chances = [], []
    for part in batches(len(records)):
        some = [records[i] for i in range(len(records))[part]]
        images = list(zip(*(row.images for row in some), strict=True))
        sentences = [classification.sentence_of(row) for row in some]
        chances += model.probabilities(images, sentences).tolist()
        rows += [replace(row, image=b"", more=()) for row in some]
    return classification.classified(rows, chances, model.facts.classes)


def _located(model: Model, task: RunTask, records: Records) -> Table:
    model, threshold = cast(Grounding, model), cast(grounding.Config, task.config).threshold
    table: Table = {}
    for start in range(0, len(records), BATCH):
        some = [records[i] for i in range(start, min(start + BATCH, len(records)))]
        for row in some:
            grounding.check(row)
        found = model.ground([row.image for row in some], [row.captions[0] for row in some])
        for row, own in zip(some, found, strict=True):
            for column, value in grounding.located(row, own.heat, threshold).items():
                table.setdefault(column, []).append(value)
    return table


_KINDS: dict[str, Callable[[Model, RunTask, Records], Table]] = {
    "retrieval": _ranked,
    "vqa": _answered,
    "entailment": _classified,
    "nlvr2": _classified,
    "grounding": _located,
}
