"""The real server, held against the runtime before a release."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from albef.release import canary
from albef.release.canary import probe
from albef.runtime.model import Model
from tests.conftest import KINDS
from tests.flows.shop import alter, records


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_server_answers_as_the_export(kind: str, tiny_exports: dict[str, Path]) -> None:
    few = [replace(own, more=(own.image,) if kind == "nlvr2" else ()) for own in records()[:2]]
    export = tiny_exports[kind]
    assert list(probe(export, export, few, threads=1)) == []


def test_an_answer_that_is_another_is_reported(
    tiny_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(model: Model, some: list[object]) -> object:
        return lambda: [2.0]

    monkeypatch.setattr(canary, "main_call", twice)
    (said,) = probe(tiny_export, tiny_export, records()[:1], threads=1)
    assert "server answers [0." in said
    assert said.endswith(" for k0, the local runtime [2.]")


def test_what_the_remote_has_is_served_only_if_it_is_the_export(
    tiny_export: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_export, tmp_path / "other")
    alter(tmp_path / "other")
    (said,) = probe(tiny_export, tmp_path / "other", records()[:1], threads=1)
    assert "text_encoder/1/model.onnx was changed" in said
    shutil.copytree(tiny_export, tmp_path / "edited")
    with open(tmp_path / "edited/manifest.json", "a") as file:
        file.write("\n")
    (said,) = probe(tiny_export, tmp_path / "edited", records()[:1], threads=1)
    assert "which --expect does not name" in said
