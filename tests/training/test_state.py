"""Training state on disk."""

import errno
import logging
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from albef.training import state as states
from albef.training.mirror import Mirror
from albef.training.state import (
    KEPT,
    CheckpointLockedError,
    CheckpointMismatchError,
    TrainingState,
    kept,
)
from tests.data import toy


def parts() -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    return module, torch.optim.AdamW(module.parameters())


def saved(folder: Path, *steps: int, mirror: Mirror | None = None) -> TrainingState:
    """A folder with a state of each step."""
    folder.mkdir(exist_ok=True)
    state = TrainingState(folder, mirror)
    for step in steps:
        state.save(step, *parts(), {})
        state.wait()
    return state


def test_what_is_only_named_like_a_state_stops_the_run(tmp_path: Path) -> None:
    state = saved(tmp_path, 1)
    makers: list[Any] = [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("gone")]
    right = f"state-000000002-{'0' * 16}.pt"
    for name, make in (("state-best.pt", Path.touch), *((right, make) for make in makers)):
        path = tmp_path / name
        make(path)
        with pytest.raises(CheckpointMismatchError, match=f"{path} is named like .* remove it"):
            state.restore(*parts())
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(str(tmp_path / "mirror"), "a")


def test_training_continues_while_a_state_is_written_and_the_newest_that_waits_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, written = threading.Event(), threading.Event(), []

    def sync(path: Path) -> None:
        begun.set()
        go.wait()
        written.append(path.name)

    monkeypatch.setattr(states, "sync", sync)
    state, (module, optimizer) = TrainingState(tmp_path), parts()
    with state.owned():
        state.save(1, module, optimizer, {})
        begun.wait()
        for step in (2, 3, 4):
            with torch.no_grad():
                module.weight.fill_(step)  # the copy is of before
            state.save(step, module, optimizer, {})
            with torch.no_grad():
                module.weight.zero_()
        assert not state.files()
        go.set()
    assert [path.name[:15] for path in state.files()] == ["state-000000004", "state-000000001"]
    assert written.count("state.part") == 2
    other, its_optimizer = parts()
    TrainingState(tmp_path).restore(other, its_optimizer)
    assert other.weight.unique().tolist() == [4]


def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = saved(tmp_path, 1, 2)
    newest, older = state.files()
    toy.flip(newest)
    with caplog.at_level(logging.WARNING):
        assert state.restore(*parts())[0] == 1
    assert f"{newest.name} is damaged" in caplog.text
    assert not newest.exists()
    assert newest.with_suffix(".torn").exists()  # not lost

    toy.flip(older)
    for _ in range(2):  # never from the start, unless somebody deletes the folder
        with pytest.raises(CheckpointMismatchError, match=rf"in {tmp_path} are damaged; delete"):
            state.restore(*parts())


def test_what_cannot_be_read_now_stops_and_nothing_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = saved(tmp_path, 1, 2)
    before = sorted(tmp_path.iterdir())
    fails = Mock(side_effect=OSError(errno.EIO, "passing"))
    owners: dict[str, Any] = {"file_digest": states, "load": torch, "iterdir": Path}
    for name, owner in owners.items():
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            with pytest.raises(OSError, match="passing"):
                state.restore(*parts())
    assert sorted(tmp_path.iterdir()) == before
    assert state.restore(*parts())[0] == 2


def test_the_newest_intact_copy_is_taken_wherever_it_is(tmp_path: Path, mirror: Mirror) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    state = saved(there, 1, 2, 3, 4, mirror=mirror)
    state.keep(1, parts()[0].state_dict())
    mirror.wait()
    assert len(state.files()) == KEPT
    copies = sorted((tmp_path / "mirror/a").iterdir())
    assert [path.name[:15] for path in copies[1:]] == ["state-000000003", "state-000000004"]

    state = saved(here, 2)  # older than the mirror's
    state.mirror = mirror
    assert state.restore(*parts())[0] == 4
    assert list(kept(here, [1])) == [1]
    toy.flip(state.files()[0])
    assert state.restore(*parts())[0] == 4  # fetched again
    for copy in (copies[2], state.files()[0]):
        toy.flip(copy)
    assert state.restore(*parts())[0] == 3
    state.save(4, *parts(), {})
    state.wait()
    toy.flip(state.files()[0])
    assert state.restore(*parts())[0] == 4  # the damaged copy was replaced


def test_kept_epochs_whose_copies_a_kill_prevented_are_copied_later(
    tmp_path: Path, mirror: Mirror
) -> None:
    here = tmp_path / "here"
    saved(here, 1).keep(1, parts()[0].state_dict())
    state = saved(here, mirror=mirror)
    state.restore(*parts())
    state.wait()
    (copy,) = (tmp_path / "mirror/a").iterdir()
    assert copy.read_bytes() == (here / copy.name).read_bytes()


def test_what_a_kill_left_half_written_is_swept(tmp_path: Path) -> None:
    for name in ("state.part", "state-000000001-0.pt.7.8.part", ".mirror-state-000000001-0.pt"):
        (tmp_path / name).touch()
    with TrainingState(tmp_path).owned():
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_kept_epoch_is_what_was_written_or_refused(tmp_path: Path) -> None:
    state = TrainingState(tmp_path)
    for value in (1.0, 2.0):  # cut off after it, another number of processes may find other digits
        module = parts()[0]
        nn.init.constant_(module.weight, value)
        state.keep(2, module.state_dict())
    (path,) = kept(tmp_path, [2]).values()
    assert list(tmp_path.iterdir()) == [path]
    toy.flip(path)
    for epoch in (1, 2):
        with pytest.raises(CheckpointMismatchError, match=rf"of epoch {epoch} .* damaged; delete"):
            kept(tmp_path, [epoch])


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    other = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(other.parameters())
    with pytest.raises(CheckpointMismatchError, match=r"is of another model .* delete"):
        TrainingState(tmp_path).restore(other, optimizer)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file grows beyond 300 kB: the kernel's own refusal to write on, as of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_leaves_the_last_good_state(tmp_path: Path) -> None:
    state = saved(tmp_path, 1)
    (path,) = state.files()
    before, large = path.read_bytes(), nn.Linear(500, 500)
    message = rf"cannot write {{}} to {tmp_path} \(.+\); .* runtime\.scratch"
    state.save(2, large, torch.optim.AdamW(large.parameters()), {})
    with pytest.raises(OSError, match=message.format("training checkpoint 2")):
        state.wait()
    with pytest.raises(OSError, match=message.format("weights of epoch 2")):
        state.keep(2, large.state_dict())
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_second_trainer_is_refused_with_the_first_ones_process_id(tmp_path: Path) -> None:
    """That a dead one's lock is free at once is tested with locks."""
    with TrainingState(tmp_path).owned():
        first = rf"process {os.getpid()} trains on {tmp_path}; wait"
        with pytest.raises(CheckpointLockedError, match=first), TrainingState(tmp_path).owned():
            pass
    with TrainingState(tmp_path).owned():
        pass
