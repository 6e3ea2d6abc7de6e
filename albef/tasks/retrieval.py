"""Image-text retrieval, trained on pairs and re-ranked by ITM (ALBEF, section 5)."""

from typing import Annotated

from pydantic import Field

from albef.data.record import Record
from albef.models.albef import ModelConfig
from albef.preprocessing.text import TextTokenizer
from albef.tasks.matching import PairConfig, PairTask
from albef.tasks.ranking import RankingTask, ZeroShot


class Config(PairConfig):
    """Values of a retrieval run."""

    itc: bool = True
    """If true, train the image-text contrastive loss (ITC)."""
    rerank_k: Annotated[int, Field(ge=0)] | None = 128
    """Number of candidates per query that ITM re-ranks. 0 ranks by ITC alone; null re-ranks all."""
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
        self.train_itc(config.itc)

    @property
    def further_splits(self) -> tuple[str, ...]:
        """Splits that are classified; sorted, since the keys of a mapping have no order."""
        return tuple(sorted(self.zero_shot))

    @classmethod
    def claims(cls, record: Record) -> tuple[str, ...]:
        """Return the captions."""
        return record.captions
