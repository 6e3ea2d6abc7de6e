"""Training state on disk."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from albef.training.mirror import Mirror
from albef.training.state import KEPT, StateLocked, TrainingState, step_of


def parts() -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    return module, torch.optim.AdamW(module.parameters())


def test_a_state_comes_back(tmp_path: Path) -> None:
    assert TrainingState(tmp_path).restore(*parts()) == (0, {})
    module, optimizer = parts()
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    TrainingState(tmp_path).save(7, module, optimizer, {"sums": {"loss": torch.tensor(2.0)}})
    other, its_optimizer = parts()
    step, extra = TrainingState(tmp_path).restore(other, its_optimizer)
    assert step == 7
    assert extra["sums"]["loss"] == 2
    assert torch.equal(other.weight, module.weight)
    saved, loaded = optimizer.state_dict()["state"], its_optimizer.state_dict()["state"]
    assert torch.equal(saved[0]["exp_avg"], loaded[0]["exp_avg"])


def test_old_states_are_pruned(tmp_path: Path) -> None:
    state = TrainingState(tmp_path)
    for step in range(5):
        state.save(step, *parts(), {})
    assert [step_of(path) for path in state.files()] == [4, 3]
    assert KEPT == 2


@pytest.mark.parametrize("damage", ["torn", "a bit", "empty"])
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    state = TrainingState(tmp_path)
    state.save(1, *parts(), {})
    state.save(2, *parts(), {})
    newest = state.files()[0]
    content = bytearray(newest.read_bytes())
    content[len(content) // 3] ^= 1
    newest.write_bytes({"torn": content[:700], "a bit": content, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert state.restore(*parts())[0] == 1
    assert f"{newest.name} is not what was written; taking the one before" in caplog.text
    assert not newest.exists()
    assert newest.with_suffix(".torn").exists()  # set aside, not lost


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    TrainingState(tmp_path).save(1, *parts(), {})
    other = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(other.parameters())
    with pytest.raises(ValueError, match=r"is the state of another model .* delete .* start this"):
        TrainingState(tmp_path).restore(other, optimizer)


def test_a_full_disk_leaves_the_last_good_state(tmp_path: Path) -> None:
    """A limit on the size of files is the kernel's own refusal to write on."""
    state = TrainingState(tmp_path)
    state.save(1, *parts(), {})
    before = state.files()[0].read_bytes()
    script = (
        "import resource, sys, pathlib, torch\n"
        "from albef.training.state import TrainingState\n"
        "module = torch.nn.Linear(500, 500)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "state = TrainingState(pathlib.Path(sys.argv[1]))\n"
        "try:\n    state.save(2, module, torch.optim.AdamW(module.parameters()), {})\n"
        "except OSError as error:\n    print(error)\n"
    )
    says = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert f"the state of step 2 cannot be written to {tmp_path} (" in says
    assert "make room there, or name another folder as runtime.scratch" in says
    assert [path.name for path in tmp_path.iterdir()] == [state.files()[0].name]
    assert state.files()[0].read_bytes() == before


def test_a_mirrored_state_comes_back_where_the_folder_is_gone(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    mirror = Mirror(str(tmp_path / "mirror"), "a")
    for step in (1, 2, 3):
        TrainingState(here, mirror).save(step, *parts(), {"sums": {}})
    mirror.wait()
    assert len(list((tmp_path / "mirror/a").iterdir())) == KEPT
    assert TrainingState(there, mirror).restore(*parts()) == (3, {"sums": {}})
    assert TrainingState(here).restore(*parts()) == (3, {"sums": {}})


def test_a_second_trainer_is_refused_with_the_first_ones_process_id(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\nfrom albef.training.state import TrainingState\n"
        "with TrainingState(pathlib.Path(sys.argv[1])).owned():\n"
        "    print('ours', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ours\n"
        with pytest.raises(StateLocked, match=str(holder.pid)), TrainingState(tmp_path).owned():
            pass
        holder.kill()
        holder.wait()
    with TrainingState(tmp_path).owned():  # a dead one's lock is free at once
        pass
