"""Image captioning: a decoder that attends only to the image and generates a caption.

The paper does not have this task. docs/how-to/add-a-task.md uses this file as its example.
"""

from math import exp
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from albef.loading.reading import Batch, Records
from albef.losses.answers import answer_losses
from albef.models.albef import ModelConfig, build_image_encoder, resized
from albef.models.decoder import AnswerDecoder, decoder_start, generate, log_likelihood
from albef.models.kernels import select
from albef.models.weights import Checkpoint, load_strict
from albef.preprocessing.text import TextTokenizer, clean_caption
from albef.preprocessing.transforms import Transform
from albef.tasks.matching import Collate
from albef.tasks.task import (
    MAX_WORDS,
    Examples,
    RunConfig,
    RunTask,
    Table,
    accuracies,
    extend,
    joined,
)

if TYPE_CHECKING:
    from albef.runtime.model import Model


class Config(RunConfig):
    """Values of a captioning run."""

    beams: Annotated[int, Field(ge=1)] = 3
    """Number of beams when a caption is generated; 1 takes the best token at each step."""


class Task(RunTask):
    """Captioning, fine-tuned by the likelihood of the captions."""

    primary: ClassVar[str] = "token_probability"
    does = "writes a caption of an image"
    hub = "image-to-text"

    def __init__(self, config: Config, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, model, tokenizer)
        self.image_encoder = build_image_encoder(model)
        sizes = model.fused, tokenizer.vocab_size, self.image_encoder.width
        self.answer_decoder = AnswerDecoder(*sizes, tokenizer.pad_id)

    @classmethod
    def start(cls, config: Config, init: Checkpoint) -> Self:
        """Return a task that starts from another task's checkpoint.

        The decoder starts from the fusion layers, which already attend to the image, the embeddings
        and the MLM head. What the checkpoint lacks, or what does not fit, is new.
        """
        task = cls(config, resized(init.model, config.image_size), init.tokenizer)
        tensors = init.tensors
        if init.kind != "captioning":
            image = {n: t for n, t in tensors.items() if n.startswith("model.image_encoder.")}
            decoder = decoder_start(tensors, task.answer_decoder)
            tensors = {n.removeprefix("model."): t for n, t in image.items()} | decoder
        fresh = ("answer_decoder." if init.kind != "captioning" else "answer_decoder.head.",)
        unused = ("answer_decoder_m.",)
        load_strict(task, tensors, where=str(init.folder), fresh=fresh, dropped=unused)
        return task

    def collate(self, transform: Transform) -> Collate:
        """Return the collate of training batches."""
        return Collate(self.tokenizer, transform, self.config.max_tokens, end=True)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Return the loss of a micro-batch of B images with a caption each."""
        image_states = self.image_encoder(batch["image"])
        image_mask = torch.ones(image_states.shape[:2], device=image_states.device)
        image = self.answer_decoder.question_key_values(image_states)
        logits = self.answer_decoder(batch["ids"], batch["text_mask"], image, image_mask)
        losses = answer_losses(logits, batch["ids"], batch["text_mask"], None, 0.0)
        return {"loss": losses.mean()}

    @torch.no_grad()
    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """Return a row for each record, in order.

        The columns are ``key``, ``written`` (the model's caption), ``truths`` (the record's), and
        the ``log_likelihood`` and number of ``tokens`` of all ``truths`` together.
        """
        table: Table = {}
        decoder, device, tokenizer = self.answer_decoder, self.device, self.tokenizer
        for rows, images in self.read(records, batch_size):
            image_states = self.image_encoder(images)
            image_mask = torch.ones(image_states.shape[:2], device=device)
            truths = [[clean_caption(text, MAX_WORDS) for text in row.captions] for row in rows]
            flat = [text for texts in truths for text in texts]
            ids, mask = self.encode(flat, self.config.max_tokens, end=True)
            owners = [i for i, texts in enumerate(truths) for _ in texts]
            owner = torch.tensor(owners, device=device)
            image = select(decoder.question_key_values(image_states), owner)
            states = decoder.states(ids, mask, image, image_mask[owner])
            by_text = log_likelihood(decoder, states, ids, mask)
            likelihood = torch.zeros(len(rows), device=device).index_add(0, owner, by_text)
            tokens = torch.zeros_like(owner[: len(rows)]).index_add(0, owner, mask[:, 1:].sum(1))
            limits = {"beams": self.config.beams, "max_tokens": self.config.max_tokens}
            generated, _ = generate(decoder, image_states, image_mask, tokenizer, **limits)
            columns: Table = {
                "key": [row.key for row in rows],
                "written": [tokenizer.decode(row) for row in generated.tolist()],
                "truths": truths,
                "log_likelihood": likelihood.tolist(),
                "tokens": tokens.tolist(),
            }
            extend(table, columns)
        return joined(table)

    def score(self, table: Table) -> dict[str, float]:
        """Return metrics in percent.

        ``token_probability`` is the geometric mean over the tokens of the captions, and ``exact``
        the share of written captions that equal one of the record's.
        """
        exact = accuracies(self.examples(table).scores, None)["accuracy"]
        mean = sum(table["log_likelihood"]) / sum(table["tokens"])
        return {"token_probability": 100 * exp(mean), "exact": exact}

    @classmethod
    def examples(cls, table: Table) -> Examples:
        """Score a caption 1 if it equals one of the record's, else 0."""
        pairs = zip(table["written"], table["truths"], strict=True)
        scores = [float(text in truths) for text, truths in pairs]
        return Examples("exact", scores, given="written", truth="truths")

    def chance(self, table: Table) -> dict[str, float]:
        """Return the :meth:`score` of random tokens, which never form a useful caption."""
        return {"token_probability": 100 / self.tokenizer.vocab_size, "exact": 0.0}
