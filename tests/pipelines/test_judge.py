"""The process behind `albef release`: exports measured, judged and described."""

import json
import logging
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from albef.runtime.manifest import NAME
from pipelines.judge import compare, main
from pipelines.stage import write_json
from tests.flows.shop import alter, bring, set_params

EXPORT = "products/exports/retrieval"
FACTS: dict[str, Any] = {
    "run": "retrieval",
    "fetched": EXPORT,
    "version": "v0.2.0",
    "stage": "prod",
    "replaces": "v0.1.0",
    "provenance": {"git revision": "abc"},
    "limits": "",
}


@pytest.fixture
def project(
    tmp_path: Path, tiny_checkpoint: Path, tiny_export: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder, with the products of an evaluated export."""
    bring(tmp_path / "products", tiny_checkpoint, tiny_export)
    set_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(released: str | None = None) -> dict[str, Any]:
    return compare(FACTS | {"released": released})


def test_a_first_release_has_figures_and_a_card(project: Path) -> None:
    found = compared()
    assert found["reasons"] == []
    assert found["note"] == "Stage prod has no version yet to compare with."
    assert all(row[2] == row[4] == "" for row in found["rows"])
    figures = found["figures"]
    assert figures["released"] is None
    assert figures["records"] == 24
    assert set(figures["new"]) == {"float32", "int8"}
    json.dumps(found)
    rates = figures["new"]["int8"]["behaviour"]
    assert {"count", "unrelated"} <= set(rates)
    assert ["behaviour test count", "int8", "", f"{rates['count']:.2f}"] in [
        list(row[:4]) for row in found["rows"]
    ]
    value = figures["new"]["float32"]["metrics"]["r_mean"]
    small = figures["new"]["int8"]["metrics"]["r_mean"]
    for line in (
        "# retrieval v0.2.0",
        "| metric | torch | float32 | int8 | chance | random weights |",
        f"| `r_mean` | 40 | {value:.4g} | {small:.4g} | 22.22 | 22 |",
        f"| `unrelated` | 70 | {figures['new']['float32']['behaviour']['unrelated']:.4g} | "
        f"{figures['new']['int8']['behaviour']['unrelated']:.4g} |  |  |",
        "| git revision | `abc` |",
    ):
        assert line in found["card"].splitlines()


def test_a_worse_model_is_refused_and_an_equal_one_is_not(project: Path) -> None:
    released = "released"
    shutil.copytree(EXPORT, released)
    alter(Path(released))
    found = compared(released)
    assert found["reasons"] == []
    assert found["note"] == "This and v0.1.0 were measured in one process on the same records."
    assert [row[4] for row in found["rows"] if row[0].startswith("r_mean")] == ["+0.00"] * 3
    alter(Path(EXPORT), worse=True)
    reason = compared(released)["reasons"][0]
    assert re.fullmatch(
        r"float32 loses \d\.\d+ points of r_mean \(.* after .*\), more than release.max_drop 1",
        reason,
    )


def test_what_others_would_get_is_the_export_that_was_measured(project: Path) -> None:
    for name, damage in ((NAME, "is not that of"), ("tokenizer.json", "was changed")):
        fetched = Path("fetched", name)
        shutil.rmtree(fetched.parent, ignore_errors=True)
        shutil.copytree(EXPORT, fetched.parent)
        with fetched.open("a") as file:
            file.write("\n")
        (reason,) = compare(FACTS | {"released": None, "fetched": "fetched"})["reasons"]
        assert reason.startswith("export from the DVC remote: ")
        assert damage in reason


def test_an_export_that_cannot_be_read_is_reported_and_none_of_another_kind_succeeds(
    project: Path,
) -> None:
    shutil.copytree(EXPORT, "released")
    values = json.loads(Path("released", NAME).read_text())
    Path("released", NAME).write_text(json.dumps(values | {"format": 1}))
    note = compared("released")["note"]
    assert note.startswith("Not compared with v0.1.0, because it cannot be read: released")
    values["model"]["kind"] = "grounding"
    Path("released", NAME).write_text(json.dumps(values))
    with pytest.raises(ValueError, match="is of kind grounding, but this export"):
        compared("released")


def test_what_cannot_be_compared_is_a_sentence(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("products/exports")
    write_json(Path("facts.json"), FACTS | {"released": None})
    monkeypatch.setattr(sys, "argv", ["judge", "facts.json", "out.json"])
    monkeypatch.setattr(logging.root, "handlers", [])  # or else, the command sets no level
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("albef release: products/exports/retrieval is not an export")
    assert said.count("\n") == 1
    assert not Path("out.json").exists()
