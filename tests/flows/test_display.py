"""What a person sees of a run in a terminal, from the lines of its flow."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.display import Display, displayed
from flows.graph import Node
from tests.products import products as products
from tests.products import project as project

Shown, Patch = Callable[..., str], pytest.MonkeyPatch


@pytest.fixture
def nodes(project: Path) -> dict[str, Node]:
    return {
        "pretrain": Node("pretrain", (), ()),
        "search@vqa": Node("search@vqa", ("pretrain",), ()),
        "evaluate@retrieval": Node("evaluate@retrieval", ("pretrain",), ()),
    }


@pytest.fixture
def shown(nodes: dict[str, Node], capsys: pytest.CaptureFixture[str]) -> Shown:
    """What lines of the flow add to the terminal; without lines: what changes in place."""
    display = Display(nodes, dict.fromkeys(nodes) | {"pretrain": 60.0})

    def of(*lines: str) -> str:
        for line in lines:
            display.line(line)
        if not lines:
            display.console.print(display.get_renderable())
        return capsys.readouterr().err

    return of


def test_a_running_stage_has_a_line_with_its_step_and_time_left(shown: Shown) -> None:
    assert re.search(r"whole run .* 0 of 3 stages ended +>1:00 left", shown())
    assert not shown("pretrain: starts", "pretrain: step 1 of 80, 0.00 steps/s")
    assert re.search(r"pretrain .* step 1 of 80 +(0:59|1:00)", shown())
    assert not shown(
        "pretrain: epoch 1, r_mean 84.10", "pretrain: step 20 of 80, 2 steps/s, 30 s left  loss 3"
    )
    assert re.search(r"pretrain .* step 20 of 80  epoch 1, r_mean 84.10 +0:(29|30)", shown())
    assert re.match(r"pretrain +done +40 s  epoch 1, r_mean 84.10", shown("pretrain: done, 40 s"))
    assert "1 of 3 stages ended" in shown()


def test_the_time_left_of_a_trial_is_not_that_of_the_search(shown: Shown) -> None:
    shown("search@vqa: starts", "search@vqa: search@vqa trial 1: step 5 of 9, 1 steps/s, 4 s left")
    assert re.search(r"search@vqa .* step 5 of 9 +\?", shown())


def test_warnings_and_the_lines_of_a_failed_stage_are_printed_as_they_are(shown: Shown) -> None:
    assert "warning: [red]slow[/red]" in shown(
        "pretrain: starts", "pretrain: warning: [red]slow[/red]"
    )
    assert not shown("pretrain: WARNING: 'products/curves/pretrained' is empty.")
    assert not shown("pretrain: Traceback (most recent call last):")
    told = shown("pretrain: loss is NaN", "pretrain: failed after 2.0 s")
    assert "Traceback" in told
    assert "loss is NaN" in told
    assert re.search(r"pretrain +failed +2.0 s", told)
    assert "search@vqa: not run" in shown("search@vqa: not run, because a stage failed")


@pytest.mark.parametrize("color", [False, True])
def test_an_evaluated_run_shows_its_metrics_and_images_that_it_finds(
    color: bool, nodes: dict[str, Node], capsys: pytest.CaptureFixture[str], monkeypatch: Patch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if color:
        monkeypatch.setenv("FORCE_COLOR", "1")
    display = Display(nodes, dict.fromkeys(nodes))
    display.line("evaluate@retrieval: starts")
    display.line("evaluate@retrieval: done, 9.7 s")
    told = capsys.readouterr().err
    metrics = json.loads(Path("products/metrics/retrieval.json").read_text())
    assert f"r_mean {metrics['test']['r_mean']:.4g}" in " ".join(told.split())
    assert told.count("▀") == 3 * 24 * 12 * color
    assert ("images found for" in told) == color


def test_a_line_that_cannot_be_shown_is_printed_and_so_is_the_next(
    nodes: dict[str, Node], capsys: pytest.CaptureFixture[str], monkeypatch: Patch
) -> None:
    Path("products/metrics/retrieval.json").write_text("{")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    lines = "evaluate@retrieval: starts\nevaluate@retrieval: done, 9.7 s\nnext: a line\n"
    with displayed(nodes, dict.fromkeys(nodes)) as output:
        assert output is not None
        os.write(output, lines.encode())
    told = capsys.readouterr().err
    assert "evaluate@retrieval: done, 9.7 s" in told
    assert "next: a line" in told
