import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from albef.preprocessing.text import TextTokenizer, clean_caption, clean_question
from albef.runtime.cleaning import CAPTION, QUESTION, read_tokenizer, write_tokenizer
from tests.conftest import CAPTIONS

WORDS = 4
LETTERS = " \t\n\x0b\x1c\x85\xa0\u2003\u3000.'!?\"()*#:;~,-/<>ΣσςaAéÉßİıﬁ\u0301\u200b犬[]$^"
PIECES = st.sampled_from([*LETTERS, "<person>", "[MASK]", "  ", "dog", "ΟΔΟΣ", "person"])
TEXTS = st.lists(PIECES, max_size=24).map("".join)
CLEANINGS = ((CAPTION, clean_caption), (QUESTION, clean_question))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[TextTokenizer, Path]]:
    """A tokenizer, and its files with each cleaning."""
    folder = tmp_path_factory.mktemp("tokenizers")
    own = TextTokenizer.train([*CAPTIONS, LETTERS], 200)
    own.tokenizer.add_special_tokens(["[MASK]"])
    for i, (cleaning, _) in enumerate(CLEANINGS):
        write_tokenizer(folder / f"{i}.json", own, cleaning, WORDS, 12)
    return [(own, folder / f"{i}.json") for i in range(2)]


@given(text=TEXTS)
def test_the_manifest_describes_the_cleaning(text: str) -> None:
    for cleaning, clean in CLEANINGS:
        described = text.lower()
        for pattern, content in cleaning.replace:
            described = re.sub(pattern, content, described)
        described = cleaning.separator.join(described.split(cleaning.separator)[:WORDS])
        assert described == clean(text, WORDS)


@given(texts=st.lists(TEXTS, min_size=1, max_size=3))
def test_the_tokenizer_cleans_as_training_does(
    tokenizers: list[tuple[TextTokenizer, Path]], texts: list[str]
) -> None:
    for (own, path), (_, clean) in zip(tokenizers, CLEANINGS, strict=True):
        ids, mask = own.encode([clean(text, WORDS) for text in texts], 12)
        found = Tokenizer.from_file(str(path)).encode_batch(texts)
        np.testing.assert_array_equal([encoding.ids for encoding in found], ids)
        np.testing.assert_array_equal([encoding.attention_mask for encoding in found], mask)


def test_it_is_read_without_the_cleaning(
    tokenizers: list[tuple[TextTokenizer, Path]], tmp_path: Path
) -> None:
    plain = TextTokenizer.train(CAPTIONS, 200)
    plain.tokenizer.normalizer = None
    write_tokenizer(tmp_path / "plain.json", plain, CAPTION, WORDS, 12)
    texts = ["a dog's <person>", "Σ-b " * 9, *CAPTIONS]
    for (own, path), cleaning in zip(
        [*tokenizers, (plain, tmp_path / "plain.json")], (CAPTION, QUESTION, CAPTION), strict=True
    ):
        read = read_tokenizer(path, cleaning)
        for found, expected in zip(read.encode(texts, 99), own.encode(texts, 99), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("pattern", [{"Regex": "(a+)+$"}, {"String": "a"}])
def test_a_pattern_of_another_is_refused(
    tokenizers: list[tuple[TextTokenizer, Path]], tmp_path: Path, pattern: dict[str, str]
) -> None:
    (_, path), *_ = tokenizers
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    replace = {"type": "Replace", "pattern": pattern, "content": "aa"}
    for name, part in (
        ("pre_tokenizer", split),
        ("normalizer", {"type": "Sequence", "normalizers": [replace] * 40}),
    ):
        changed = tmp_path / "tokenizer.json"
        changed.write_text(json.dumps({**json.loads(path.read_text()), name: part}))
        with pytest.raises(ValueError, match=r"tokenizer.json.*by a pattern"):
            read_tokenizer(changed, CAPTION)
