"""The train loop on a tiny real model and real shards."""

import contextlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from albef.loading.reading import to_device
from albef.training.loop import NonFiniteError
from albef.training.state import TrainingState, kept
from tests.conftest import tiny_task
from tests.data import toy
from tests.pipelines.states import step_of
from tests.training.toy_training import loader_of, train_toy

Whole = tuple[dict[str, torch.Tensor], Path]


class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    toy.write(folder, [toy.record(i) for i in range(13)])
    return folder


def run(
    data: Path, scratch: Path, *, kill_at: int | None = None, workers: int = 0, **values: object
) -> dict[str, torch.Tensor]:
    return train_toy(tiny(**values), data, scratch, dying(kill_at), workers=workers)


def dying(at: int | None) -> Callable[[int, int, Mapping[str, float]], None]:
    """Shows progress by dying after a step."""

    def progress(step: int, total: int, means: Mapping[str, float]) -> None:
        if step == at:
            raise Killed

    return progress


def tiny(**values: object) -> Any:
    torch.manual_seed(3)
    task = tiny_task()
    task.config = task.config.model_copy(update={"epochs": 4, **values})
    return task


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The weights of a training that never stopped, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return run(data, folder, keep_epochs=(2,)), folder


def curves(folder: Path) -> dict[str, str]:
    root = folder / "curves"
    return {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*.tsv"))}


def test_a_run_that_is_killed_and_resumes_ends_as_one_that_never_stopped(
    data: Path, tmp_path: Path, whole: Whole
) -> None:
    weights, folder = whole
    for kill_at in (1, 6):  # before a state is saved, and after
        with pytest.raises(Killed):
            run(data, tmp_path, kill_at=kill_at)
    resumed = run(data, tmp_path)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert curves(folder) == curves(tmp_path)
    lines = curves(tmp_path)["plots/metrics/lr.tsv"].splitlines()
    steps = [line.split("\t")[0] for line in lines]
    assert steps == ["step", "9", "11"]


def test_a_state_of_other_code_is_gone_on_with_and_warned_of(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for code, kill_at, warned in (("a", 6, False), ("a", 8, False), ("b", None, True)):
        with contextlib.suppress(Killed):
            train_toy(tiny(), data, tmp_path, dying(kill_at), code=code)
        changed = f"code has changed since step 5; delete {tmp_path}"
        assert bool(re.search(changed, caplog.text)) is warned
    train_toy(tiny(), data, tmp_path, dying(None), code="c")
    assert caplog.text.count("code has changed") == 1  # a finished one is only published


def test_frozen_encoders_keep_their_weights_in_model_and_momentum_model(
    data: Path, tmp_path: Path
) -> None:
    values = {"freeze": ("image_encoder", "text_encoder"), "layer_decay": 0.5}
    before = {name: tensor.clone() for name, tensor in tiny().state_dict().items()}
    whole = run(data, tmp_path / "whole", **values)
    frozen = {
        name for name in whole if re.match(r"model(_m\.model)?\.(image|text)_encoder\.", name)
    }
    assert len(frozen) > 20
    assert all(torch.equal(whole[name], before[name]) for name in frozen)
    for name in ("model.image_proj.weight", "model_m.model.text_proj.weight"):
        assert not torch.equal(whole[name], before[name])
    with pytest.raises(Killed):
        run(data, tmp_path / "cut", kill_at=6, **values)
    resumed = run(data, tmp_path / "cut", **values)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_low_layers_move_least_under_layer_decay(data: Path, tmp_path: Path, whole: Whole) -> None:
    before = tiny().state_dict()
    decayed = run(data, tmp_path, layer_decay=0.1)
    names = {
        "model.image_encoder.vit.patch_embed.proj.weight": 1e-3,  # below two blocks and a norm
        "model.text_encoder.embeddings.word_embeddings.weight": 1e-3,
        "model.fusion_encoder.layer.0.output.dense.weight": 1.0,
    }
    for name, share in names.items():
        moved = [(weights[name] - before[name]).norm() for weights in (decayed, whole[0])]
        assert moved[0] / moved[1] == pytest.approx(share, rel=0.5), name


def test_a_loss_that_is_nan_stops_the_run_and_says_what_to_do(data: Path, tmp_path: Path) -> None:
    """It names the samples of the very step, though the loss is looked at every ten steps."""
    with pytest.raises(NonFiniteError) as caught:
        run(data, tmp_path, epochs=40, lr=1e30, warmup_steps=0)
    pattern = r"loss is NaN or Inf at step (\d+) \(samples toy-\d{4}(, toy-\d{4}){3}\)\. Lower lr"
    match = re.match(pattern, str(caught.value))
    assert match
    assert 0 < int(match[1]) < 9
    states = [step_of(path) for path in tmp_path.glob("state-*.pt")]
    assert all(step <= int(match[1]) for step in states)


def test_a_step_of_float16_whose_gradients_overflow_is_left_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first scale is too large for the tiny model: it is halved, and goes with the state."""
    monkeypatch.setattr("albef.training.speed.product_peak", lambda device, dtype: 1.0)  # slow
    values: dict[str, Any] = {"precision": "float16", "epochs": 1}
    whole = train_toy(tiny(**values), data, tmp_path / "whole", every=1)
    state = torch.load(max((tmp_path / "whole").glob("state-*.pt")), weights_only=True)
    assert state["extra"]["scaler"]["scale"] < 2.0**16
    with pytest.raises(Killed):
        train_toy(tiny(**values), data, tmp_path / "cut", dying(2), every=1)
    resumed = train_toy(tiny(**values), data, tmp_path / "cut", every=1)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_state_is_saved_after_a_time_where_steps_take_longer(data: Path, tmp_path: Path) -> None:
    with mock.patch.object(TrainingState, "save", autospec=True) as save:
        train_toy(tiny(), data, tmp_path, every=100, every_s=1e-9)
    assert [call.args[1] for call in save.call_args_list] == list(range(1, 13))


def test_the_best_epoch_is_known_after_a_kill(data: Path, tmp_path: Path, whole: Whole) -> None:
    def validate(epoch: int) -> dict[str, float]:
        return {"r_mean": (1.0, 3.0, 3.0, 2.0)[epoch - 1]}

    facts: dict[str, Any] = {}
    given = {"every": 2, "validate": validate, "facts": facts}
    with pytest.raises(Killed):
        train_toy(tiny(publish="best"), data, tmp_path, dying(8), **given)
    train_toy(tiny(publish="best"), data, tmp_path, **given)
    assert facts["best_epoch"] == 2
    (best,), (second,) = (kept(place, [2]).values() for place in (tmp_path, whole[1]))
    assert best.name == second.name  # with its digest


def test_a_best_epoch_that_is_overtaken_goes_once_no_state_names_it(
    data: Path, tmp_path: Path
) -> None:
    def progress(step: int, total: int, means: Mapping[str, float]) -> None:
        for path in tmp_path.glob("state-*.pt"):
            with contextlib.suppress(FileNotFoundError):  # a newer one was written just now
                best = torch.load(path, weights_only=True)["extra"]["best"]
                assert kept(tmp_path, [int(best["epoch"])] if best else [])

    train_toy(tiny(publish="best", epochs=8, keep_epochs=(1,)), data, tmp_path, progress, every=4)
    assert [path.name[:11] for path in sorted(tmp_path.glob("epoch-*"))] == [
        f"epoch-{epoch:05d}" for epoch in (1, 4, 5, 6, 8)
    ]


def test_the_gradient_is_cut_to_its_norm(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path, clip_norm=0.01, epochs=1)
    (curve,) = (text for name, text in curves(tmp_path).items() if "gradient_norm" in name)
    norms = [float(line.split("\t")[1]) for line in curve.splitlines()[1:]]
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-4)


def test_the_micro_batches_of_a_step_are_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of entailment is a mean over samples, so its gradient depends on no split."""
    monkeypatch.setattr("tests.training.toy_training.AUGMENT", {"crop": [1.0, 1.0]})
    labels = ("contradiction", "neutral", "entailment", "entailment")
    records = [
        toy.record(i, captions=("a dog",), meta={"label": label}) for i, label in enumerate(labels)
    ]
    toy.write(tmp_path / "labelled", records)
    norms, losses, seeds = [], [], []
    task = tiny_task("entailment", alpha=0.0)
    (whole,) = next(loader_of(task, tmp_path / "labelled").batches(0, 1))
    expected = task(to_device(whole, torch.device("cpu")), 0.0)["loss"].item()
    for micro in (4, 1):
        task = tiny_task("entailment", alpha=0.0, micro_batch_size=micro)
        task.register_forward_pre_hook(lambda *_: seeds.append(torch.initial_seed()))
        train_toy(task, tmp_path / "labelled", tmp_path / f"by-{micro}")
        found = {n.rpartition("/")[2]: t for n, t in curves(tmp_path / f"by-{micro}").items()}
        values = (found[f"{name}.tsv"].splitlines()[1] for name in ("gradient_norm", "loss"))
        norm, loss = (float(line.split("\t")[1]) for line in values)
        norms.append(norm)
        losses.append(loss)
    assert norms == pytest.approx([norms[0]] * 2, rel=1e-3)
    assert losses == pytest.approx([expected] * 2, rel=1e-4)
    assert len({*seeds[1:]}) == 4, "each micro-batch draws its own random numbers"
