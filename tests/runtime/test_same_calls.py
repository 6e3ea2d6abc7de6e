"""A checkpoint in torch and its export have the same calls, argument for argument."""

import inspect
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import albef
from tests.conftest import KINDS

DOCUMENTED = ("embed_image", "embed_text", "match", "zero_shot", "ground", "ask", "entail",
              "compare")  # fmt: skip
"""Calls whose docstrings have an example."""
TEXTS = ["a dog", "two apples", "a dog left of an apple", "only three frogs"]


@pytest.mark.parametrize("kind", KINDS)
def test_both_have_the_same_calls_and_answers(
    kind: str,
    tiny_checkpoints: dict[str, Path],
    tiny_exports: dict[str, Path],
    pictures: list[bytes],
    tmp_path: Path,
) -> None:
    models: list[Any] = [albef.load(tiny_checkpoints[kind]), albef.runtime.load(tiny_exports[kind])]
    assert models[0].calls == models[1].calls
    (tmp_path / "a.png").write_bytes(pictures[1])
    opened = Image.open(io.BytesIO(pictures[1]))
    images = [pictures[1], tmp_path / "a.png", opened, np.asarray(opened)]
    given = {"embed_image": (images,), "embed_text": (TEXTS,), "compare": (images, images, TEXTS)}
    for call in models[0].calls:
        arguments = given.get(call, (images, TEXTS))
        torch, onnx = (numbers(getattr(model, call)(*arguments)) for model in models)
        np.testing.assert_allclose(torch, onnx, atol=2e-3, err_msg=call)
        assert len({inspect.signature(getattr(model, call)) for model in models}) == 1


def numbers(answers: Any) -> Any:
    """All numbers of the answers of a call."""
    if isinstance(answers, np.ndarray):
        return answers
    if isinstance(answers[0], dict):
        return [list(row.values()) for row in answers]
    if isinstance(answers[0], list):
        return [[answer.probability for answer in row] for row in answers]
    return [row.probability for row in answers]


@pytest.mark.parametrize("call", DOCUMENTED)
def test_the_example_of_a_call_runs(
    call: str,
    tiny_exports: dict[str, Path],
    pictures: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = {"ground": "grounding", "ask": "vqa", "entail": "entailment", "compare": "nlvr2"}
    model = albef.runtime.load(tiny_exports[kinds.get(call, "retrieval")])
    monkeypatch.chdir(tmp_path)
    for name in ("dog.png", "cat.png"):
        Path(name).write_bytes(pictures[0])
    names: dict[str, Any] = {"model": model}
    lines = re.findall(r">>> (.+)", inspect.getdoc(getattr(type(model), call)) or "")
    assert lines
    for line in lines:
        exec(line, names)
        if shape := re.search(r"# (\(.+\))$", line):
            assert str(eval(line, names)) == shape[1].replace("E", "8")
