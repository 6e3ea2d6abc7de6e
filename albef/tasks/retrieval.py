"""Image-text retrieval, trained on pairs and re-ranked by ITM (ALBEF, section 5)."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from albef.config import opt_in
from albef.data.record import Record
from albef.loading.reading import Records
from albef.models.albef import ModelConfig
from albef.models.weights import Checkpoint
from albef.preprocessing.text import TextTokenizer
from albef.tasks.pairs import PairConfig, PairTask
from albef.tasks.ranking import RankingTask, ZeroShot


class Config(PairConfig):
    """Values of a retrieval run."""

    itc: bool = True
    """If true, train the image-text contrastive loss (ITC)."""
    rerank_k: Annotated[int, Field(ge=0)] | None = 128
    """Number of candidates per query that ITM re-ranks. 0 ranks by ITC alone; null re-ranks all."""
    itc_weight: Annotated[float, Field(ge=0)] | Literal["auto"] = opt_in(0.0)
    """Weight of the similarity, divided by the temperature, that is added to ITM's margin to rank
    pairs. 0 ranks by ITM alone, as in the paper. ``auto`` chooses the weight on the val split after
    training, or ranks by contrast alone if ITM does not help there."""
    zero_shot: dict[str, ZeroShot] = Field({})
    """Further splits to evaluate by zero-shot classification, by split name. Splits that the
    dataset does not have are skipped."""


class Task(PairTask, RankingTask):
    """Fine-tuned retrieval; with 0 epochs, the zero-shot protocol of its ``init``."""

    does = (
        "finds images by text and texts by image (`embed_image`, `embed_text`), scores how well an "
        "image and a text match (`match`), and classifies images by class names (`zero_shot`)"
    )
    hub = "zero-shot-image-classification"
    judges = True

    def __init__(self, config: Config, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, model, tokenizer)
        self.rerank_k, self.zero_shot = config.rerank_k if config.itm else 0, config.zero_shot
        self.judges = config.itm  # type: ignore[misc]
        self.itc_weight = 0.0 if config.itc_weight == "auto" else config.itc_weight
        self.train_itc(config.itc)

    @classmethod
    def blank(cls, config: Config, checkpoint: Checkpoint) -> Self:
        """Return the same model with random weights, and with the chosen weight of its scores."""
        task = super().blank(config, checkpoint)
        task.itc_weight = checkpoint.config.get("facts", {}).get("itc_weight", task.itc_weight)
        return task

    def choose(self, val: Records, batch_size: int) -> None:
        """Choose the temperature of ITM's probabilities, and ``itc_weight`` if it is ``auto``."""
        super().choose(val, batch_size)
        if self.config.itc_weight == "auto" and self.rerank_k != 0:
            self.itc_weight = self.choose_weight(val, batch_size)

    def facts(self) -> dict[str, Any]:
        """Return the temperature, and the weight of the similarity unless it is the paper's 0."""
        weight = {"itc_weight": self.itc_weight} if self.itc_weight != 0 else {}
        return super().facts() | weight

    @property
    def further_splits(self) -> tuple[str, ...]:
        """Splits that are classified; sorted, since the keys of a mapping have no order."""
        return tuple(sorted(self.zero_shot))

    @classmethod
    def claims(cls, record: Record) -> tuple[str, ...]:
        """Return the captions."""
        return record.captions
