"""Public tokenizers: texts as public encoders were trained on them, here and in an export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertTokenizer, RobertaTokenizer

from albef.models.weights import load_checkpoint
from albef.preprocessing.text import SPECIAL, TextTokenizer, tidy
from albef.runtime.cleaning import TIDY, read_tokenizer, write_tokenizer
from tests.conftest import CAPTIONS, save_task, tiny_task
from tests.models.encoders import write_xlm_roberta

TEXTS = (
    "A dog, left of an apple!", "Two  APPLES above\ta squid.", "", "Ünïcode déjà-vu (犬)",
    "a fox at the top and two tractors at the bottom, and only three frogs beside all of them",
)  # fmt: skip
WORDS = sorted({word for text in CAPTIONS for word in text.split()})
LETTERS = [chr(code) for code in range(33, 127)]


def vocabulary(folder: Path, cased: bool) -> Path:
    folder.mkdir()
    upper = ["Two", "A", "APPLES"] if cased else []
    pieces = [*SPECIAL, *WORDS, *upper, *LETTERS, *(f"##{it}" for it in LETTERS)]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)) + "\n")
    settings = {"do_lower_case": not cased, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def roberta(folder: Path) -> Path:
    """A tokenizer of bytes, like RoBERTa's."""
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([*CAPTIONS, *TEXTS], trainer)
    tokenizer.model.save(str(folder))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vocabularies")
    return {
        "cased": vocabulary(folder / "cased", cased=True),
        "uncased": vocabulary(folder / "uncased", cased=False),
        "roberta": roberta(folder / "roberta"),
    }


def public(folder: Path) -> tuple[TextTokenizer, Any]:
    """Our tokenizer, and that of transformers."""
    if (folder / "merges.txt").exists():
        theirs: Any = RobertaTokenizer.from_pretrained(str(folder))
        return TextTokenizer(
            Tokenizer.from_str(theirs.backend_tokenizer.to_str()), public=True
        ), theirs
    return TextTokenizer.load(folder, public=True), BertTokenizer.from_pretrained(str(folder))


@pytest.mark.parametrize("most", [2, 3, 8, 64])
@pytest.mark.parametrize("name", ["cased", "uncased", "roberta"])
def test_ids_are_those_of_transformers(name: str, most: int, folders: dict[str, Path]) -> None:
    own, theirs = public(folders[name])
    expected = theirs(list(TEXTS), truncation=True, max_length=most, padding=True)
    ids, mask = own.encode(TEXTS, most)
    assert ids.tolist() == expected["input_ids"]
    assert mask.tolist() == expected["attention_mask"]
    assert all(row[length - 1] == own.sep_id for row, length in zip(ids, mask.sum(1), strict=True))
    assert own.encode(TEXTS, most, end=True)[0].tolist() == ids.tolist(), "one [SEP], not two"


def test_only_a_cased_vocabulary_keeps_upper_case(folders: dict[str, Path]) -> None:
    texts = ["Two apples", "two apples"]
    for name, equal in (("cased", False), ("uncased", True)):
        own, _ = public(folders[name])
        upper, lower = own.rows([own.clean(text, 30) for text in texts], 30)
        assert (upper == lower) is equal
    assert TextTokenizer.load(folders["cased"]).clean("Two, apples", 30) == "two apples"


def test_cleaning_keeps_all_but_spaces() -> None:
    assert tidy(" A  dog,\tleft\u3000of  it! ", 30) == "A dog, left of it!"
    assert tidy("A dog, left of it!", 2) == "A dog,"


PIECES = st.sampled_from(
    [*" \t\n\u3000.'!?-/éÉßİΣσ犬", "[MASK]", "[SEP]", "[PAD]", "Two", "dog", "APPLES", "frogs"]
)


@pytest.fixture(scope="module")
def exported(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[TextTokenizer, TextTokenizer, Tokenizer]]:
    """A tokenizer of training, that of the runtime, and the file as other libraries read it."""
    folder, result = tmp_path_factory.mktemp("exported"), []
    for name in ("cased", "uncased"):
        own, _ = public(folders[name])
        path = folder / f"{name}.json"
        write_tokenizer(path, own, TIDY, 5, 9)
        result.append((own, read_tokenizer(path, TIDY), Tokenizer.from_file(str(path))))
    return result


@given(texts=st.lists(st.lists(PIECES, max_size=16).map("".join), min_size=1, max_size=3))
def test_an_export_reads_texts_as_training_does(
    exported: list[tuple[TextTokenizer, TextTokenizer, Tokenizer]], texts: list[str]
) -> None:
    for own, runtime, file in exported:
        ids, mask = own.encode([own.clean(text, 5) for text in texts], 9)
        assert runtime.public
        found = runtime.encode([runtime.clean(text, 5) for text in texts], 9)
        np.testing.assert_array_equal(found[0], ids)
        np.testing.assert_array_equal(found[1], mask)
        np.testing.assert_array_equal([it.ids for it in file.encode_batch(texts)], ids)


def test_an_export_of_xlm_roberta_reads_texts_as_training_does(tmp_path: Path) -> None:
    own = TextTokenizer.load(write_xlm_roberta(tmp_path / "text", list(CAPTIONS)), public=True)
    write_tokenizer(tmp_path / "tokenizer.json", own, TIDY, 6, 12)
    runtime = read_tokenizer(tmp_path / "tokenizer.json", TIDY)
    file = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [*CAPTIONS, "a  dog left </s> of", " <mask> two\tapples", "", "x"]
    ids, _ = own.encode([own.clean(text, 6) for text in texts], 12)
    np.testing.assert_array_equal(runtime.encode([tidy(text, 6) for text in texts], 12)[0], ids)
    np.testing.assert_array_equal([it.ids for it in file.encode_batch(texts)], ids)


@pytest.mark.parametrize("is_public", [True, False])
def test_a_checkpoint_keeps_how_texts_are_read(is_public: bool, tmp_path: Path) -> None:
    task = tiny_task()
    task.tokenizer = TextTokenizer(task.tokenizer.tokenizer, public=is_public)
    again = load_checkpoint(save_task(task, tmp_path)).tokenizer
    assert again.public is is_public
    texts = ["A dog, left of an Apple", "two apples"]
    assert [again.clean(text, 9) for text in texts] == [task.tokenizer.clean(t, 9) for t in texts]
    for found, expected in zip(
        again.encode(texts, 5), task.tokenizer.encode(texts, 5), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
