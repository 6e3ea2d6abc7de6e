"""Visual question answering: a decoder that ranks or generates answers (ALBEF, section 5).

A record's caption is the question; its meta has ``answers``, a weight by answer. It may have
``annotators`` (the answers of all annotators), ``question_id`` and ``type``.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from albef.config import Count, fixed
from albef.data.record import Record
from albef.data.shards import Shards
from albef.distributed import world
from albef.loading.reading import Batch, ImageTransform, Records, distinct, stack_distinct_images
from albef.losses.answers import answer_losses, vqa_loss
from albef.losses.distill import ramp
from albef.models.albef import ALBEF, ModelConfig, resized
from albef.models.decoder import AnswerDecoder, decoder_start, generate, rank
from albef.models.kernels import select
from albef.models.momentum import MomentumModel
from albef.models.weights import Checkpoint, CheckpointError, load_strict
from albef.preprocessing.answers import Answer
from albef.preprocessing.text import TextTokenizer
from albef.tasks.answer_list import answer_list
from albef.tasks.rates import Validation, accuracies
from albef.tasks.task import MomentumConfig, RunTask, Table, extend, joined
from albef.tasks.temperature import BATCH, Judged, Numbers
from albef.tasks.vqa_accuracy import answer_scores, chance_scores, judged_answers

if TYPE_CHECKING:
    from albef.runtime.model import Model

TRAINED_WORDS, ASKED_WORDS = 30, 50
"""Maximum number of words of a question in training and in inference, as in the original."""
WRITTEN_TOKENS = 10
"""Maximum number of tokens of a generated answer, including [CLS] and [SEP]."""
TOP = 5
"""Number of answers kept of each question."""
_OPTIONAL = ("annotators", "type", "question_id")

log = logging.getLogger(__name__)


class Config(MomentumConfig):
    """Values of a VQA run."""

    max_tokens: Count = 25
    """Maximum length of a question in training, in tokens."""
    answer_list: str = "train"
    """Candidate answers for ranking: ``train`` for those of the train split, or the path of a JSON
    file with a list of answers."""
    max_answers: Count = 3128
    """Maximum number of candidate answers, taken from the start of the list. Answers of the train
    split are sorted by weight."""
    answering: Literal["rank", "generate"] = "rank"
    """``rank`` ranks the candidate answers, as in the paper. ``generate`` writes an answer
    freely."""
    answer_k: Count = 128
    """Number of candidate answers that are scored in full: those with the most probable first
    token."""
    beams: Count = 3
    """Number of beams if answers are generated; 1 takes the best token at each step."""


@dataclass(frozen=True)
class Collate:
    """Collate of questions with A answers in all.

    The batch has ``image``, ``ids``, ``text_mask``, and of all answers ``answer_ids`` and
    ``answer_mask`` (A, L), ``answer_weights`` and ``answer_owner`` (A,), indices of questions.
    """

    tokenizer: TextTokenizer
    transform: ImageTransform
    max_tokens: int
    answer_tokens: int

    def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
        """Stack the records; raise ValueError if one has no answer."""
        image = np.stack([self.transform(record.image, rng, record.key) for record in records])
        questions = [
            self.tokenizer.clean_question(record.captions[0], TRAINED_WORDS) for record in records
        ]
        ids, mask = self.tokenizer.encode(questions, self.max_tokens)
        answers = [_answers(record) for record in records]
        for record, truths in zip(records, answers, strict=True):
            if not truths:
                raise ValueError(
                    f"record {record.key} has no answers; remove questions without answers from "
                    "the train split"
                )
        answer_ids, answer_mask = self.tokenizer.encode(
            [text for truths in answers for text in truths], self.answer_tokens, end=True
        )
        weights = np.array([w for truths in answers for w in truths.values()], dtype=np.float32)
        owner = np.repeat(np.arange(len(records)), [len(truths) for truths in answers])
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
    """Question answering, fine-tuned; ``answers`` is the list that answers are ranked from."""

    primary: ClassVar[str] = "accuracy"
    metrics = "albef.metrics.vqa"
    does = "answers questions about an image (`ask`)"
    hub = "visual-question-answering"
    capability = "answering"
    asked_words: ClassVar[int] = ASKED_WORDS

    def __init__(self, config: Config, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, model, tokenizer)
        self.answers: list[str] = []
        self.model = ALBEF(model, tokenizer.vocab_size)
        self.model.freeze_projections()
        vocab_size = len(self.model.text_encoder.words)
        self.answer_decoder = AnswerDecoder(model.fused, vocab_size, tokenizer.pad_id)
        self.model_m = MomentumModel(self.model)
        self.answer_decoder_m = MomentumModel(self.answer_decoder)

    @property
    def written_tokens(self) -> int:
        """Maximum number of tokens of a generated answer."""
        return min(WRITTEN_TOKENS, self.sizes.fused.max_positions)

    @classmethod
    def start(cls, config: Config, init: Checkpoint) -> Self:
        """Return a task that starts from another task's checkpoint.

        The decoder starts from the fusion encoder, the embeddings and the MLM head. Tensors stay
        new if the checkpoint lacks them (the head, after retrieval) or if they do not fit (keys and
        values of images of another width).
        """
        task = cls(config, resized(init.model, config.image_size), init.tokenizer)
        tensors = dict(init.tensors)
        if not any(name.startswith("answer_decoder.") for name in tensors):
            tensors |= decoder_start(tensors, task.answer_decoder)
        fresh = ("answer_decoder.", "answer_decoder_m.")
        unused = ("itm_head.", "temperature", "itc_bias", "queue.", "mlm_head.", "mlm_head_m.")
        load_strict(task, tensors, where=str(init.folder), fresh=fresh, dropped=unused)
        names = (f"answer_decoder.{name}" for name in task.answer_decoder.state_dict())
        if any(name not in tensors for name in names):
            task.answer_decoder_m.copy_from(task.answer_decoder)
        return task

    @classmethod
    def blank(cls, config: Config, checkpoint: Checkpoint) -> Self:
        """Return the same model with random weights, for the baseline."""
        task = cls(config, checkpoint.model, checkpoint.tokenizer)
        answers = checkpoint.config.get("facts", {}).get("answers")
        if not answers:
            raise CheckpointError(
                f"{checkpoint.folder} has no list of answers; train it again, or import it with "
                "`albef import --answers FILE`"
            )
        task.answers = list(answers)
        return task

    def facts(self) -> dict[str, Any]:
        """Return the list of answers, and the temperature of their probabilities."""
        return {"answers": self.answers, **super().facts()}

    def prepare(self, train: Shards | None) -> None:
        """Set the list of answers; see :func:`albef.tasks.answer_list.answer_list`."""
        listed = answer_list(self.config.answer_list, self.config.dataset, train)
        ids, _ = self.tokenizer.encode(listed, self.sizes.fused.max_positions, end=True)
        # Answers with equal tokens, such as "Yes" and "yes", count as one: the first is kept.
        first_by_tokens = dict(zip(map(tuple, ids.tolist()[::-1]), listed[::-1], strict=True))
        canonical = set(first_by_tokens.values())
        self.answers = [text for text in listed if text in canonical][: self.config.max_answers]
        unknown = self.tokenizer.unk_id
        if strange := [text for text, row in zip(listed, ids, strict=True) if unknown in row]:
            log.warning(
                "%d of %d answers contain tokens that the vocabulary lacks, such as %r",
                *(len(strange), len(listed), strange[0]),
            )

    def collate(self, transform: ImageTransform) -> Collate:
        """Return the collate of training batches."""
        lengths = self.config.max_tokens, self.sizes.fused.max_positions
        return Collate(self.tokenizer, transform, *lengths)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Return the loss of a micro-batch of B questions with A answers in all."""
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
        owner, mask = batch["answer_owner"], batch["text_mask"]
        fused = fuse(model, model.encode_image(batch["image"]), batch["ids"], mask)
        question = decoder.question_key_values(fused)
        if len(owner) != len(fused):
            question = select(question, owner)
        logits: Tensor = decoder(batch["answer_ids"], batch["answer_mask"], question, mask[owner])
        return logits

    @torch.no_grad()
    def ask(self, images: Tensor, questions: Sequence[str], which: Tensor) -> list[list[Answer]]:
        """Answer B questions, best answer first: ``answer_k`` ranked answers, or a generated one.

        ``which`` (B,) is the index of each question's image in ``images`` (I, 3, H, W).
        """
        config, tokenizer, longest = self.config, self.tokenizer, self.sizes.fused.max_positions
        cleaned = [self.tokenizer.clean_question(question, ASKED_WORDS) for question in questions]
        ids, mask = self.encode(cleaned, longest)
        fused = fuse(self.model, self.model.encode_image(images)[which], ids, mask)
        if config.answering == "generate":
            limits = {"beams": config.beams, "max_tokens": self.written_tokens}
            generated, score = generate(self.answer_decoder, fused, mask, tokenizer, **limits)
            texts = [tokenizer.decode(row) for row in generated.tolist()]
            probabilities = score.exp().tolist()
            return [[Answer(*pair)] for pair in zip(texts, probabilities, strict=True)]
        answers = self.encode(self.answers, longest, end=True)
        indices, ranked = rank(self.answer_decoder, fused, mask, *answers, config.answer_k)
        return [
            [Answer(self.answers[index], value) for index, value in zip(*best, strict=True)]
            for best in zip(indices.tolist(), ranked.tolist(), strict=True)
        ]

    def _asked(
        self, records: Records, batch_size: int, model: "Model | None" = None
    ) -> Iterator[tuple[list[Record], list[list[Answer]]]]:
        """Yield this process' batches of a split, with the best answers to each question."""
        for rows, images in self.read(records, batch_size, model, stack_distinct_images):
            questions = [row.captions[0] for row in rows]
            distinct_rows, which = distinct(rows)  # one image may have many questions
            if model is not None:
                shown = [distinct_rows[i].image for i in which]
                yield rows, model.ask(shown, questions, model.answering.k)
            else:
                which_image = torch.tensor(which, device=self.device)
                yield rows, self.ask(images, questions, which_image)

    def judge(self, records: Records) -> Judged | None:
        """Return the answers to a split; generated ones have no alternatives to compare with."""
        if self.config.answering == "generate":
            return None
        rows: list[tuple[Numbers, float]] = []
        for asked, answers in self._asked(records, BATCH):
            rows += judged_answers(asked, answers)
        return Judged.of(world().join(rows))

    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """Return a row for each question, in order.

        The columns are ``key``, ``question``, ``answer``, ``probability``, ``top`` (the first
        answers), ``truths`` (right answers, the highest weight first), and those of ``annotators``,
        ``type`` and ``question_id`` that a record of the split has.
        """
        table: Table = {}
        for rows, answers in self._asked(records, batch_size, model):
            columns: dict[str, list[Any]] = {
                "key": [row.key for row in rows],
                "question": [row.captions[0] for row in rows],
                "answer": [best[0].text for best in answers],
                "probability": [best[0].probability for best in answers],
                "top": [[answer.text for answer in best[:TOP]] for best in answers],
                "truths": [list(_answers(row)) for row in rows],
                **{name: [row.meta.get(name) for row in rows] for name in _OPTIONAL},
            }
            extend(table, columns)
        table = joined(table)
        empty = [n for n in _OPTIONAL if all(value is None for value in table.get(n, ()))]
        return {name: values for name, values in table.items() if name not in empty}

    def validate(self, table: Table) -> Validation:
        """Return ``accuracy``, overall and by type, with that of a guess."""
        chance = accuracies(chance_scores(table), None)
        return Validation(accuracies(answer_scores(table), table.get("type")), chance["accuracy"])

    @classmethod
    def answer(cls, record: Record) -> str | None:
        """Return the answer with the highest weight."""
        return next(iter(_answers(record)), None)


def fuse(model: ALBEF, image_states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Return ``fused_states`` (B, L, D) of images with states (B, N, D) and questions (B, L)."""
    image = model.fusion_encoder.image_key_values(image_states)
    return model.fuse(model.encode_text(ids, mask), mask, image)


def _answers(record: Record) -> dict[str, float]:
    """Return weights by answer, the highest first; equal weights are sorted alphabetically."""
    weights: Mapping[str, float] = record.meta.get("answers") or {}
    return dict(sorted(weights.items(), key=lambda item: (-item[1], item[0])))
