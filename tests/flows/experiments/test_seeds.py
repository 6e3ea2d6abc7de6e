"""`albef run --seeds` on a toy project: real DVC, real Prefect, real clones."""

import re
from pathlib import Path

import pytest

from albef.config import ParamsError
from flows.experiments.seeds import run_seeds
from tests.flows.toy import Toy

CLONE = ".dvc/tmp/variations/clone-0"


@pytest.mark.slow
def test_further_seeds_share_the_data_and_are_compared(
    tmp_path: Path, home: Path, server: str
) -> None:
    toy = Toy.create(tmp_path / "project", home, server)
    told = toy.albef("run --name one --seeds 2")
    trained = ["pretrain", "finetune@retrieval", "evaluate@retrieval"]
    assert sorted(toy.started()) == sorted(["ingest@web", "ingest@scenes", *trained, "report"])
    # The data have a seed of their own, and what is not evaluated is not made.
    assert toy.started(CLONE) == trained
    assert "recorded as experiments one-seed1, one-seed2" in told
    assert "`albef compare one-seed1 one-seed2` shows their spread" in told
    assert not toy.sh("git status --porcelain -- params.yaml")

    flow = "from flows.deployments import seeds; print(seeds('one', count=2))"  # of prefect.yaml
    again = toy.sh(f'python -c "{flow}"')
    assert "recorded 2 experiments as one-seed" in again
    assert toy.started() == toy.started(CLONE) == []
    assert "one-seed2: 0 stages ran; 1 of 1" in again

    gone = toy.path / "products/metrics/gone.json"
    gone.write_text("{}")
    told = toy.albef("run --set evaluate.batch_size=96 --name two --seeds 2 --strict", fails=True)
    assert "stale results: evaluate@gone (no such stage)" in told
    gone.unlink()
    assert toy.started(CLONE) == ["evaluate@retrieval"]
    assert toy.sh("git diff -- params.yaml").count("\n+") == 2  # a header, and the value asked for
    names = " ".join(f"{name}-seed{seed}" for name in ("one", "two") for seed in (1, 2))
    table = toy.albef(f"compare {names}", fails=True)  # the toy makes no predictions
    (row,) = re.findall(r"over seeds.*r_mean +two +(.*?)$", table, re.M | re.S)
    assert row.split(maxsplit=1) == ["2", "0.88 (0.88 to 0.88)  +0.12 (+0.12 to +0.12)  better"]
    toy.sh("git checkout -q params.yaml")


def test_seeds_need_a_name() -> None:
    with pytest.raises(ParamsError, match="--seeds needs --name"):
        run_seeds(None, [], None, 2)
