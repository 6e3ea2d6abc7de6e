"""Every ablation of the project on every preset that is made for it."""

from itertools import product
from pathlib import Path

from albef.config import read_yaml, validate
from flows.experiments.ablate import Ablation
from flows.values import compose, overridden
from pipelines.params import load

ROOT = Path(__file__).parents[3]
ABLATIONS = sorted((ROOT / "ablations").glob("*.yaml"))
PRESETS = sorted((ROOT / "presets").glob("ablation*.yaml"))


def test_every_step_loads_strictly_and_is_another(tmp_path: Path) -> None:
    for file, preset in product(ABLATIONS, PRESETS):
        steps = validate(Ablation, read_yaml(file), where=str(file)).steps
        whole, texts = compose(preset), []
        for step in steps:
            given = [f"{key}={'null' if v is None else v}" for key, v in step.values.items()]
            texts.append(overridden(whole, given, step.name))
            (tmp_path / "params.yaml").write_text(texts[-1])
            assert load(tmp_path / "params.yaml")
        assert len(set(texts)) == len(steps)
        assert whole in texts
