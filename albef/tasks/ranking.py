"""What the kinds that match images with texts share: their model; and how those that rank score."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from albef.data.record import Record
from albef.models.albef import ALBEF
from albef.models.fusion import select
from albef.models.ranking import (
    NOT_RANKED,
    RANKS,
    best,
    chance_recalls,
    encode_images,
    encode_texts,
    first_rank,
    match_scores,
    recalls,
)
from albef.preprocessing.text import TextTokenizer, clean_caption
from albef.preprocessing.transforms import Evaluate, Transform
from albef.tasks.task import Examples, Pairs, Records, Table, Task, batches

if TYPE_CHECKING:
    from albef.runtime.model import Model

MAX_WORDS = 30
"""Words kept of a caption, as in the original."""
TOP = 10
"""Ranked candidates kept of each query."""


def training_pairs(
    records: Sequence[Record],
    rng: np.random.Generator,
    tokenizer: TextTokenizer,
    transform: Transform,
    max_tokens: int,
    *,
    end: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Augmented images (B, 3, S, S), and ids and mask (B, L) of one caption drawn a record.

    ``end`` closes each caption with [SEP], for a model that writes.
    """
    image = np.stack([transform(record.image, rng, record.key) for record in records])
    drawn = [record.captions[rng.integers(len(record.captions))] for record in records]
    texts = [clean_caption(text, MAX_WORDS) for text in drawn]
    ids, mask = tokenizer.encode(texts, max_tokens, end=end)
    return image, ids, mask


class MatchingTask(Task):
    """A model with an ITM head, whose loss is that of one true pair among three at chance.

    Attributes:
        model: the student.
        itm_head: linear, 2 classes, on the fused [CLS].
        tokenizer: of the model.
    """

    surface: ClassVar[str] = "matching"
    chance_losses: ClassVar[Mapping[str, float]] = {"itm": math.log(3) - 2 / 3 * math.log(2)}

    def __init__(
        self, model: ALBEF, tokenizer: TextTokenizer, *, image_size: int, max_tokens: int
    ) -> None:
        super().__init__()
        self.model = model
        self.itm_head = nn.Linear(model.text_proj.in_features, 2)
        nn.init.normal_(self.itm_head.weight, std=0.02)
        nn.init.zeros_(self.itm_head.bias)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.image_size = image_size
        self.resize = Evaluate(image_size)

    def images(self, records: Records, batch_size: int) -> Iterator[Tensor]:
        """Batches (B, 3, H, W) of the records' images, in order, on the model's device."""
        return map(self.pixels, batches(records, batch_size))

    def pixels(self, records: Sequence[Record]) -> Tensor:
        """The images of some records (B, 3, H, W), on the model's device."""
        batch = np.stack([self.resize(record.image, key=record.key) for record in records])
        return torch.from_numpy(batch).to(self.model.image_proj.weight.device)

    def texts(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Cleaned and tokenised captions: ids and mask (T, L), on the model's device."""
        device = self.model.image_proj.weight.device
        cleaned = [clean_caption(caption, MAX_WORDS) for caption in captions]
        ids, mask = self.tokenizer.encode(cleaned, self.max_tokens)
        return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


class RankingTask(MatchingTask):
    """A task that ranks texts for images and images for texts."""

    primary: ClassVar[str] = "r_mean"
    rerank_k: int | None = 0
    """Candidates re-ranked by ITM; 0 ranks by ITC alone, None re-ranks all."""

    @torch.no_grad()
    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """Rank the split; or, where its records come in pairs, decide within each pair.

        The rows have ``query`` ("i2t" or "t2i"), ``key`` of the record asked about, ``caption``,
        ``rank`` and ``rank_itc`` of the best right answer from 0, and ``top`` and ``top_itc``,
        the first answers: captions for "i2t", keys for "t2i". In a paired split a row is a
        decision between the two of a pair, and ``change`` says in what they differ.
        """
        rows = [replace(records[i], image=b"") for i in range(len(records))]  # bytes are read twice
        if model is not None:
            return self._exported(model, rows, records, batch_size)
        ids, mask = self.texts([caption for row in rows for caption in row.captions])
        image_feat = encode_images(self.model, self.images(records, batch_size))
        text_feat, text_states = encode_texts(self.model, ids, mask, batch_size)

        def match(pairs: Tensor) -> Tensor:
            images = self.images(records, batch_size)
            return match_scores(self.model, self.itm_head, images, text_states, mask, pairs)

        return ranked(rows, (image_feat @ text_feat.t()).float(), self.rerank_k, match)

    def _exported(
        self, model: "Model", rows: Sequence[Record], records: Records, batch_size: int
    ) -> Table:
        """The same of a finished model: states are made once, pictures read again for ITM."""
        ids, mask = model.ids([caption for row in rows for caption in row.captions])
        parts = [slice(i, i + batch_size) for i in range(0, len(ids), batch_size)]
        texts = [model.encode_text(ids[part], mask[part]) for part in parts]
        states, text_feat = (np.concatenate(part) for part in zip(*texts, strict=True))
        lengths = mask.sum(axis=1)
        image_feat = np.concatenate(
            [model.embed_image([r.image for r in part]) for part in batches(records, batch_size)]
        )

        def match(pairs: Tensor) -> Tensor:
            chosen = pairs.numpy()
            scores = np.full(chosen.shape, NOT_RANKED, np.float32)
            row = 0
            for part in batches(records, batch_size):
                images = model.encode_image(model.pixels([record.image for record in part]))
                for place in range(len(part)):
                    if len(which := chosen[row].nonzero()[0]):
                        longest = lengths[which].max()
                        logits = model.score(
                            states[None, which, :longest],
                            mask[None, which, :longest],
                            images.take([place]),
                        )
                        scores[row, which] = logits[0, :, 1]
                    row += 1
            return torch.from_numpy(scores)

        return ranked(rows, torch.from_numpy(image_feat @ text_feat.T), self.rerank_k, match)

    @torch.no_grad()
    def agreement(
        self, records: Records, pairs: Pairs, batch_size: int, model: "Model | None" = None
    ) -> list[float]:
        """What ITM says of each pair: the probability that text and picture belong together."""
        found: list[float] = []
        for start in range(0, len(pairs), batch_size):
            part = pairs[start : start + batch_size]
            if model is not None:
                pictures = {place: records[place].image for place, _ in part}  # encoded once each
                images = [pictures[place] for place, _ in part]
                found += model.match(images, [text for _, text in part]).tolist()
                continue
            rows = {place: row for row, place in enumerate(dict.fromkeys(p for p, _ in part))}
            states = self.model.encode_image(self.pixels([records[place] for place in rows]))
            image = self.model.fusion_encoder.image_key_values(states)
            owner = torch.tensor([rows[place] for place, _ in part], device=states.device)
            ids, mask = self.texts([text for _, text in part])
            fused = self.model.fused_cls(
                self.model.encode_text(ids, mask), mask, select(image, owner)
            )
            found += torch.softmax(self.itm_head(fused).float(), dim=1)[:, 1].tolist()
        return found

    def score(self, table: Table) -> dict[str, float]:
        """Recalls, re-ranked and by ITC alone (``itc_``); of a paired split, accuracies."""
        result: dict[str, float] = {}
        for prefix, column in (("", "rank"), ("itc_", "rank_itc")):
            ranks = np.array(table[column])
            if "change" in table:
                right, changes = 100.0 * (ranks == 0), np.array(table["change"])
                result[f"{prefix}accuracy"] = float(right.mean())
                for change in sorted(set(table["change"])):
                    result[f"{prefix}accuracy_{change}"] = float(right[changes == change].mean())
            else:
                query = np.array(table["query"])
                by = [ranks[query == name].tolist() for name in ("i2t", "t2i")]
                result |= {prefix + name: value for name, value in recalls(*by).items()}
        return result

    @classmethod
    def examples(cls, table: Table) -> Examples:
        """The mean of a query's three recalls; of a decision whether it is right."""
        rank = np.array(table["rank"])
        if "change" in table:
            return Examples("accuracy", (rank == 0).astype(float).tolist(), "caption", "top")
        credit = np.mean([rank < k for k in RANKS], axis=0).tolist()
        return Examples("r_mean", credit, "caption", "top", strata="query", right=1.0)

    def chance(self, table: Table) -> dict[str, float]:
        """:meth:`score` of a random order, in expectation."""
        if "change" in table:
            names = ["accuracy", *(f"accuracy_{change}" for change in sorted(set(table["change"])))]
            return dict.fromkeys(names, 50.0)
        query = table["query"]
        return chance_recalls(query.count("i2t"), query.count("t2i"))


def ranked(
    rows: Sequence[Record], sim: Tensor, rerank_k: int | None, match: Callable[[Tensor], Tensor]
) -> Table:
    """The table of :meth:`RankingTask.predict`.

    Args:
        rows: I records with T captions in all; their pictures are not read.
        sim: (I, T) similarities of ITC.
        rerank_k: candidates re-ranked by ITM; 0 ranks by ITC alone, None re-ranks all.
        match: of pairs (I, T) bool the scores of ITM (I, T); called once.
    """
    captions = [caption for row in rows for caption in row.captions]
    owner = torch.tensor([i for i, row in enumerate(rows) for _ in row.captions])
    image_ids = torch.tensor([row.image_id for row in rows])
    relevant = (image_ids[:, None] == image_ids[owner][None, :]).to(sim.device)
    paired = all("pair" in row.meta for row in rows)
    if paired:
        pair_ids = torch.tensor([row.meta["pair"] for row in rows])
        partner = (pair_ids[:, None] == pair_ids[owner][None, :]).to(sim.device)
        sim = sim.masked_fill(~partner, -torch.inf)

    itc = {"i2t": sim, "t2i": sim.t()}
    final = dict(itc)
    if rerank_k != 0:
        most = sim.numel() if rerank_k is None else rerank_k
        chosen = {n: best(part, most) & part.isfinite() for n, part in itc.items()}
        scores = match(chosen["i2t"] | chosen["t2i"].t())
        for name, by_query in (("i2t", scores), ("t2i", scores.t())):
            final[name] = by_query.masked_fill(~chosen[name], -torch.inf)

    table: Table = {}
    keys = [row.key for row in rows]
    for name, right, queries, answers in (
        ("i2t", relevant, [(row.key, "") for row in rows], captions),
        ("t2i", relevant.t(), [(rows[o].key, captions[t]) for t, o in enumerate(owner)], keys),
    ):
        columns = {
            "query": [name] * len(queries),
            "key": [key for key, _ in queries],
            "caption": [caption for _, caption in queries],
            "rank": first_rank(final[name], right).tolist(),
            "rank_itc": first_rank(itc[name], right).tolist(),
            "top": _top(final[name], answers),
            "top_itc": _top(itc[name], answers),
        }
        if paired:
            changes = {row.key: row.meta["change"] for row in rows}
            columns["change"] = [changes[key] for key, _ in queries]
        for column, values in columns.items():
            table.setdefault(column, []).extend(values)
    return table


def _top(scores: Tensor, answers: Sequence[str]) -> list[list[str]]:
    order = scores.topk(min(TOP, scores.shape[1]), dim=1)
    return [
        [answers[i] for i, value in zip(row, values, strict=True) if value > -torch.inf]
        for row, values in zip(order.indices.tolist(), order.values.tolist(), strict=True)
    ]
