"""The contract of a kind of task, and the values that every training has.

A kind is one file with a `Config` and a `Task`. Its products say what others have to know of it:
``evaluate`` writes beside the metrics which of them is the headline, and beside the predictions
what each is worth and what its columns hold (:class:`Examples`); ``export`` writes into the
manifest what the model can be asked (:attr:`Task.surface`). Report, comparison, cards, serving and
release read that, import no kind and need no torch.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from albef.config import Section, Tunable, opt_in
from albef.data.record import Record
from albef.distributed import world
from albef.loading.reading import (
    Batch,
    Collate,
    Pairs,
    Records,
    pictures,
    read_batch,
    shared,
    to_device,
)
from albef.loading.workers import ahead
from albef.models.albef import ModelConfig
from albef.models.kernels import Precision
from albef.models.momentum import MomentumTwin
from albef.models.weights import Checkpoint, load_strict
from albef.preprocessing.text import TextTokenizer, clean_caption
from albef.preprocessing.transforms import AugmentConfig, Evaluate, Transform

if TYPE_CHECKING:  # an exported model has no shards to read
    from albef.data.shards import Shards
    from albef.runtime.model import Model

MAX_WORDS = 30
"""Words kept of a caption, as in the original."""
WARMUP_BLOCK = 100
"""Steps between two values of the ``original`` schedule's warm-up."""


class TrainingConfig(Section):
    """Values of a training, whatever its task."""

    epochs: int
    """Passes over the train split; 0 trains nothing."""
    global_batch_size: Annotated[int, Field(ge=1)]
    """Samples of one optimizer step, over all processes."""
    micro_batch_size: Annotated[int, Field(ge=1)] = Field(
        default_factory=lambda values: values["global_batch_size"]
    )
    """Samples of one forward pass; contrastive candidates and hard negatives come from it. Left
    out, it has those of a whole step."""
    precision: Precision = "auto"
    """Type of matrix products; ``auto`` is bfloat16 where it is known to be faster, ``tf32`` and
    ``float16`` are for older GPUs. Evaluation has it too, but for ``auto`` on a processor: there it
    computes in float32."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``adamw`` is the paper's; ``muon`` moves the matrices of layers along their orthogonalised
    momentum, and learns as much in about half of the steps where weights start at random."""
    lr: Tunable
    """Base learning rate."""
    min_lr: float = 1e-6
    """Rate at the end of the schedule."""
    warmup_steps: int
    """Optimizer steps of linear warm-up from ``min_lr``."""
    weight_decay: Tunable = 0.02
    """AdamW's decay of tensors with two or more dimensions."""
    freeze: tuple[Literal["image_encoder", "text_encoder"], ...] = opt_in(())
    """Encoders that keep the weights that they start from. What lies above them learns, at less
    memory and time; a small data set spoils less of what public weights know."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Euclidean norm to which the gradient of a step is cut; null, as in the paper, cuts nothing.
    """
    publish: Literal["last", "best"] = "last"
    """Whose weights are the result: those after the last epoch, or after the one whose primary
    metric on the val split is the best, as the original's fine-tuning takes them."""
    schedule: Literal["cosine", "original"] = "cosine"
    """``cosine`` is smooth; ``original`` is the paper's staircase, whose warm-up climbs every 100
    steps of the first epoch."""
    augment: AugmentConfig = AugmentConfig()
    """What training may do to a picture without making its captions false."""
    window: Annotated[int, Field(ge=1)] | None = None
    """Shards within which records are shuffled, one such window after the other, the shards in
    random order; null shuffles the whole split."""
    pooled_batches: Annotated[int, Field(ge=0)] = 0
    """Batches whose records are sorted by length and cut anew, so that less padding is computed;
    0 leaves each batch as it is drawn."""
    source_weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] | None = opt_in(None)
    """Passes over each source of the data set in an epoch, by name; a source without one has 1.
    Without any, an epoch is one pass over all records."""
    keep_epochs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Epochs whose weights are kept too, as ``NAME/epochs/N``, beside the last ones."""

    @model_validator(mode="after")
    def _check_that_numbers_divide(self) -> Self:
        if late := [epoch for epoch in self.keep_epochs if epoch > self.epochs]:
            raise ValueError(f"keep_epochs has {late[0]}, but there are {self.epochs} epochs")
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is no multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        if self.schedule == "original" and self.warmup_steps % WARMUP_BLOCK:
            raise ValueError(
                f"the original schedule climbs every {WARMUP_BLOCK} steps: warmup_steps "
                f"{self.warmup_steps} is no multiple of {WARMUP_BLOCK}"
            )
        return self


class RunConfig(TrainingConfig):
    """Values of a run, an entry of ``tasks``; a kind's Config adds its own."""

    kind: str
    """Name of the file in albef/tasks."""
    dataset: str
    """Name of the data set."""
    init: str
    """Folder under ``paths.models`` to start from."""
    image_size: int
    """Side of the square image, in pixels; position embeddings are resized to it."""
    max_tokens: int = 30
    """Longest text in training, in tokens."""


class TwinConfig(RunConfig):
    """Values of a run with a momentum twin."""

    alpha: Tunable = 0.4
    """Weight of the twin in the targets."""
    momentum: float = 0.995
    """Share of the twin that stays at each step."""


Table = dict[str, list[Any]]
"""Per-example predictions, column by column; becomes Parquet."""


class Examples(NamedTuple):
    """What each row of a table of predictions is worth, and the columns that show it.

    A row has ``key``, that of its record, and mostly a question, an answer and a truth. Tables of a
    ranking (``query``, ``rank``, ``top``, ...) and of boxes (``box``, ``iou``, ``heat``, ...) are
    drawn as such, whatever their kind.
    """

    metric: str
    """Of :meth:`Task.score`: its value is the mean of the credit, in percent."""
    credit: Sequence[float | None]
    """From 0, wrong, to 1, right, of each row; None where the answer is not known."""
    question: str = ""
    """Column of what was asked, or "" where the picture alone was."""
    given: str = ""
    """Column of the model's answer."""
    truth: str = ""
    """Column of the right answer, or of a list of them; "" where a record holds it."""
    pictures: tuple[str, ...] = ("key",)
    """Columns of the keys of the pictures that the model saw."""
    strata: str = ""
    """Column of groups whose mean credits count alike; "" for a mean over all rows."""
    right: float = 0.5
    """Credit from which an answer counts as right, so that two models can be told apart by it."""


class Task(nn.Module, ABC):
    """A model with a loss, predictions and a score.

    The train loop knows no more than this. A step is, in order: :meth:`begin_step`, the forward
    and backward of each micro-batch, :meth:`end_step`, the optimizer. Forward changes no state.
    """

    primary: ClassVar[str]
    """The metric that search and fine-tuning maximise, in percent as all metrics."""
    surface: ClassVar[str] = ""
    """What a finished model can be asked: a name in :data:`albef.runtime.loading.SURFACES`, which
    :mod:`albef.export.graphs` has the graphs of; "" has no use of its own and is not exported."""
    workers: int = 0
    """Processes that read and decode the pictures of :meth:`read` ahead; 0 does it in this one."""

    def __init__(self, config: Any, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__()
        self.config = config
        self.sizes = model
        self.tokenizer = tokenizer
        self.image_size = model.image.image_size
        self.resize = Evaluate(self.image_size)

    def prepare(self, train: "Shards | None") -> None:
        """Once before training: take what the task has to know of its train split.

        ``train`` is None for a run of no epochs over a data set without one.
        """

    def begin_step(self) -> None:
        """Once before the forward passes of a training step: clamp values, update the twins.

        Of a module ``NAME`` that is ``NAME_m``. The paper has the student's forward before; it
        changes nothing.
        """
        for name, twin in self.named_children():
            if isinstance(twin, MomentumTwin):
                twin.update(getattr(self, name.removesuffix("_m")), self.config.momentum)

    @abstractmethod
    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Losses by name, "loss" their sum; beside them may stand ``temperature`` and ``alpha``,
        which are logged too, and tensors (B, ...) for :meth:`end_step`. Nothing here may depend on
        the value of a tensor but through tensors: a GPU would have to be waited for.

        Args:
            batch: what the task's collate made.
            epoch: epochs done, in fractions: distillation ramps up over the first.
        """

    def end_step(self, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Once after the backward passes of a training step: enqueue features."""

    @abstractmethod
    def collate(self, transform: Transform) -> Collate:
        """The collate of training batches, which augments with ``transform``."""

    @abstractmethod
    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """Per-example predictions on a split, in eval mode and without gradient.

        Several processes share the batches (:meth:`read`) and join the rows (:func:`joined`): each
        returns all of them.

        Args:
            records: of the split.
            batch_size: records of one forward pass.
            model: a finished model of the kind, asked in this one's place as it would be in
                production, if the kind has a surface.
        """

    @abstractmethod
    def score(self, table: Table) -> dict[str, float]:
        """Metrics of predictions, by name; a pure function."""

    @abstractmethod
    def chance(self, table: Table) -> dict[str, float]:
        """What guessing would score on the same examples, by name."""

    @classmethod
    @abstractmethod
    def examples(cls, table: Table) -> Examples:
        """What the rows of a table of :meth:`predict` are worth, and how they are shown."""

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.parameters()).device

    def read(
        self,
        records: Records,
        batch_size: int,
        model: "Model | None" = None,
        stack: Callable[..., Tensor] | None = None,
    ) -> Iterator[tuple[list[Record], Tensor]]:
        """This process' batches of a split, in order, and the pictures of each.

        Args:
            records: of the split.
            batch_size: B, records of a batch.
            model: a finished one, if it is asked: it decodes, and there are no pictures.
            stack: like :func:`pictures`, which it is where it is left out; runs in the workers.
        """
        stacked = None if model is not None else partial(stack or pictures, resize=self.resize)
        workers = 0 if model is not None else self.workers
        shares = shared(len(records), batch_size)
        for rows, images in ahead(partial(read_batch, records, stacked), shares, workers):
            yield rows, self.pixels(images)

    def pixels(self, images: Tensor) -> Tensor:
        """Pictures in bytes (..., 3, H, W), normalised on the model's device."""
        return to_device({"image": images}, self.device)["image"].contiguous()

    def texts(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Cleaned and tokenised captions: ids and mask (T, L), on the model's device."""
        cleaned = [clean_caption(caption, MAX_WORDS) for caption in captions]
        return self.encode(cleaned, self.config.max_tokens)

    def encode(
        self, texts: Sequence[str], max_tokens: int, *, end: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Texts as they are, tokenised: ids and mask (T, L), on the model's device."""
        ids, mask = self.tokenizer.encode(texts, max_tokens, end=end)
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)


class RunTask(Task):
    """A task that a run trains: it starts from a checkpoint and is restored from its own.

    Made of its config, the model's sizes and the tokenizer, it has random weights.
    """

    does: ClassVar[str]
    """What a model of the kind does, for its card: "answers questions about a picture"."""
    hub: ClassVar[str] = ""
    """The task of the Hugging Face Hub that the kind is, if there is one."""
    gradient: str = ""
    """What a prediction takes of the gradient and an export leaves out, as "gradcam"; the export is
    then compared with torch without it."""

    @classmethod
    @abstractmethod
    def start(cls, config: Any, init: Checkpoint) -> Self:
        """A task that takes from another's checkpoint what it can use."""

    @classmethod
    def blank(cls, config: Any, checkpoint: Checkpoint) -> Self:
        """The same model with random weights, for the baseline."""
        return cls(config, checkpoint.model, checkpoint.tokenizer)

    @classmethod
    def restore(cls, config: Any, checkpoint: Checkpoint) -> Self:
        """The task as it was saved."""
        task = cls.blank(config, checkpoint)
        load_strict(task, checkpoint.tensors, where=str(checkpoint.folder))
        return task

    def facts(self) -> dict[str, Any]:
        """What :meth:`restore` has to know beside sizes, values and weights, as JSON values.

        It lies in the checkpoint's config.json under ``facts``.
        """
        return {}

    @property
    def further_splits(self) -> Sequence[str]:
        """Splits that this run is evaluated on beside those that all runs are."""
        return ()

    @classmethod
    def answer(cls, record: Record) -> str | None:
        """What a model that reads only the text has to guess; None where there is none."""
        return None

    @classmethod
    def choices(cls, record: Record) -> tuple[str, ...]:
        """The answers that come into question for this record alone; none given: all."""
        return ()

    judges: ClassVar[bool] = False
    """Whether it says of any text if it is true of a picture, so that its behaviour is tested."""

    @classmethod
    def claims(cls, record: Record) -> tuple[str, ...]:
        """The texts that are true of the record's picture, if the kind judges."""
        return ()

    def agreement(
        self, records: Records, pairs: Pairs, batch_size: int, model: "Model | None" = None
    ) -> list[float]:
        """The probability that each text is true of the picture beside it, if the kind judges.

        Args:
            records: of the split.
            pairs: by place, so that a picture's texts stand together.
            batch_size: pairs of one forward pass.
            model: see :meth:`predict`.
        """
        raise NotImplementedError


def joined(table: Table) -> Table:
    """The rows of all processes, in the order of the split; one of them may have none."""
    parts = world().join([table])
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [value for part in parts for value in part.get(name, ())] for name in names}


def extend(table: Table, columns: Mapping[str, Sequence[Any]]) -> None:
    """Add rows to a table, column by column."""
    for name, values in columns.items():
        table.setdefault(name, []).extend(values)


def accuracies(
    credit: Sequence[float | None], groups: Sequence[str | None] | None
) -> dict[str, float]:
    """``accuracy``, the mean in percent, and ``accuracy_GROUP`` of each group.

    Args:
        credit: from 0, wrong, to 1, right; None where it is not known: such a row counts nowhere.
        groups: of each; "" or None stands for none.
    """
    rows = zip(credit, groups or [None] * len(credit), strict=True)
    scored = [(value, group) for value, group in rows if value is not None]
    if not scored:
        return {}
    right, groups = zip(*scored, strict=True)
    result = {"accuracy": 100.0 * sum(right) / len(right)}
    for group in sorted({group for group in groups if group}):
        of_group = [value for value, label in scored if label == group]
        name = re.sub(r"\W+", "_", group)
        result[f"accuracy_{name}"] = 100.0 * sum(of_group) / len(of_group)
    return result
