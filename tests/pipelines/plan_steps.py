"""The plan of a preset; test_plan.py runs this file in a process of its own."""

from pathlib import Path

import pytest

from albef.config import ParamsError
from pipelines.params import Params, load
from pipelines.plan import Gpus, Trainings, main

PRESETS = Path("presets")
SMOKE = "pretrained retrieval vqa entailment text_assignment nlvr2 grounding"
PAPER = "pretrained coco flickr vqa entailment text_assignment nlvr2 grounding"


def smoke(**changes: object) -> Params:
    """The smallest preset with pre-training and retrieval alone."""
    params = load(PRESETS / "smoke.yaml")
    pretrain = params.pretrain.model_copy(update={"optimizer": "adamw", **changes})
    tasks = {"retrieval": params.tasks["retrieval"]}
    return params.model_copy(update={"pretrain": pretrain, "tasks": tasks})


def test_a_step_needs_its_state_its_gradients_and_its_activations() -> None:
    params = smoke(precision="float32")
    trainings = Trainings(params, gpus=1)
    small, half = (trainings.need("pretrained", size) for size in (8, 16))
    task = trainings.task("pretrained")
    learning = sum(p.nbytes for p in task.parameters() if p.requires_grad)
    held = sum(tensor.nbytes for tensor in task.state_dict().values())
    assert small.state == half.state
    assert held + 2 * learning <= small.state <= 1.01 * (held + 2 * learning)  # AdamW's two
    assert half.flops == pytest.approx(2 * small.flops, rel=0.1)
    assert 2 * (half.peak - small.peak) == pytest.approx(half.peak - half.state, rel=0.3)
    # A micro-batch that is the whole batch meets no gradients of an earlier one.
    alone = Trainings(smoke(precision="float32", global_batch_size=16), gpus=1)
    less = half.peak - alone.need("pretrained", 16).peak
    assert 0.5 * learning < less <= learning

    lower = Trainings(smoke(), gpus=1).need("pretrained", 16)  # `auto`: in 16 bits on a GPU
    assert lower.peak < half.peak
    runtime = params.runtime.model_copy(update={"recompute": True})
    again = Trainings(params.model_copy(update={"runtime": runtime}), gpus=1)
    recomputed = again.need("pretrained", 16)
    assert recomputed.peak < half.peak
    assert recomputed.flops > 1.1 * half.flops
    runtime = params.runtime.model_copy(update={"shard": True})
    split = Trainings(params.model_copy(update={"runtime": runtime}), gpus=2).need("pretrained", 8)
    assert 0.5 < split.state / small.state < 0.8, "embeddings and the queue stay whole"
    assert small.peak - split.peak > small.state - split.state


def test_the_largest_micro_batch_fits_and_divides_the_batch() -> None:
    trainings = Trainings(smoke(), gpus=2)
    assert trainings.sizes("retrieval") == [2, 4, 8, 16]
    limit = trainings.need("retrieval", 8).peak
    assert trainings.largest("retrieval", limit) == 8
    assert trainings.largest("retrieval", trainings.need("retrieval", 2).peak - 1) is None


def rows(printed: str) -> list[list[str]]:
    """The cells of a printed plan."""
    return [line.strip("| ").split(" | ") for line in printed.splitlines()[2:]]


@pytest.mark.parametrize(
    ("preset", "gpus", "trainings"),
    [
        ("smoke", Gpus(1, 2.0, 1e12), SMOKE),
        ("bring-your-own", Gpus(1, 24.0, 1e14), "flickr"),  # its checkpoint is not here
        ("paper-4m", Gpus(8, 80.0, 1e14), PAPER),
    ],
)
def test_a_preset_is_planned(
    preset: str, gpus: Gpus, trainings: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(PRESETS / f"{preset}.yaml", gpus, []) == 0
    found = rows(capsys.readouterr().out)
    assert [cells[0] for cells in found] == trainings.split()
    assert {cells[5] for cells in found} == {"yes"}


def test_the_plan_is_a_table_that_says_what_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.plan.load", lambda path, related: smoke())
    assert main(Path(), Gpus(1, 2.0, 1e12), ["scenes=1000"]) == 0
    found = rows(capsys.readouterr().out)
    assert [cells[0] for cells in found] == ["pretrained", "retrieval"]
    assert [cells[5] for cells in found] == ["yes", "yes"]
    assert [cells[8] == "?" for cells in found] == [True, False], "the rows of web are unknown"
    hours, epochs = float(found[1][7]), smoke().tasks["retrieval"].epochs
    assert float(found[1][8]) == pytest.approx(hours / 24 * 1000 / 1e6 * epochs, rel=0.1)

    assert main(Path(), Gpus(1, 1.0, 1e12), []) == 1
    assert "| none |" in capsys.readouterr().out
    assert main(Path(), Gpus(3, 99.0, 1e12), []) == 1, "the batch is not for three GPUs"
    for item, problem in (("web", "NAME=COUNT"), ("wob=3", "web")):
        with pytest.raises(ParamsError, match=problem):
            main(Path(), Gpus(1, 1.0, 1e12), [item])
