"""Cleaning of texts, as an export describes it: in its manifest and in its tokenizer.json.

Training and this library clean texts with :mod:`albef.preprocessing.text`. Tests check that the
description gives the same tokens. No torch.
"""

import json
from pathlib import Path
from typing import Literal

from tokenizers import Regex, Tokenizer
from tokenizers.normalizers import Lowercase, Normalizer, Replace, Sequence

from albef.config import Section
from albef.preprocessing.text import BREAKS, DELETED, RUNS, SPACES, TextTokenizer, check_patterns

# Python writes a capital sigma at the end of a word as ς, tokenizers as σ.
_FINAL_SIGMA = r"(?<=\p{Cased}\p{Case_Ignorable}*)Σ(?!\p{Case_Ignorable}*\p{Cased})"


class Cleaning(Section):
    """Cleaning of a text before tokenization. The steps have the order of the fields."""

    lowercase: bool = True
    """The text is converted to lower case."""
    replace: tuple[tuple[str, str], ...]
    """Regular expressions, and what replaces their matches, one after the other."""
    separator: Literal[" "] = " "
    """Separator of words. Of a text, the first ``model.max_words`` words are kept."""


CAPTION = Cleaning(
    replace=(
        (DELETED, ""),
        (BREAKS, " "),
        ("<person>", "person"),
        (RUNS, " "),
        (r"(?<![\s\S]) |[ \n](?![\s\S])", ""),
    )
)
"""Description of :func:`albef.preprocessing.text.clean_caption`."""
QUESTION = Cleaning(replace=((DELETED, ""), (BREAKS, " "), (r" +(?![\s\S])", "")))
"""Description of :func:`albef.preprocessing.text.clean_question`."""


TIDY = Cleaning(lowercase=False, replace=((SPACES, " "), (r"(?<![\s\S]) | (?![\s\S])", "")))
"""Description of :func:`albef.preprocessing.text.tidy`, for public encoders."""


def cleaning_of(capability: str, *, public: bool) -> Cleaning:
    """Return the cleaning of the texts that a model of a capability reads.

    ``public`` is that of its tokenizer.
    """
    if public:
        return TIDY
    return QUESTION if capability == "answering" else CAPTION


def _lower(cleaning: Cleaning) -> list[Normalizer]:
    """Return the normalizers that convert a text to lower case as Python does."""
    return [Replace(Regex(_FINAL_SIGMA), "ς"), Lowercase()] if cleaning.lowercase else []


def write_tokenizer(
    path: Path, tokenizer: TextTokenizer, cleaning: Cleaning, max_words: int, max_tokens: int
) -> None:
    """Write a ``tokenizer.json`` that itself cleans, cuts and pads texts, for other libraries."""
    state = json.loads(tokenizer.tokenizer.to_str())
    # Special tokens that occur in a text are words, as after cleaning. A vocabulary may lack them.
    added, state["added_tokens"] = state["added_tokens"], []
    plain = Tokenizer.from_str(json.dumps(state))
    state["added_tokens"] = [it for it in added if plain.token_to_id(it["content"]) is None]
    result = Tokenizer.from_str(json.dumps(state))
    after_the_last_word = rf"(?<= (?:[^ ]* ){{{max_words - 1}}})[\s\S]+"
    replaced = [*cleaning.replace, (after_the_last_word, "")]
    result.normalizer = Sequence(
        [
            *_lower(cleaning),
            *(Replace(Regex(pattern), content) for pattern, content in replaced),
            result.normalizer or Sequence([]),
        ]
    )
    result.enable_truncation(max_tokens)
    padding = tokenizer.tokenizer.id_to_token(tokenizer.pad_id)
    result.enable_padding(pad_id=tokenizer.pad_id, pad_token=padding)
    result.save(str(path))


def read_tokenizer(path: Path, cleaning: Cleaning) -> TextTokenizer:
    """Read a ``tokenizer.json`` without the ``cleaning`` that it was written with."""
    state = json.loads(TextTokenizer.load(path, patterns=True).tokenizer.to_str())
    try:
        # write_tokenizer also adds an entry for each replacement, and one that cuts the text.
        added = len(_lower(cleaning)) + len(cleaning.replace) + 1
        del state["normalizer"]["normalizers"][:added]
        tokenizer = check_patterns(Tokenizer.from_str(json.dumps(state)))
        return TextTokenizer(tokenizer, public=cleaning == TIDY)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
