"""The search on the page: its trials, and its evidence."""

from pathlib import Path
from typing import Any

from albef.layout import Layout, Paths
from albef.report.page import Report, render
from albef.report.sections import search
from albef.report.sections.search import Search
from pipelines.stage import write_json
from tests.report.test_page import trial

EVIDENCE: dict[str, Any] = {
    "metric": "r_mean", "value": 42.0, "start": None, "best": [42.0, 30.0], "spread": 12.0
}  # fmt: skip
TRIALS = (
    trial(0, 40.0, 30.0, 40.0, params={"lr": 1e-4, "alpha": 0.4}, start=True),
    trial(1, 30.0, 20.0, 30.0, params={"lr": 1e-5, "alpha": 0.1}),
    trial(2, 42.0, 31.0, 42.0, params={"lr": 3e-4, "alpha": 0.5}, chosen=True),
    trial(3, None, 5.0, params={"lr": 9e-4, "alpha": 0.9}),
    trial(4, None, params={"lr": 1e-3, "alpha": 0.9}, state="fail", error="the loss is no number"),
)
SEARCH = Search("retrieval", {"lr": 3e-4, "alpha": 0.5}, TRIALS, EVIDENCE)


def test_the_page_shows_the_evidence_and_what_failed() -> None:
    page = render(Report(1, searches=(SEARCH,)))
    assert "r_mean is 42.0, with the start values –. The best 2 trials differ by at most" in page
    assert '<span class="badge bad">failed</span><small class="error">the loss is no number' in page
    assert page == render(Report(1, searches=(SEARCH,)))


def test_the_first_of_the_best_trials_is_the_chosen_one(tmp_path: Path) -> None:
    layout = Layout(Paths(root=str(tmp_path), models=""))
    write_json(layout.search("a") / "choice.json", {"lr": 3e-4})
    rows = [trial(n, value) for n, value in enumerate((None, 4.0, 4.0))]
    write_json(layout.search("a") / "trials.json", {"trials": rows})
    found = search.read(layout, "a")
    assert [row["chosen"] for row in found.trials] == [False, True, False]
