"""Numbers and values in the words of the page."""

from albef.config import flatten
from albef.report.wording import format_number, web_address


def test_numbers_are_for_readers() -> None:
    numbers = {0: "0", 0.0003: "3e-4", 8.16e-9: "8.16e-9", 12.345: "12.3", 1234567: "1,234,567"}
    assert list(map(format_number, numbers)) == [*numbers.values()]


def test_nested_values_have_dotted_names() -> None:
    assert dict(flatten({"a": {"b": 1, "c": {}}, "d": [1]})) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_only_web_addresses_are_linked() -> None:
    for url in ("javascript:alert(1)", "data:text/html,x", "//x.test"):
        assert web_address(url) == ""
    assert web_address("https://a.test") == "https://a.test"
