"""Cleaning and tokenising, against what the original code makes of the same texts."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertTokenizer

from albef.preprocessing.text import (
    TextTokenizer,
    clean_caption,
    clean_question,
    is_blank,
    mask_tokens,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
TEXTS: dict[str, Any] = json.loads((FIXTURES / "text_and_schedule.json").read_text())
TOKENIZER: dict[str, Any] = json.loads((FIXTURES / "tokenizer.json").read_text())


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(TOKENIZER["vocab"]) + "\n")
    return path


def test_captions_are_cleaned_as_in_the_original() -> None:
    assert len(TEXTS["pre_caption"]) == 64
    for case in TEXTS["pre_caption"]:
        assert clean_caption(case["in"], case["max_words"]) == case["out"], case


def test_questions_are_cleaned_as_in_the_original() -> None:
    assert len(TEXTS["pre_question"]) == 96
    for case in TEXTS["pre_question"]:
        assert clean_question(case["in"], case["max_ques_words"]) == case["out"], case


@pytest.mark.parametrize("call", TOKENIZER["calls"], ids=lambda call: call["label"])
def test_ids_and_masks_equal_the_original(call: dict[str, Any], vocabulary: Path) -> None:
    settings = call["kwargs"]
    most = settings["max_length"] if settings.get("truncation") else 512
    ids, mask = TextTokenizer.load(vocabulary).encode(call["texts"], most)
    expected = np.array(call["input_ids"])
    length = ids.shape[1]  # the original pads some calls to a fixed length; ours never do
    assert np.array_equal(ids, expected[:, :length])
    assert np.array_equal(mask, np.array(call["attention_mask"])[:, :length])
    assert not expected[:, length:].any()
    assert length == expected.shape[1] or settings["padding"] == "max_length"


def test_a_saved_tokenizer_gives_the_same_ids(vocabulary: Path, tmp_path: Path) -> None:
    tokenizer = TextTokenizer.load(tmp_path)  # the folder of a vocab.txt
    tokenizer.save(tmp_path / "saved.json")
    texts = ["a man rides horses", "yes[SEP]"]
    again = TextTokenizer.load(tmp_path / "saved.json").encode(texts, 30)[0]
    assert np.array_equal(tokenizer.encode(texts, 30)[0], again)
    assert "[SEP]" not in tokenizer.tokenizer.encode("a man rides").tokens


@pytest.mark.parametrize(
    "content", [b"a\nb\n", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", b"\xff\xfe"]
)
def test_what_is_not_a_vocabulary_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not a vocabulary"):
        TextTokenizer.load(path)


def test_words_of_a_group_are_masked_alone_in_most_of_the_texts_that_have_any(
    vocabulary: Path,
) -> None:
    tokenizer = TextTokenizer.load(vocabulary)
    first, second, other = range(10, 13)
    texts = [[tokenizer.cls_id, first, other, second, other], [tokenizer.cls_id, *4 * [other]]]
    ids, mask = np.tile(texts, (200, 1)), np.ones((400, 5), np.int64)
    rng = np.random.default_rng(0)

    def chosen(probability: float, groups: list[list[int]]) -> tuple[Counter[str], set[str]]:
        """How often each row of positions was, of the texts with words of groups; of the others."""
        rows = mask_tokens(ids, mask, tokenizer, probability, rng, groups)[1].astype(int)
        names = ["".join(map(str, row)) for row in rows]
        return Counter(names[::2]), set(names[1::2])

    counts, others = chosen(0.0, [[first], [second, 13]])
    assert others == {"00000"}
    assert counts.keys() == {"00000", "01000", "00010"}
    assert min(counts.values()) > 30
    assert 30 < counts["00000"] < 70
    counts, others = chosen(1.0, [[first, second]])
    assert others == {"01111"}
    assert counts.keys() == {"01111", "01010"}


def test_a_path_without_a_tokenizer_is_not_looked_up_at_the_hub() -> None:
    for source in ("vocabb.txt", "models/mine/tokenizr.json", "/tmp/nowhere", "a/b/c"):
        with pytest.raises(ValueError, match=f"no tokenizer at {source}.*tokenizer.json"):
            TextTokenizer.load(source)


@pytest.mark.parametrize("most", [2, 4, 5, 30])
def test_a_text_with_an_end_is_cut_as_bert_cuts_it(most: int, vocabulary: Path) -> None:
    """Against the tokenizer of transformers, which keeps [SEP] when it cuts."""
    texts = ["yes", "a man", "a man rides two horses"]
    theirs = BertTokenizer.from_pretrained(str(vocabulary.parent))
    expected = theirs(texts, truncation=True, max_length=most, padding=True, return_tensors="np")
    tokenizer = TextTokenizer.load(vocabulary)
    ids, mask = tokenizer.encode(texts, most, end=True)
    assert ids.tolist() == expected["input_ids"].tolist()
    assert mask.tolist() == expected["attention_mask"].tolist()
    assert (ids == tokenizer.sep_id).sum(axis=1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("text", ["", " ", "\u200b", "\u0001", "\u2060 \u3000", "...", "\u0301"])
def test_texts_with_nothing_to_read_are_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", "\u200ba", "é", "犬", "7", "🐶", "a.", "+"])
def test_texts_with_a_sign_are_not_blank(text: str) -> None:
    assert not is_blank(text)
