"""Training state on disk."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from albef.training.state import KEPT, StateLocked, TrainingState, own


def parts() -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    return module, torch.optim.AdamW(module.parameters())


def test_nothing_saved_starts_at_zero(tmp_path: Path) -> None:
    assert TrainingState(tmp_path).restore(*parts()) == (0, {})


def test_a_state_comes_back_with_its_random_generator(tmp_path: Path) -> None:
    module, optimizer = parts()
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    TrainingState(tmp_path).save(7, module, optimizer, {"sums": {"loss": torch.tensor(2.0)}})
    drawn = torch.rand(3)
    other, its_optimizer = parts()
    step, extra = TrainingState(tmp_path).restore(other, its_optimizer)
    assert step == 7
    assert extra["sums"]["loss"] == 2
    assert torch.equal(other.weight, module.weight)
    assert torch.equal(torch.rand(3), drawn)
    saved, loaded = optimizer.state_dict()["state"], its_optimizer.state_dict()["state"]
    assert torch.equal(saved[0]["exp_avg"], loaded[0]["exp_avg"])


def test_old_states_are_pruned(tmp_path: Path) -> None:
    state = TrainingState(tmp_path)
    for step in range(5):
        state.save(step, *parts(), {})
    assert [path.name for path in state.files()] == ["state-000000004.pt", "state-000000003.pt"]
    assert KEPT == 2


def test_a_torn_state_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = TrainingState(tmp_path)
    state.save(1, *parts(), {})
    state.save(2, *parts(), {})
    newest = state.files()[0]
    newest.write_bytes(newest.read_bytes()[:700])
    with caplog.at_level(logging.WARNING):
        assert state.restore(*parts())[0] == 1
    assert newest.name in caplog.text


def test_a_second_trainer_is_refused_with_the_first_ones_process_id(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\nfrom albef.training.state import own\n"
        "with own(pathlib.Path(sys.argv[1])):\n print('ours', flush=True)\n sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ours\n"
        with pytest.raises(StateLocked, match=str(holder.pid)), own(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with own(tmp_path):  # a dead one's lock is free at once
        pass
