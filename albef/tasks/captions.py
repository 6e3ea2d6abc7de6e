"""Captions of a batch: one of each record, and further ones that only ITM reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from albef.data.record import Record
from albef.loading.reading import Batch, ImageTransform
from albef.preprocessing.text import TextTokenizer, clean_caption, text_id, tidy
from albef.tasks.task import MAX_WORDS

KNOWN_TEXTS = 16
"""Maximum number of an image's captions that ``equal_texts`` compares."""


@dataclass(frozen=True)
class Collate:
    """Collate of records to ``image``, ``ids``, ``text_mask`` and ``image_id``.

    One caption is drawn per record. With ``equal_texts`` the batch also has ``text_ids`` (B, 17):
    the id of the caption, and those of the record's captions. With ``itm_captions``, it also has
    K further texts for ITM: ``itm_ids`` and ``itm_mask`` (K, M), ``itm_text_id`` (K,), and
    ``itm_rows`` (K,), the rows of their images. K is this share of the records that have such
    captions; if there are none, these four are missing. With ``itm_equal_rank``, all of them have
    the same relative rank by length among those of their record, and so little padding.
    """

    tokenizer: TextTokenizer
    transform: ImageTransform
    max_tokens: int
    equal_texts: bool = False
    itm_captions: float = 0.0
    itm_equal_rank: bool = False

    def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
        """Stack the records."""
        image = np.stack([self.transform(record.image, rng, record.key) for record in records])
        texts = [self._drawn(record.captions, rng) for record in records]
        ids, mask = self.tokenizer.encode(texts, self.max_tokens)
        batch = {
            "image": torch.from_numpy(image),
            "ids": torch.from_numpy(ids),
            "text_mask": torch.from_numpy(mask),
            "image_id": torch.tensor([record.image_id for record in records]),
        }
        if self.equal_texts:
            batch["text_ids"] = torch.tensor(
                [self._text_ids(text, record) for text, record in zip(texts, records, strict=True)]
            )
        if self.itm_captions:
            batch |= self._further(records, rng)
        return batch

    def _further(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
        """Draw the further texts of ITM."""
        having = [row for row, record in enumerate(records) if record.itm_captions]
        count = math.ceil(self.itm_captions * len(having))
        if not count:
            return {}
        rows = sorted(rng.choice(having, count, replace=False).tolist())
        rank = rng.random() if self.itm_equal_rank else None
        texts = [self._drawn(records[row].itm_captions, rng, rank) for row in rows]
        ids, mask = self.tokenizer.encode(texts, self.max_tokens)
        return {
            "itm_ids": torch.from_numpy(ids),
            "itm_mask": torch.from_numpy(mask),
            "itm_text_id": torch.tensor([text_id(text) for text in texts]),
            "itm_rows": torch.tensor(rows),
        }

    def _drawn(
        self, texts: Sequence[str], rng: np.random.Generator, rank: float | None = None
    ) -> str:
        """Draw one of the texts, or take that at a relative rank by length in [0, 1), cleaned."""
        if rank is None:
            text = texts[int(rng.integers(len(texts)))]
        else:
            text = sorted(texts, key=len)[int(rank * len(texts))]
        return self.tokenizer.clean(text, MAX_WORDS)

    def _text_ids(self, text: str, record: Record) -> list[int]:
        """Return the id of a record's drawn caption, and those of all, filled with the first."""
        true_texts = (*record.captions, *record.itm_captions)
        known = [_cleaned_id(other, self.tokenizer.public) for other in true_texts[:KNOWN_TEXTS]]
        own = text_id(text)
        return [own, *known, *[own] * (KNOWN_TEXTS - len(known))]


@lru_cache(2**16)
def _cleaned_id(text: str, public: bool) -> int:
    """Return the id of a text once cleaned; every epoch needs it again."""
    return text_id((tidy if public else clean_caption)(text, MAX_WORDS))
