"""The table at the end of a run."""

import json
from pathlib import Path

from albef.config import validate
from albef.layout import Layout, Paths
from flows.results import summary


def test_every_baseline_has_a_column(tmp_path: Path) -> None:
    root = str(tmp_path)
    layout = Layout(validate(Paths, {"root": root, "models": root}, where="test"))
    path = layout.metrics("vqa")
    path.parent.mkdir(parents=True)
    baselines = {"chance": 28.2, "random_weights": 25.5, "text_only": 26.9}
    sections = {name: {"test": {"accuracy": value}} for name, value in baselines.items()}
    path.write_text(json.dumps({"test": {"accuracy": 61.25, "other": 5}, **sections}))
    header, _, first, second, *_ = summary(layout).splitlines()
    assert header.split("  ")[-1].strip() == "text only"
    assert first.split() == ["vqa", "accuracy", "61.25", "28.2", "25.5", "26.9"]
    assert second.split() == ["vqa", "other", "5"]


def test_what_a_run_is_judged_by_is_shown_and_the_rest_is_named(tmp_path: Path) -> None:
    root = str(tmp_path)
    layout = Layout(validate(Paths, {"root": root, "models": root}, where="test"))
    for path, value in (
        (layout.metrics("retrieval"), {
            "test": {"r_mean": 80.0, "itc_r_mean": 79.0, "tr@1": 50.0},
            "pairs": {"accuracy": 75.0, "accuracy_count": 60.0},
            "headline": {"test": "r_mean", "pairs": "accuracy"},
        }),
    ):  # fmt: skip
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(value))
    _, _, *rows = summary(layout).splitlines()
    assert [row.split()[1] for row in rows[:2]] == ["r_mean", "itc_r_mean"]
    assert rows[2].split() == ["retrieval", "pairs", "accuracy", "75"]
    assert rows[3:] == ["", "all metrics: dvc metrics show"]
