"""Visual question answering: a decoder that ranks or writes answers (ALBEF, section 5).

A record has one caption, the question, and ``meta["answers"]``, a weight by answer; it may have
``annotators`` (the answers of all of them), ``question_id`` and ``type``.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from albef.config import Tunable, fixed
from albef.data.record import Record
from albef.data.shards import Shards
from albef.losses.answers import answer_losses, vqa_loss
from albef.losses.distill import ramp
from albef.models.albef import ALBEF, ModelConfig, resized
from albef.models.answer_ranking import rank
from albef.models.decoder import AnswerDecoder, decoder_start, generate
from albef.models.fusion import select
from albef.models.momentum import MomentumTwin
from albef.models.weights import Checkpoint, CheckpointError, load_strict
from albef.preprocessing.answers import Answer
from albef.preprocessing.text import TextTokenizer, clean_question
from albef.preprocessing.transforms import Evaluate, Transform
from albef.tasks.answer_list import answer_list
from albef.tasks.task import (
    Batch,
    Examples,
    Records,
    RunConfig,
    RunTask,
    Table,
    accuracies,
    batches,
)
from albef.tasks.vqa_accuracy import judged, normalised

if TYPE_CHECKING:
    from albef.runtime.model import Model

TRAINED_WORDS, ASKED_WORDS = 30, 50
"""Words kept of a question in training and of one that is asked, as in the original."""
WRITTEN_TOKENS = 10
"""Tokens of the longest answer that is written, marks included."""
TOP = 5
"""Answers kept of each question."""
_OPTIONAL = ("annotators", "type", "question_id")

log = logging.getLogger(__name__)


class Config(RunConfig):
    """Values of a VQA run."""

    alpha: Tunable
    """Weight of the twin in the targets of the answers' tokens."""
    momentum: float
    """Share of the twin that stays at each step."""
    image_size: int
    """Side of the square image, in pixels; position embeddings are resized to it."""
    max_tokens: int
    """Longest question in training, in tokens."""
    answer_list: str
    """Answers that are ranked: ``train`` for those of the train split, or a JSON file of them."""
    max_answers: int
    """Answers kept of the list, the first ones; those of the train split are sorted by weight."""
    answering: Literal["rank", "generate"]
    """Whether an answer is ranked from the list, as in the paper, or written freely."""
    answer_k: int
    """Answers of the list scored in full, those with the most probable first token."""
    beams: int
    """Answers followed at a time where they are written; 1 takes the best token each time."""


@dataclass(frozen=True)
class Collate:
    """Records to ``image``, ``ids``, ``text_mask`` and their A answers in all, one question's after
    the other's: ``answer_ids`` and ``answer_mask`` (A, L), ``answer_weights`` and ``answer_owner``
    (A,), the place of each answer's question."""

    tokenizer: TextTokenizer
    transform: Transform
    max_tokens: int
    answer_tokens: int

    def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
        """Stack the records.

        Raises:
            ValueError: one has no answer.
        """
        image = np.stack([self.transform(record.image, rng, record.key) for record in records])
        questions = [clean_question(record.captions[0], TRAINED_WORDS) for record in records]
        ids, mask = self.tokenizer.encode(questions, self.max_tokens)
        answers = [_answers(record) for record in records]
        if lacking := [r.key for r, own in zip(records, answers, strict=True) if not own]:
            raise ValueError(
                f"{lacking[0]} has no answers, so nothing is learned from it: leave questions "
                "without answers out of the train split"
            )
        answer_ids, answer_mask = self.tokenizer.encode(
            [text for own in answers for text in own], self.answer_tokens, end=True
        )
        weights = np.array([w for own in answers for w in own.values()], dtype=np.float32)
        owner = np.repeat(np.arange(len(records)), [len(own) for own in answers])
        return {
            "image": torch.from_numpy(image),
            "ids": torch.from_numpy(ids),
            "text_mask": torch.from_numpy(mask),
            "answer_ids": torch.from_numpy(answer_ids),
            "answer_mask": torch.from_numpy(answer_mask),
            "answer_weights": torch.from_numpy(weights),
            "answer_owner": torch.from_numpy(owner),
        }


class Task(RunTask):
    """Question answering, fine-tuned.

    Attributes:
        answers: the list that answers are ranked from.
    """

    primary: ClassVar[str] = "accuracy"
    does = "answers questions about a picture (`ask`)"
    hub = "visual-question-answering"
    surface = "answering"
    asked_words: ClassVar[int] = ASKED_WORDS

    def __init__(self, config: Config, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__()
        self.config = config
        self.sizes = model
        self.tokenizer = tokenizer
        self.image_size = config.image_size
        self.resize = Evaluate(config.image_size)
        self.answers: list[str] = []
        self.model = ALBEF(model, tokenizer.vocab_size)
        self.answer_decoder = AnswerDecoder(model.text, tokenizer.vocab_size, model.text.width)
        self.model_m = MomentumTwin(self.model)
        self.answer_decoder_m = MomentumTwin(self.answer_decoder)

    @property
    def written_tokens(self) -> int:
        """Tokens of the longest answer that is written."""
        return min(WRITTEN_TOKENS, self.sizes.text.max_positions)

    @classmethod
    def start(cls, config: Config, init: Checkpoint) -> Self:
        """A task that starts from another's checkpoint.

        Model and twin are taken. The decoder starts as the fusion encoder, the embeddings and the
        masked-language head; what a checkpoint has not (the head, after retrieval) or what does
        not fit (the keys and values of images of another width) stays fresh.
        """
        task = cls(config, resized(init.model, config.image_size), init.tokenizer)
        tensors = dict(init.tensors)
        if not any(name.startswith("answer_decoder.") for name in tensors):
            fits = init.model.image.width == init.model.text.width
            tensors |= decoder_start(tensors, fits=fits)
        load_strict(
            task,
            tensors,
            where=str(init.folder),
            fresh=("answer_decoder.", "answer_decoder_m."),
            dropped=("itm_head.", "temperature", "queue.", "mlm_head.", "mlm_head_m."),
        )
        own = (f"answer_decoder.{name}" for name in task.answer_decoder.state_dict())
        if any(name not in tensors for name in own):
            task.answer_decoder_m.copy_from(task.answer_decoder)
        return task

    @classmethod
    def blank(cls, config: Config, checkpoint: Checkpoint) -> Self:
        """The same model with random weights, for the baseline."""
        task = cls(config, checkpoint.model, checkpoint.tokenizer)
        answers = checkpoint.config.get("facts", {}).get("answers")
        if not answers:
            raise CheckpointError(f"{checkpoint.folder} has no list of answers: train it again")
        task.answers = list(answers)
        return task

    def facts(self) -> dict[str, Any]:
        """The list of answers."""
        return {"answers": self.answers}

    def prepare(self, train: Shards | None) -> None:
        """Make the list of answers.

        Raises:
            ParamsError: there is no train split to take it from, it cannot be read, or it has no
                answer of the train split.
        """
        listed = answer_list(self.config.answer_list, self.config.dataset, train)
        ids, _ = self.tokenizer.encode(listed, self.sizes.text.max_positions, end=True)
        # Answers of equal tokens, as "Yes" and "yes", are one: the first stands for them.
        first = dict(zip(map(tuple, ids.tolist()[::-1]), listed[::-1], strict=True))
        kept = set(first.values())
        self.answers = [text for text in listed if text in kept][: self.config.max_answers]
        unknown = self.tokenizer.tokenizer.token_to_id("[UNK]")
        if strange := [text for text, row in zip(listed, ids, strict=True) if unknown in row]:
            log.warning(
                "%d of %d answers, as %r, are not spelled in the tokens of the vocabulary",
                len(strange), len(listed), strange[0],
            )  # fmt: skip

    def collate(self, transform: Transform) -> Collate:
        """The collate of training batches."""
        return Collate(
            self.tokenizer, transform, self.config.max_tokens, self.sizes.text.max_positions
        )

    def begin_step(self) -> None:
        """Update the twins; the student's forward, which the paper puts before, changes nothing."""
        self.model_m.update(self.model, self.config.momentum)
        self.answer_decoder_m.update(self.answer_decoder, self.config.momentum)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The loss of a micro-batch of B questions with A answers in all."""
        alpha = fixed(self.config.alpha) * ramp(epoch)
        logits = self._logits(self.model, self.answer_decoder, batch)
        logits_m = None
        if alpha > 0:
            with torch.no_grad():
                model_m, decoder_m = self.model_m.model, self.answer_decoder_m.model
                logits_m = self._logits(model_m, decoder_m, batch)
        losses = answer_losses(logits, batch["answer_ids"], batch["answer_mask"], logits_m, alpha)
        loss = vqa_loss(losses, batch["answer_weights"], len(batch["image"]))
        return {"loss": loss, "alpha": torch.full_like(loss.detach(), alpha)}

    def _logits(self, model: ALBEF, decoder: AnswerDecoder, batch: Batch) -> Tensor:
        """Logits (A, L, V) of all answers."""
        owner, mask = batch["answer_owner"], batch["text_mask"]
        fused = fuse(model, batch["image"], batch["ids"], mask)
        question = decoder.question_key_values(fused)
        if len(owner) != len(fused):
            question = select(question, owner)
        logits: Tensor = decoder(batch["answer_ids"], batch["answer_mask"], question, mask[owner])
        return logits

    @torch.no_grad()
    def ask(self, images: Tensor, questions: Sequence[str], which: Tensor) -> list[list[Answer]]:
        """Answers to B questions, best first: ``answer_k`` ranked ones, or one that is written.

        Args:
            images: (I, 3, H, W).
            questions: as they are asked.
            which: (B,) the image that each question is about.
        """
        config, tokenizer = self.config, self.tokenizer
        positions = self.sizes.text.max_positions
        cleaned = [clean_question(question, ASKED_WORDS) for question in questions]
        ids, mask = self._tensors(tokenizer.encode(cleaned, positions))
        states = self.model.encode_image(images)[which]
        image = self.model.fusion_encoder.image_key_values(states)
        fused = self.model.fuse(self.model.encode_text(ids, mask), mask, image)
        if config.answering == "generate":
            written, score = generate(
                self.answer_decoder,
                fused,
                mask,
                start=tokenizer.cls_id,
                end=tokenizer.sep_id,
                pad=tokenizer.pad_id,
                beams=config.beams,
                max_tokens=self.written_tokens,
            )
            texts = [tokenizer.decode(row) for row in written.tolist()]
            shares = score.exp().tolist()
            return [[Answer(*pair)] for pair in zip(texts, shares, strict=True)]
        listed, listed_mask = self._tensors(tokenizer.encode(self.answers, positions, end=True))
        places, ranked = rank(
            self.answer_decoder, fused, mask, listed, listed_mask, config.answer_k
        )
        return [
            [Answer(self.answers[i], share) for i, share in zip(row, own, strict=True)]
            for row, own in zip(places.tolist(), ranked.tolist(), strict=True)
        ]

    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """A row for each question, in order.

        The columns are ``key``, ``question``, ``answer``, ``probability``, ``top`` (the first
        answers), ``truths`` (right answers, the weightiest first) and, where a record of the
        split has them, ``annotators``, ``type`` and ``question_id``.
        """
        every, found = [], []
        for rows in batches(records, batch_size):
            questions = [row.captions[0] for row in rows]
            distinct = {row.image_id: row for row in rows}  # one picture may have many questions
            if model is not None:
                encoded = [distinct[row.image_id].image for row in rows]
                found += model.ask(encoded, questions, model.answering.k)
            else:
                pictures = [self.resize(row.image, key=row.key) for row in distinct.values()]
                order = {image_id: i for i, image_id in enumerate(distinct)}
                which = np.array([order[row.image_id] for row in rows])
                images, index = self._tensors((np.stack(pictures), which))
                found += self.ask(images, questions, index)
            every += [replace(row, image=b"") for row in rows]
        return answered(every, found)

    @classmethod
    def examples(cls, table: Table) -> Examples:
        """What an answer is worth by the annotators, where they are known."""
        nothing = [None] * len(table["answer"])
        rows = zip(table["answer"], table["truths"], table.get("annotators", nothing), strict=True)
        credit = [judged(*row) if row[1] else None for row in rows]
        return Examples("accuracy", credit, "question", "answer", "truths")

    def score(self, table: Table) -> dict[str, float]:
        """``accuracy`` in percent, in all and by type; empty where no answer is known.

        By the official rules where annotators are known; else an answer is right if it equals one
        of the truths after the official normalisation.
        """
        return accuracies(self.examples(table).credit, table.get("type"))

    def chance(self, table: Table) -> dict[str, float]:
        """:meth:`score` of guessing evenly among the right answers to questions of a type."""
        pools: dict[str | None, dict[str, None]] = {}
        for _, truths, _, group in _judged(table):
            pools.setdefault(group, {})[normalised(truths[0])] = None
        right, groups = [], []
        for _, truths, annotators, group in _judged(table):
            pool = pools[group]
            told = {normalised(text) for text in (annotators or truths)} & pool.keys()
            right.append(sum(judged(text, truths, annotators) for text in told) / len(pool))
            groups.append(group)
        return accuracies(right, groups)

    @classmethod
    def answer(cls, record: Record) -> str | None:
        """The weightiest answer."""
        return next(iter(_answers(record)), None)

    def _tensors(self, arrays: Sequence[Any]) -> list[Tensor]:
        """Arrays on the model's device."""
        device = self.model.image_proj.weight.device
        return [torch.from_numpy(array).to(device) for array in arrays]


def answered(rows: Sequence[Record], found: Sequence[Sequence[Answer]]) -> Table:
    """The table of :meth:`Task.predict`: records, and the answers found to each, best first."""
    names = ("key", "question", "answer", "probability", "top", "truths", *_OPTIONAL)
    table: Table = {name: [] for name in names}
    for row, best in zip(rows, found, strict=True):
        table["key"].append(row.key)
        table["question"].append(row.captions[0])
        table["answer"].append(best[0].text)
        table["probability"].append(best[0].probability)
        table["top"].append([answer.text for answer in best[:TOP]])
        table["truths"].append(list(_answers(row)))
        for name in _OPTIONAL:
            table[name].append(row.meta.get(name))
    for name in _OPTIONAL:
        if all(value is None for value in table[name]):
            del table[name]
    return table


def fuse(model: ALBEF, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """``fused_states`` (B, L, D) of images (B, 3, H, W) and questions (B, L)."""
    image = model.fusion_encoder.image_key_values(model.encode_image(images))
    return model.fuse(model.encode_text(ids, mask), mask, image)


def _answers(record: Record) -> dict[str, float]:
    """Weights by answer, the weightiest first, of equals the first by letter."""
    own: Mapping[str, float] = record.meta.get("answers") or {}
    return dict(sorted(own.items(), key=lambda item: (-item[1], item[0])))


def _judged(table: Table) -> list[tuple[str, list[str], list[str] | None, str | None]]:
    """Answer, truths, annotators and type of the rows whose answer is known."""
    nothing = [None] * len(table["answer"])
    columns = (table.get(name, nothing) for name in ("annotators", "type"))
    rows = zip(table["answer"], table["truths"], *columns, strict=True)
    return [row for row in rows if row[1]]
