"""What the tests of original checkpoints share."""

from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from albef.data.text import SPECIAL, TextTokenizer

TOKENS = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), 211))]
"""As many tokens as the fixtures' models embed; what they mean does not matter there."""


def vocabulary() -> TextTokenizer:
    """A tokenizer with the fixtures' vocabulary size."""
    ids = {token: number for number, token in enumerate(TOKENS)}
    return TextTokenizer(Tokenizer(WordPiece(ids, unk_token="[UNK]")))
