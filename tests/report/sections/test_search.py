"""The search on the page: its trials, and its evidence."""

from pathlib import Path
from typing import Any

from albef.layout import Layout, Paths
from albef.report.page import Report, render
from albef.report.sections import search
from pipelines.stage import write_json

EVIDENCE = {"metric": "r_mean", "value": 4.0, "start": None, "best": [4.0, 4.0], "spread": 0.0}


def trial(number: int, value: float | None, state: str, error: str = "") -> dict[str, Any]:
    row = {"number": number, "value": value, "state": state, "error": error, "start": False}
    return row | {"params": {"lr": 3e-4}, "values": []}


def test_the_first_of_the_best_trials_is_the_chosen_one_and_errors_are_shown(
    tmp_path: Path,
) -> None:
    layout = Layout(Paths(root=str(tmp_path), models=""))
    write_json(layout.search("a") / "choice.json", {"lr": 3e-4})
    failed = trial(0, None, "fail", "the loss is no number")
    rows = [failed, trial(1, 4.0, "complete"), trial(2, 4.0, "complete")]
    write_json(layout.search("a") / "trials.json", {"trials": rows, "evidence": EVIDENCE})
    found = search.read(layout, "a")
    assert [row["chosen"] for row in found.trials] == [False, True, False]
    page = render(Report(1, searches=(found,)))
    assert "r_mean is 4.00, with the start values –. The best 2 trials differ by at most" in page
    assert '<span class="badge bad">failed</span><small class="error">the loss is no number' in page
