"""Image-text retrieval, trained on pairs and re-ranked by ITM (ALBEF, section 5)."""

from albef.data.record import Record
from albef.data.text import TextTokenizer
from albef.models.albef import ModelConfig
from albef.tasks.pairs import PairConfig, PairTask
from albef.tasks.ranking import RankingTask


class Config(PairConfig):
    """Values of a retrieval run."""

    rerank_k: int
    """Candidates of a query that ITM re-ranks; 0 ranks by ITC alone."""


class Task(PairTask, RankingTask):
    """Retrieval, fine-tuned; with 0 epochs, the zero-shot protocol of its ``init``."""

    judges = True
    config: Config

    def __init__(self, config: Config, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, model, tokenizer)
        self.rerank_k = config.rerank_k

    @classmethod
    def claims(cls, record: Record) -> tuple[str, ...]:
        """The captions."""
        return record.captions
