"""In which script texts are written, and how their words are counted."""

import pyarrow as pa

from albef.data.record import word_count
from albef.validation.tables import OTHER, scripts


def test_a_text_is_in_the_script_of_most_of_its_letters() -> None:
    expected = {
        "ein Köter, été": "Latin",
        "собака dog": "Cyrillic",
        "σκύλος": "Greek",
        "一只狗在草地上": "Han",
        "いぬがいる": "Hiragana",
        "कुत्ता ab": "Devanagari",
        "개가 있다": "Hangul",
        "كلب": "Arabic",
        "ᚠᚢᚦᚨ dog": OTHER,
        "12 + 3 = 15!": None,
        "": None,
    }
    assert scripts(pa.array(expected)).to_pylist() == [*expected.values()]


def test_words_of_scripts_without_spaces_are_counted() -> None:
    assert [word_count(text) for text in ("一只狗在草地上", "我的 dog 很大", "a dog")] == [7, 5, 2]
