"""The table at the end of a run."""

import json
from pathlib import Path
from typing import Any

from albef.config import validate
from albef.layout import Layout, Paths
from flows.results import summary


def test_metrics_that_count_stand_beside_every_baseline(tmp_path: Path) -> None:
    layout = Layout(validate(Paths, {"root": str(tmp_path), "models": "m"}, where="test"))
    layout.metrics("vqa").parent.mkdir(parents=True)
    baselines = {"chance": 28.2, "random_weights": 25.5, "text_only": 26.9}
    metrics: dict[str, Any] = {name: {"test": {"accuracy": n}} for name, n in baselines.items()}
    metrics |= {"test": {"accuracy": 61.25, "other": 5}}
    layout.metrics("vqa").write_text(json.dumps(metrics))
    header, _, *rows = summary(layout).splitlines()
    assert header.split("  ")[-1].strip() == "text only"
    assert rows[0].split() == ["vqa", "accuracy", "61.25", "28.2", "25.5", "26.9"]
    assert rows[1].split() == ["vqa", "other", "5"]
