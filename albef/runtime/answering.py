"""Models that answer questions about images. No torch.

The loops are here; the graphs compute states and logits. Shapes: B questions, T questions of an
image, L tokens, K answers scored in full, W nodes of a tree of answers, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from albef.preprocessing.answers import Answer, answer_tree, beam_search
from albef.runtime.model import (
    Array,
    Floats,
    ImageInput,
    Ints,
    Model,
    batches,
    check_aligned,
    softmax,
)

_States = dict[str, Array]
"""Decoder inputs: keys and values (B, F, H, L, D / H) of questions read together with their images,
and the mask (B, L) of the questions."""


class Answering(Model):
    """Model that answers as its run was evaluated: by ranking a list, or by generating text."""

    def clean(self, text: str, max_words: int) -> str:
        """Return a question as the tokenizer reads it, cut at ``max_words``."""
        return self.tokenizer.clean_question(text, max_words)

    main: ClassVar[str] = "ask"

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        assert self.facts.answering is not None
        self.answering = self.facts.answering
        self._answer_ids, self._answer_mask = self.tokenizer.encode(
            self.answers, self.facts.max_tokens, end=True
        )

    def ask(
        self,
        images: Sequence[ImageInput],
        questions: Sequence[str],
        k: int = 5,
        *,
        progress: bool = False,
    ) -> list[list[Answer]]:
        """Return the ``k`` best answers to question i about image i, the most probable first.

        >>> answers = model.ask(["dog.png"], ["how many dogs are there?"])[0]
        >>> answers[0].text, answers[0].probability

        The list is empty if the first answer does not reach ``min_probability``. A ranked answer
        has its probability among the answers that were scored in full; a generated answer has that
        of its text. An image object that occurs several times in a batch is encoded once.

        Args:
            images: n images: paths, encoded bytes, images of Pillow, or uint8 arrays (H, W, 3).
            questions: n questions.
            k: maximum number of answers to each question.
            progress: show a progress bar on stderr.

        Raises:
            ValueError: the numbers of images and questions differ, or a question is blank.
            ImageError: an image cannot be decoded.
            FileNotFoundError: a path has no file.
        """
        check_aligned(images=images, questions=questions)
        answers: list[list[Answer]] = []
        answer = self._generate if self.answering.by == "generate" else self._rank
        for part in batches(len(images), progress):
            answers += answer(self._encode(images[part], questions[part], part.start))
        threshold = self.min_probability
        return [best[:k] if best[0].probability >= threshold else [] for best in answers]

    def _encode(
        self, images: Sequence[ImageInput], questions: Sequence[str], start: int
    ) -> _States:
        image, rows = self.encode_distinct(images, start)
        ids, mask = self.ids(questions)
        inputs = {"ids": ids[:, None], "text_mask": mask[:, None], **image.take(rows).inputs()}
        out = self.backend.run("question_encoder", inputs)
        states = {name: value.reshape((len(ids), *value.shape[2:])) for name, value in out.items()}
        return states | {"question_mask": mask}

    def _logits(self, states: _States, ids: Ints, positions: Ints, sees: Array) -> Floats:
        """Return logits (B, W, V) of the token after each node of each question's answer tree."""
        tree = {"ids": ids, "positions": positions, "sees": sees.astype(np.int64)}
        logits: Floats = self.backend.run("answer_decoder", tree | states)["logits"]
        return logits

    def _rank(self, states: _States) -> list[list[Answer]]:
        """Rank the list of answers as :func:`albef.models.decoder.rank` does."""
        ids, mask, count = self._answer_ids, self._answer_mask, len(states["question_mask"])
        start = np.full((count, 1), self.tokenizer.cls_id)
        first = self._logits(states, start, np.zeros_like(start), np.ones((count, 1, 1)))[:, 0]
        log_first = _log_softmax(first)[:, ids[:, 1]]
        chosen = np.argsort(-log_first, axis=1, kind="stable")[:, : self.answering.k]
        log_first = np.take_along_axis(log_first, chosen, axis=1)
        tree = answer_tree(ids[chosen], mask[chosen])
        logits = self._logits(states, tree.ids, tree.depth, tree.sees)
        row = np.arange(count)[:, None, None]
        log_p = logits[row, tree.node, ids[chosen][:, :, 1:]] - _log_sum(logits)[row, tree.node]
        score = log_first + (log_p * mask[chosen][:, :, 1:]).sum(axis=2)
        shares = softmax(score / self.facts.temperature)
        order = np.argsort(-shares, axis=1, kind="stable")
        return [
            [Answer(self.answers[indices[i]], float(share[i])) for i in best]
            for best, indices, share in zip(order, chosen, shares, strict=True)
        ]

    def _generate(self, states: _States) -> list[list[Answer]]:
        tokenizer, settings = self.tokenizer, self.answering
        count = len(states["question_mask"])

        def likely(rows: Ints) -> tuple[Floats, Ints]:
            length = rows.shape[1]
            ids = rows.reshape(count, -1)  # The beams of a question are the branches of its tree.
            branches = np.kron(np.eye(ids.shape[1] // length), np.tril(np.ones((length, length))))
            sees = branches[None] * (ids != tokenizer.pad_id)[:, None, :]
            positions = np.tile(np.arange(length), (count, ids.shape[1] // length))
            logits = self._logits(states, ids, positions, sees)
            log_p = _log_softmax(logits.reshape(*rows.shape, -1)[:, -1])
            log_p[:, [tokenizer.pad_id, tokenizer.cls_id]] = -np.inf
            best = np.argsort(-log_p, axis=1, kind="stable")[:, : settings.beams]
            return np.take_along_axis(log_p, best, axis=1), best

        ids, score = beam_search(
            likely, count, tokenizer, beams=settings.beams, max_tokens=settings.max_tokens
        )
        texts = [tokenizer.decode(row) for row in ids.tolist()]
        shares = np.exp(score).tolist()
        return [[Answer(*pair)] for pair in zip(texts, shares, strict=True)]


def _log_sum(logits: Floats) -> Floats:
    """Return the logarithm of the summed exponentials, (..., V) to (...)."""
    top = logits.max(axis=-1)
    result: Floats = top + np.log(np.exp(logits - top[..., None]).sum(axis=-1))
    return result


def _log_softmax(logits: Floats) -> Floats:
    return logits - _log_sum(logits)[..., None]
