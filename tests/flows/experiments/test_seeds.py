"""`albef run --seeds` on a toy project: real DVC, real Prefect, real clones."""

from pathlib import Path

import pytest

from tests.flows.toy import Toy

CLONE = ".dvc/tmp/variations/clone-0"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, home: Path, server: str) -> Toy:
    """A project that has not run yet."""
    return Toy.create(tmp_path_factory.mktemp("toy") / "project", home, server)


@pytest.mark.slow
def test_further_seeds_share_the_data_and_are_compared(toy: Toy) -> None:
    told = toy.albef("run --name one --seeds 2")
    trained = ["pretrain", "finetune@retrieval", "evaluate@retrieval"]
    assert sorted(toy.started()) == sorted(["ingest@web", "ingest@scenes", *trained, "report"])
    # The data have a seed of their own, and what is not evaluated is not made.
    assert toy.started(CLONE) == trained
    assert "recorded as experiments one-seed1, one-seed2" in told
    assert "`albef compare one-seed1 one-seed2` tells their spread" in told
    assert not toy.sh("git status --porcelain -- params.yaml")

    again = toy.albef("run --name one --seeds 2")
    assert toy.started() == toy.started(CLONE) == []
    assert "one-seed2: all of it was there already" in again

    toy.albef("run --set evaluate.batch_size=96 --name two --seeds 2")
    assert toy.started(CLONE) == ["evaluate@retrieval"]
    assert toy.sh("git diff -- params.yaml").count("\n+") == 2  # a header, and the value asked for
    names = " ".join(f"{name}-seed{seed}" for name in ("one", "two") for seed in (1, 2))
    table = toy.albef(f"compare {names}", fails=True)  # the toy makes no predictions
    row = next(line for line in table.splitlines() if "two-seed1, two-seed2" in line)
    assert " 2  0.75 (0.75 to 0.75)  +0.00 (+0.00 to +0.00)  equal" in row
    assert "over seeds" in table
    toy.sh("git checkout -q params.yaml")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--seeds 3", "say its name with --name EXPERIMENT"),
        ("--seeds 0 --name x", "--seeds must be at least 1, got 0"),
        ("--seeds 2 --name x --only pretrain", "takes no --only"),
        ("--seeds 2 --name x --force pretrain", "takes no --force"),
        ("--seeds 2 --name x --dry", "takes no --dry"),
    ],
)
def test_what_cannot_be_repeated_is_a_sentence(toy: Toy, options: str, sentence: str) -> None:
    told = toy.albef(f"run {options}", fails=True)
    assert sentence in told
    assert "Traceback" not in told


def test_code_that_is_not_committed_is_refused_before_anything_runs(toy: Toy) -> None:
    code = toy.path / "code/train.py"
    before = code.read_text()
    code.write_text("# another\n")
    told = toy.albef("run --seeds 2 --name x", fails=True)
    code.write_text(before)
    assert "not as in the last commit: code/train.py" in told
    assert toy.started() == []
