"""Every ladder of the project on every preset that is made for it."""

from itertools import pairwise
from pathlib import Path

import pytest

from albef.config import read_yaml, validate
from albef.report.ablation import Ladder
from flows.experiments.variations import varied
from flows.values import compose
from pipelines.params import load

ROOT = Path(__file__).parents[3]
LADDERS = sorted((ROOT / "ablations").glob("*.yaml"))
PRESETS = sorted((ROOT / "presets").glob("ablation*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("ladder", LADDERS, ids=lambda path: path.stem)
def test_every_rung_loads_strictly_and_is_another(
    ladder: Path, preset: Path, tmp_path: Path
) -> None:
    rungs = validate(Ladder, read_yaml(ladder), where=str(ladder)).rungs
    whole, texts = compose(preset), []
    for rung in rungs:
        given = [f"{key}={'null' if v is None else v}" for key, v in rung.values.items()]
        texts.append(varied(whole, given, rung.name))
        (tmp_path / "params.yaml").write_text(texts[-1])
        assert load(tmp_path / "params.yaml")
    assert len(set(texts)) == len(rungs)
    assert whole in texts


def test_the_papers_ladder_adds_one_thing_at_a_time() -> None:
    rungs = validate(Ladder, read_yaml(ROOT / "ablations/paper.yaml"), where="paper").rungs
    added = [set(low.values) - set(high.values) for low, high in pairwise(rungs)]
    assert added == [
        {"pretrain.itc", "tasks.retrieval.itc", "tasks.retrieval.rerank_k"},
        {"pretrain.hard_negatives", "tasks.retrieval.hard_negatives"},
        {"pretrain.alpha_itc"},
        {"pretrain.alpha_mlm"},
        {"tasks.retrieval.alpha"},
    ]
    assert rungs[-1].values == {}, "the last one is the preset"
    for low, high in pairwise(rungs):
        assert high.values.items() <= low.values.items()
