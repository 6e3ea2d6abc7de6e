"""Text cleaning and tokenization, without torch, so that serving can use the same code."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from albef.io import first_line, read_json
from albef.preprocessing.hub import REMEDY, prepare_hub

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_OTHERS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
"""Names of the special tokens in vocabularies of RoBERTa and its descendants."""
_HARMLESS = tuple(
    f'{{"type":"Replace","pattern":{{"Regex":" {{2,}}"}},"content":"{space}"}}'.encode()
    for space in " \u2581"
)
"""Replacements of XLM-R's tokenizer, the only ones by a pattern that are accepted."""
DELETED, BREAKS = r"""[,.'!?"()*#:;~]""", "[-/]"
"""Patterns of the characters that cleaning deletes, and of those that it replaces with a space."""
_SPACES = r"\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
RUNS = f"[{_SPACES}]{{2,}}"
"""Pattern of runs of white space; ``\\s`` means other characters in other languages."""
SPACES = f"[{_SPACES}]+"
"""Pattern of white space of any length."""
_DELETED, _BREAKS, _RUNS, _ANY_SPACES = (
    re.compile(pattern) for pattern in (DELETED, BREAKS, RUNS, SPACES)
)


def clean_caption(text: str, max_words: int) -> str:
    """Return a caption cleaned as in the original code: lower case, no punctuation, cut.

    The result has at most ``max_words`` words.
    """
    text = _BREAKS.sub(" ", _DELETED.sub("", text.lower())).replace("<person>", "person")
    text = _RUNS.sub(" ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def clean_question(text: str, max_words: int) -> str:
    """Return a question cleaned as in the original code.

    It is cleaned like a caption, but runs of spaces stay.
    """
    text = _BREAKS.sub(" ", _DELETED.sub("", text.lower())).rstrip(" ")
    return " ".join(text.split(" ")[:max_words])


def tidy(text: str, max_words: int) -> str:
    """Return the first ``max_words`` words of a text with single spaces, and nothing else changed.

    Public encoders were trained on texts with their case and punctuation.
    """
    return " ".join(_ANY_SPACES.sub(" ", text).strip(" ").split(" ")[:max_words])


def is_blank(text: str) -> bool:
    """Return whether nothing is left of a text after cleaning that a tokenizer could read.

    Control characters, spaces of any width and marks without a letter are nothing.
    """
    kept = _BREAKS.sub(" ", _DELETED.sub("", text))
    return all(unicodedata.category(character)[0] in "CMZ" for character in kept)


def text_id(text: str) -> int:
    """Return a 64-bit id that is equal for equal texts."""
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big", signed=True)


class TextTokenizer:
    """Tokenizer that writes ``[CLS] words`` without [SEP], as in the original code.

    Only a generated text, such as an answer, has a [SEP], which marks its end. A vocabulary may
    call these tokens ``<s>`` and ``</s>``, as RoBERTa does.

    With ``public``, texts are read as a public encoder was trained: ``[CLS] words [SEP]``, and
    without the original's cleaning. A cased vocabulary then keeps upper case.
    """

    def __init__(self, tokenizer: Tokenizer, *, public: bool = False) -> None:
        ids: list[int] = []
        for pair in zip(SPECIAL, _OTHERS, strict=True):
            known = (tokenizer.token_to_id(token) for token in pair)
            number = next((number for number in known if number is not None), None)
            if number is None:
                raise ValueError(f"the tokenizer has no {' or '.join(pair)}; use one of BERT")
            ids.append(number)
        self.tokenizer, self.public = tokenizer, public
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids
        start, end = (tokenizer.id_to_token(number) for number in (self.cls_id, self.sep_id))
        special = [(start, self.cls_id), *([(end, self.sep_id)] if public else [])]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{start} $A {end}" if public else f"{start} $A", special_tokens=special
        )
        if public:  # Special tokens that occur in a text are words, as in an export.
            tokenizer.encode_special_tokens = True
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @property
    def vocab_size(self) -> int:
        """Return the number of tokens, special tokens included."""
        return int(self.tokenizer.get_vocab_size())

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Train WordPiece on a corpus; the result depends only on the set of texts."""
        corpus = sorted(texts)
        draft = _wordpiece({})
        letters = {letter for text in corpus for letter in draft.normalizer.normalize_str(text)}
        inner = [f"##{letter}" for letter in sorted(letters) if not letter.isspace()]
        # The library numbers letters inside words in an order that changes between runs, and breaks
        # ties by number. Naming these letters in advance fixes both.
        trainer = WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=[*SPECIAL, *inner], show_progress=False
        )
        draft.train_from_iterator(corpus, trainer)
        return cls(_wordpiece(draft.get_vocab()))

    @classmethod
    def load(cls, source: str | Path, *, patterns: bool = False, public: bool = False) -> Self:
        """Load a tokenizer.

        The source is a ``tokenizer.json`` or ``vocab.txt``, a folder with one of them, or the name
        of a BERT model on Hugging Face. With ``patterns``, it may contain any, which the caller
        removes; see :func:`check_patterns`. ``public`` is that of the class.
        """
        path = Path(source)
        for name in ("tokenizer.json", "vocab.txt"):
            if path.is_dir() and (path / name).is_file():
                path = path / name
        if path.is_file() and path.suffix == ".txt":
            return cls(_from_vocabulary(path), public=public)
        if path.is_file():
            try:
                tokenizer = Tokenizer.from_file(str(path))
                return cls(tokenizer if patterns else check_patterns(tokenizer), public=public)
            except Exception as error:  # tokenizers raises bare Exception
                raise ValueError(f"{path} is not a tokenizer: {error}") from None
        if path.suffix in (".txt", ".json") or len(path.parts) > 2 or path.is_absolute():
            raise ValueError(
                f"there is no tokenizer at {source}; it must be a tokenizer.json, a vocab.txt of "
                "BERT, or a folder with one of them"
            )
        from transformers import AutoTokenizer

        prepare_hub()
        try:
            loaded = AutoTokenizer.from_pretrained(str(source), use_fast=True)
            return cls(loaded.backend_tokenizer, public=public)
        except OSError as error:
            raise ValueError(
                f"tokenizer {source} is neither local nor at the Hugging Face Hub "
                f"({first_line(error)}); {REMEDY}; in pre-training, "
                "tokenizer.source: corpus trains one"
            ) from None

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self.tokenizer.save(str(path))

    def encode(
        self, texts: Sequence[str], max_tokens: int, *, end: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return ids and mask of texts, both (B, L).

        Texts are cut at ``max_tokens`` and padded to the longest. With ``end``, each ends with
        [SEP], which is kept if the text is cut.
        """
        rows = self.rows(texts, max_tokens)
        if end and not self.public:
            rows = [[*row[: max_tokens - 1], self.sep_id] for row in rows]
        return self.pad(rows)

    def clean(self, text: str, max_words: int) -> str:
        """Return a caption as the model reads it, cut at ``max_words``."""
        return (tidy if self.public else clean_caption)(text, max_words)

    def clean_question(self, text: str, max_words: int) -> str:
        """Return a question as the model reads it, cut at ``max_words``."""
        return (tidy if self.public else clean_question)(text, max_words)

    def rows(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Return the ids of each text, cut at ``max_tokens``; the [SEP] of a cut text is kept."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        if not self.public:
            return [row[:max_tokens] for row in rows]
        return [[*row[: min(len(row), max_tokens) - 1], self.sep_id] for row in rows]

    def pad(self, rows: Sequence[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the ids of texts, padded to the longest, and their mask, both (B, L)."""
        longest = max(map(len, rows), default=1)
        ids = [row + [self.pad_id] * (longest - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        shape = len(rows), longest
        return np.array(ids, np.int64).reshape(shape), np.array(mask, np.int64).reshape(shape)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, without special tokens."""
        special = {self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id}
        kept = [number for number in ids if number not in special]
        if not isinstance(self.tokenizer.model, WordPiece):
            return str(self.tokenizer.decode(kept)).strip()
        tokens = (self.tokenizer.id_to_token(number) for number in kept)
        return " ".join(token for token in tokens if token is not None).replace(" ##", "")

    def token_of(self, word: str) -> int | None:
        """Return the id of the token that is a whole word, or None."""
        ids = self.tokenizer.encode(f" {word}", add_special_tokens=False).ids
        return ids[0] if len(ids) == 1 and ids[0] != self.unk_id else None


def check_patterns(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer; raise ValueError if it splits or replaces by a pattern.

    A pattern can take any time or memory, and the library panics where it stops one.
    """
    for part in (tokenizer.normalizer, tokenizer.pre_tokenizer):
        state = b"" if part is None else part.__getstate__()
        for known in _HARMLESS:
            state = state.replace(known, b"")
        if b'"pattern"' in state:
            raise ValueError("it splits or replaces by a pattern; use a tokenizer of BERT")
    return tokenizer


def _wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _from_vocabulary(path: Path) -> Tokenizer:
    """Return BERT's WordPiece tokenizer from a file with one token per line.

    Special tokens that occur in a text are recognized as such.
    """
    try:
        tokens = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} is not a vocabulary; it must be UTF-8 text with a token per line"
        ) from None
    if len(set(tokens)) != len(tokens) or not set(SPECIAL) <= set(tokens):
        raise ValueError(
            f"{path} is not a vocabulary of BERT; it must have a token per line, each once, "
            f"including {', '.join(SPECIAL)}"
        )
    tokenizer = _wordpiece({token: number for number, token in enumerate(tokens)})
    settings = read_json(path.with_name("tokenizer_config.json")) or {}
    if settings.get("do_lower_case") is False:
        tokenizer.normalizer = BertNormalizer(lowercase=False)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def mask_tokens(
    ids: NDArray[np.int64],
    mask: NDArray[np.int64],
    tokenizer: TextTokenizer,
    probability: float,
    rng: np.random.Generator,
    groups: Sequence[Sequence[int]] = (),
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Mask tokens for MLM (ALBEF, section 3.2).

    [PAD], [CLS] and [SEP] are never chosen. Of the chosen tokens, 80 % become [MASK], 10 % a random
    id, and 10 % stay. For three quarters of the texts with ids of ``groups``, one of their groups
    is drawn at random. The ids of that group are chosen instead.

    Returns masked ids (B, L), and the chosen positions as bool (B, L), of ids and mask (B, L).
    """
    is_word = (mask == 1) & ~np.isin(ids, (tokenizer.cls_id, tokenizer.sep_id))
    chosen = (rng.random(ids.shape) < probability) & is_word
    if groups:
        in_group = np.stack([np.isin(ids, group) for group in groups])
        has_group = in_group.any(axis=2)
        group_index = (rng.random(has_group.shape) * has_group).argmax(axis=0)
        by_group = has_group.any(axis=0) & (rng.random(len(ids)) < 0.75)
        chosen = np.where(by_group[:, None], in_group[group_index, np.arange(len(ids))], chosen)
    kind = rng.random(ids.shape)
    random_ids = rng.integers(0, tokenizer.vocab_size, ids.shape)
    masked = np.where(chosen & (kind < 0.8), tokenizer.mask_id, ids)
    masked = np.where(chosen & (kind >= 0.8) & (kind < 0.9), random_ids, masked)
    return masked, chosen
