"""The interface of a kind of task, and the values that every training has.

A kind is one file with a `Config` and a `Task`. Report, comparison, cards, serving and release
import no kind and no torch. They read what a kind's artifacts say of themselves: the headline
metric, the roles of columns next to the predictions, and the capability in an export's manifest.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import pyarrow.compute as pc
import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from albef.config import Count, CountOrZero, Range, Section, Share, Tunable, did_you_mean, opt_in
from albef.data.record import Record
from albef.distributed import world
from albef.layout import Runtime
from albef.loading.frozen import FrozenStates, ImageCache, TextCache
from albef.loading.reading import (
    Batch,
    Collate,
    ImageTransform,
    Pairs,
    Part,
    Records,
    Resize,
    read_batch,
    shared,
    stack_images,
    to_device,
)
from albef.loading.workers import ahead
from albef.models.albef import ALBEF, ModelConfig
from albef.models.encoders import PART, freeze
from albef.models.kernels import Precision
from albef.models.momentum import MomentumModel
from albef.models.weights import Checkpoint, load_strict
from albef.preprocessing.text import TextTokenizer
from albef.preprocessing.transforms import AugmentConfig, Evaluate
from albef.tasks.rates import Validation
from albef.tasks.temperature import RECORDS, Judged, temperature

if TYPE_CHECKING:  # An exported model has no shards to read.
    from albef.data.shards import Shards
    from albef.runtime.model import Model

MAX_WORDS = 30
"""Maximum number of words kept of a caption, as in the original."""
MUON_MOMENTUM = 0.95
"""Default of ``muon_momentum``."""
WARMUP_BLOCK = 100
"""Steps between two values in the warm-up of the ``original`` schedule."""


def _check_part(name: str) -> str:
    if not PART.fullmatch(name):
        example = "image_encoder.blocks.0-7"
        known = ("image_encoder", "text_encoder", "text_encoder.embeddings", example)
        raise ValueError(f"there is no part {name}{did_you_mean(name, known)}")
    return name


class LoraConfig(Section):
    """Values of LoRA."""

    rank: Tunable = 8.0
    """Rank of the matrix that an adapter adds to a layer's weight. It is rounded."""
    alpha: Count = 16
    """Scale: what an adapter adds is multiplied by ``alpha / rank``."""
    dropout: Share = 0.0
    """Dropout of the input of adapters."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Linear layers that get adapters, by the ends of their names, such as ``query`` or
    ``crossattention.self.value``. If unset, the layers of attention's queries and values. Layers of
    an encoder in ``freeze`` get none."""

    @model_validator(mode="after")
    def _check_rank(self) -> Self:
        lowest = self.rank.low if isinstance(self.rank, Range) else self.rank
        if lowest < 1:
            raise ValueError(f"rank must be at least 1, got {lowest:g}")
        return self


class TrainingConfig(Section):
    """Values of a training that all tasks share."""

    dataset: str
    """Name of the dataset."""
    epochs: CountOrZero
    """Passes over the train split; 0 trains nothing."""
    global_batch_size: Annotated[int, Field(ge=1)]
    """Samples in one optimizer step, summed over all processes."""
    micro_batch_size: Annotated[int, Field(ge=1)] = Field(
        default_factory=lambda values: values["global_batch_size"]
    )
    """Samples in one forward pass. Contrastive candidates and hard negatives come from this
    micro-batch. If unset, it equals ``global_batch_size``."""
    precision: Precision = "auto"
    """Precision of matrix products. ``auto`` selects bfloat16 if it is known to be faster on the
    device. ``tf32`` and ``float16`` are for older GPUs. Evaluation uses the same precision, except
    that ``auto`` on a CPU evaluates in float32."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer. ``adamw`` is the paper's. ``muon`` moves the matrices of layers along their
    orthogonalized momentum. If weights start at random, it learns as much in about half the steps.
    """
    muon_momentum: Annotated[float, Field(ge=0, lt=1)] = opt_in(MUON_MOMENTUM)
    """Share of Muon's momentum that is kept at each step. A short training learns more with less.
    """
    lr: Tunable
    """Base learning rate."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    """Learning rate at the end of the schedule."""
    warmup_steps: CountOrZero
    """Optimizer steps of linear warm-up, starting from ``min_lr``."""
    weight_decay: Tunable = 0.02
    """Weight decay of AdamW, applied to tensors with two or more dimensions."""
    freeze: tuple[Annotated[str, AfterValidator(_check_part)], ...] = opt_in(())
    """Encoders whose initial weights stay fixed, or parts of them, such as
    ``image_encoder.blocks.0-7`` or ``text_encoder.embeddings``. The layers above them still learn.
    Freezing saves memory and time, and a small dataset then overwrites less of the public weights.
    """
    layer_decay: Annotated[float, Field(gt=0, le=1)] = opt_in(1.0)
    """Factor of the learning rate between a block of an encoder and the block above it. The lowest
    layers of public weights then change least. It needs ``optimizer: adamw``."""
    lora: LoraConfig | None = opt_in(None)
    """LoRA: the encoders keep their weights, and small matrices (adapters) beside their layers
    learn. The published weights contain them. If unset, all weights learn."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Maximum Euclidean norm of the gradient of a step; larger gradients are scaled down. null, as
    in the paper, disables clipping."""
    publish: Literal["last", "best"] = "last"
    """Weights to publish. ``last`` takes those after the last epoch. ``best`` takes those of the
    epoch with the best primary metric on the val split, as in the original's fine-tuning."""
    schedule: Literal["cosine", "original"] = "cosine"
    """Learning-rate schedule. ``cosine`` is smooth. ``original`` is the paper's staircase; its
    warm-up increases every 100 steps of the first epoch."""
    augment: AugmentConfig = AugmentConfig()
    """Image augmentation in training. Allow only changes that keep the captions true."""
    window: Annotated[int, Field(ge=1)] | None = None
    """Number of shards in a shuffling window. Records are shuffled within one window after the
    other, and shards come in random order. null shuffles the whole split."""
    pooled_batches: Annotated[int, Field(ge=0)] = 0
    """Number of batches whose records are sorted and regrouped. 0 keeps each batch as it is
    drawn."""
    pooled_by: Literal["length", "source"] = opt_in("length")
    """Sort key of pooled batches. ``length`` of the longest caption reduces padding. ``source``
    gives almost every batch records of one source, so that the source does not reveal which pairs
    are negative (Nussbaum et al., 2024, arXiv:2402.01613)."""
    source_weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] | None = opt_in(None)
    """Passes over each source of the dataset in an epoch, by source name. A source without an entry
    has 1. If unset, an epoch is one pass over all records."""
    val_records: CountOrZero = opt_in(0)
    """Number of records of the val split, the first ones, that are evaluated after each epoch; 0 is
    all. Re-ranking a whole split may take longer than an epoch."""
    keep_epochs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Epochs whose weights are also kept, as ``NAME/epochs/N``, next to the final weights."""

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        if late := [epoch for epoch in self.keep_epochs if epoch > self.epochs]:
            raise ValueError(f"keep_epochs has {late[0]}, but the run has {self.epochs} epochs")
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        if self.layer_decay < 1 and self.optimizer != "adamw":
            raise ValueError(f"layer_decay {self.layer_decay:g} needs optimizer: adamw")
        if self.muon_momentum != MUON_MOMENTUM and self.optimizer != "muon":
            raise ValueError(f"muon_momentum {self.muon_momentum:g} needs optimizer: muon")
        if self.schedule == "original" and self.warmup_steps % WARMUP_BLOCK:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is not a multiple of {WARMUP_BLOCK}, as "
                "schedule: original requires"
            )
        return self


class RunConfig(TrainingConfig):
    """Values of a run, which is an entry of ``tasks``; the Config of a kind adds its own."""

    kind: str
    """Kind of task: the name of a file in albef/tasks."""
    init: str
    """Folder under ``paths.models`` whose weights the run starts from."""
    image_size: Count
    """Side of the square image, in pixels. Position embeddings are resized to it."""
    max_tokens: Count = 30
    """Maximum length of a text in training, in tokens."""


class MomentumConfig(RunConfig):
    """Values of a run with a momentum model."""

    alpha: Tunable = 0.4
    """Weight of the momentum model's predictions in the targets, for momentum distillation."""
    momentum: Share = 0.995
    """Share of the momentum model's weights that is kept at each step (EMA decay)."""


Table = dict[str, list[Any]]
"""Per-example predictions, column by column; written as Parquet."""


class Task(nn.Module, ABC):
    """A model with a loss and predictions.

    The train loop uses only this interface. A step is, in order: :meth:`begin_step`, the forward
    and backward of each micro-batch, :meth:`end_step`, the optimizer. Forward changes no state.
    """

    primary: ClassVar[str]
    """Name of the metric that search and fine-tuning maximize, in percent like all metrics."""
    capability: ClassVar[str] = ""
    """Capability of an exported model: a name in :data:`albef.runtime.loading.CAPABILITIES`, whose
    graphs are in :mod:`albef.export.graphs`. A kind with "" has no capability and is not exported.
    """
    base: Mapping[str, nn.Parameter] = {}
    """Frozen weights by name that :meth:`state_dict` leaves out, because LoRA adapts them."""
    fuses: bool = True
    """True if a loss reads the fusion encoder, and with it all states of an image."""
    reads_pixels: bool = False
    """True if predictions read the pixels of an image, not only its states."""
    workers: int = 0
    """Number of processes that read and decode images ahead in :meth:`read`; 0 uses this
    process."""

    def __init__(self, config: Any, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__()
        self.config = config
        self.sizes = model
        self.tokenizer = tokenizer
        self.image_size = model.image.image_size
        self.resize: Resize = Evaluate(self.image_size)

    def prepare(self, train: "Shards | None") -> None:
        """Set up the task once before training, from its train split, or None if it has none."""

    def choose(self, val: Records, batch_size: int) -> None:
        """Choose, after training, what is decided on the val split, such as a weight of scores."""

    def cache_frozen(self, runtime: Runtime, splits: Sequence["Shards"]) -> None:
        """Freeze what the values freeze, and read its states in these splits from a cache.

        Without the cache of this machine, each step computes them again.
        """
        freeze(self, self.config.freeze)
        models = [part for part in self.modules() if isinstance(part, ALBEF)]
        several_images = any(split.has_several_images for split in splits)
        if not (models and runtime.frozen_gb) or several_images or self.config.lora:
            return
        limit = int(runtime.frozen_gb * 2**30)
        frozen = FrozenStates(runtime.scratch_root / "frozen", limit, self.sizes)
        image, text = models[0].image_encoder, models[0].text_encoder
        block = image.first_learning()
        # Compiled blocks, and those that the backward pass computes again, ignore a replaced input.
        is_called_once = block is None or not (runtime.recompute or runtime.compile)
        needs_pixels = getattr(self.config, "patch_dropout", 0) or self.reads_pixels
        if block != 0 and is_called_once and not needs_pixels:
            for model in models:
                model.image_encoder.cached_block = block
            parts = frozen.images(image, splits, Evaluate(self.image_size), self.workers)
            if parts is not None:
                pooled = block is None and not self.fuses
                self.resize = ImageCache(Evaluate(self.image_size), parts, pooled)
        if not any(p.requires_grad for p in text.parameters()):
            texts = frozen.texts(text, splits, self._rows)
            if texts is not None:
                known = TextCache(texts)
                for model in models:
                    model.known_texts = known

    def _rows(self, split: "Shards") -> list[tuple[int, ...]]:
        """Return the distinct token ids of the captions of a split."""
        captions = set(pc.list_flatten(split.captions).to_pylist())
        texts = sorted({self.tokenizer.clean(text, MAX_WORDS) for text in captions})
        return sorted(set(map(tuple, self.tokenizer.rows(texts, self.config.max_tokens))))

    def begin_step(self) -> None:
        """Clamp values and update the momentum models, once before the forward passes of a step.

        The momentum model of a module ``NAME`` is ``NAME_m``. The paper runs the student's forward
        first; the result is the same.
        """
        for name, momentum_model in self.named_children():
            if isinstance(momentum_model, MomentumModel):
                momentum_model.update(getattr(self, name.removesuffix("_m")), self.config.momentum)

    @abstractmethod
    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Compute the losses of a micro-batch.

        The result must depend on values of tensors only through tensor operations. Reading a value
        would make the host wait for the GPU.

        Args:
            batch: output of the task's collate.
            epoch: epochs done, in fractions; distillation ramps up over the first.

        Returns:
            The losses by name, with their sum as "loss". It may also have ``temperature`` and
            ``alpha``, which are logged, and tensors (B, ...) for :meth:`end_step`.
        """

    def end_step(self, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Enqueue features, once after the backward passes of a training step."""

    @abstractmethod
    def collate(self, transform: ImageTransform) -> Collate:
        """Return the collate of training batches, which augments with ``transform``."""

    @abstractmethod
    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """Predict each example of a split, in eval mode and without gradient.

        Several processes share the batches (:meth:`read`), and each returns all rows
        (:func:`joined`).

        Args:
            records: records of the split.
            batch_size: records of one forward pass.
            model: exported model of the kind, used instead of this one, as in production.
        """

    @abstractmethod
    def validate(self, table: Table) -> Validation:
        """Return what training follows of predictions on its validation split; a pure function.

        Evaluation scores the same predictions by :mod:`albef.metrics`, of which no training knows.
        """

    @property
    def device(self) -> torch.device:
        """Device that holds the model."""
        return next(self.parameters()).device

    def read(
        self,
        records: Records,
        batch_size: int,
        model: "Model | None" = None,
        stack: Callable[..., Tensor] | None = None,
    ) -> Iterator[tuple[list[Record], Tensor]]:
        """Yield this process' batches of a split, in order, each with its images.

        An exported ``model`` decodes the images itself, so none are yielded. ``stack`` is a
        function like :func:`stack_images`, which is the default; it runs in the workers.
        """
        stacked = None if model is not None else partial(stack or stack_images, resize=self.resize)
        workers = 0 if model is not None else self.workers
        shares = shared(len(records), batch_size)
        for rows, images in ahead(partial(read_batch, records, stacked), shares, workers):
            yield rows, self.pixels(images)

    def pixels(self, images: Tensor) -> Tensor:
        """Return images (..., 3, H, W), given in bytes, normalized on the model's device."""
        return to_device({"image": images}, self.device)["image"].contiguous()

    def texts(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Clean and tokenize captions: ids and mask (T, L), on the model's device."""
        cleaned = [self.tokenizer.clean(caption, MAX_WORDS) for caption in captions]
        return self.encode(cleaned, self.config.max_tokens)

    def encode(
        self, texts: Sequence[str], max_tokens: int, *, end: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Tokenize texts without cleaning: ids and mask (T, L), on the model's device."""
        ids, mask = self.tokenizer.encode(texts, max_tokens, end=end)
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)


class RunTask(Task):
    """A task that a run trains: it starts from another checkpoint and is restored from its own."""

    metrics: ClassVar[str]
    """Module of :mod:`albef.metrics` that scores the predictions of the kind."""
    does: ClassVar[str]
    """Capability of a model of the kind, for its card: "answers questions about an image"."""
    hub: ClassVar[str] = ""
    """Task on the Hugging Face Hub that corresponds to the kind, if there is one."""
    judges: ClassVar[bool] = False
    """True if the kind scores how true any text is of an image; its behavior is then tested."""
    answer_temperature: float = 1.0
    """Temperature that divides the logits of a trained model's probabilities when it is used, as
    :mod:`albef.tasks.temperature` fits it on the val split."""
    gradient: str = ""
    """Prediction output that needs a gradient, such as "gradcam". An export omits it, and is
    compared with torch without it."""

    @classmethod
    @abstractmethod
    def start(cls, config: Any, init: Checkpoint) -> Self:
        """Return a task that takes the weights it can use from another task's checkpoint."""

    @classmethod
    def blank(cls, config: Any, checkpoint: Checkpoint) -> Self:
        """Return the same model with random weights, for the baseline."""
        return cls(config, checkpoint.model, checkpoint.tokenizer)

    @classmethod
    def restore(cls, config: Any, checkpoint: Checkpoint) -> Self:
        """Return the task as it was saved."""
        task = cls.blank(config, checkpoint)
        load_strict(task, checkpoint.tensors, where=str(checkpoint.folder))
        return task

    def judge(self, records: Records) -> Judged | None:
        """Return the model's answers about a split; None if its probabilities are not calibrated.

        Several processes share the split.
        """
        return None

    def choose(self, val: Records, batch_size: int) -> None:
        """Choose the temperature of the model's probabilities."""
        judged = self.judge(Part(val, 0, RECORDS))
        self.answer_temperature = temperature(judged) if judged is not None else 1.0

    def facts(self) -> dict[str, Any]:
        """Return further JSON values about a trained model, in config.json as ``facts``."""
        is_fitted = self.answer_temperature != 1
        return {"temperature": self.answer_temperature} if is_fitted else {}

    @property
    def further_splits(self) -> Sequence[str]:
        """Splits that this run is evaluated on in addition to those of all runs."""
        return ()

    @classmethod
    def answer(cls, record: Record) -> str | None:
        """Return the target that a text-only model guesses; None if there is none."""
        return None

    @classmethod
    def choices(cls, record: Record) -> tuple[str, ...]:
        """Return the candidate answers of this record; if empty, all answers are candidates."""
        return ()

    @classmethod
    def claims(cls, record: Record) -> tuple[str, ...]:
        """Return the texts that are true of the record's image, if the kind sets ``judges``."""
        return ()

    def agreement(
        self, records: Records, pairs: Pairs, batch_size: int, model: "Model | None" = None
    ) -> list[float]:
        """Return the probability that each text is true of its image, if the kind sets ``judges``.

        The pairs are in order of the record's index, which keeps the texts of an image together.
        The other arguments are those of :meth:`predict`.
        """
        raise NotImplementedError


def joined(table: Table) -> Table:
    """Join the rows of all processes, in the order of the split; a process may have none."""
    parts = world().join([table])
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [value for part in parts for value in part.get(name, ())] for name in names}


def extend(table: Table, columns: Mapping[str, Sequence[Any]]) -> None:
    """Add rows to a table, column by column."""
    for name, values in columns.items():
        table.setdefault(name, []).extend(values)
