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
    header, _, first, second = summary(layout).splitlines()
    assert header.split("  ")[-1].strip() == "text only"
    assert first.split() == ["vqa", "accuracy", "61.25", "28.2", "25.5", "26.9"]
    assert second.split() == ["vqa", "other", "5"]
