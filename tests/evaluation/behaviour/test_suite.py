"""The file of the tests: what it may say, and what is said of a wrong one."""

import json
from pathlib import Path
from typing import Any

import pytest

from albef.config import ParamsError
from albef.evaluation.behaviour.suite import read_suite

RULE: dict[str, Any] = {"expects": "changed", "swap": [["left of", "right of"]]}


def written(folder: Path, tests: object) -> Path:
    path = folder / "own.json"
    path.write_text(json.dumps({"source": "", "common": [], "tests": tests}))
    return path


WRONG: tuple[tuple[object, str], ...] = (
    ({}, "tests"),
    ({"turned": {"expects": "changed"}}, "set one of swap, alike, parts, numbers, another"),
    ({"turned": RULE | {"another": True}}, "not swap and another"),
    ({"turned": RULE | {"swpa": []}}, "did you mean tests.turned.swap?"),
    ({"turned": RULE | {"swap": [["a", "b"], ["B", "c"]]}}, "swap has 'b' in two pairs"),
    ({"like": {"expects": "same", "alike": [["{a} x {b}", "{a} y"]]}}, "different placeholders"),
    ({"like": {"expects": "same", "alike": [["{a} x", "{a.b} y"]]}}, "must be like {a}"),
    ({"Left": RULE}, "'Left' is not a name of a test"),
    ({"overall": RULE}, "'overall' is not a name of a test"),
)


def test_a_wrong_file_names_what_is_wrong(tmp_path: Path) -> None:
    for tests, says in WRONG:
        with pytest.raises(ParamsError) as caught:
            read_suite(written(tmp_path, tests))
        assert says in str(caught.value)
        assert str(caught.value).startswith(str(tmp_path / "own.json"))


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"cannot read behavior tests .*none\.json: No such"):
        read_suite(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ParamsError, match=r"behavior tests .*bad\.json are not JSON"):
        read_suite(tmp_path / "bad.json")
    (tmp_path / "bytes.json").write_bytes(b'{"source": "\xff"}')
    with pytest.raises(ParamsError, match=r"bytes\.json are not JSON"):
        read_suite(tmp_path / "bytes.json")
