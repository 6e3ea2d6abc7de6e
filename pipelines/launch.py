"""Several processes of a stage, which train or evaluate together.

The launching stage holds the device, forwards signals and reports the end in one message. Each of
its processes runs the same stage. As a program, this module is torchrun, which writes to a file
how one of its processes died.
"""

import contextlib
import importlib.util
import json
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from albef.config import ParamsError
from albef.distributed import joined, launched, world
from albef.io import dying_with_parent, holder_of, lock
from albef.run_record import Cost
from pipelines.device_lock import device_of, held_device
from pipelines.stage import LAUNCHED_ON, RANKS, Stage, end_file, read_json, write_json

RAY = "ray"
"""Value of ``runtime.launch`` that starts the processes on a Ray cluster."""
_DIED = "died"
"""File in the folder of ends that names the process that died and the cause."""


def launch(stage: Stage) -> bool:
    """Run the stage in ``runtime.processes`` processes, started by the command ``runtime.launch``.

    Returns:
        False if only one process is requested, which this process then is.

    Raises:
        ValueError: one of the processes raised it.
        OSError: one of the processes died.
        KeyboardInterrupt: the processes were asked to stop, and saved a training checkpoint.
    """
    processes = stage.runtime.processes
    on_ray = stage.runtime.launch == RAY
    if launched() or (processes == 1 and not on_ray):
        return False
    command = dying_with_parent(_command(stage, processes), "TERM")
    with _end_folder(stage) as ends:
        environment = os.environ | {RANKS: str(ends.resolve()), LAUNCHED_ON: platform.node()}
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        with _forward_signals(child):
            code = child.wait()
        if code:
            _raise_first_error(stage, ends)
    path = stage.layout.record(stage.address)
    # The record of the first process lacks the cost of the others, which on Ray is unknown.
    if not on_ray and (record := read_json(path)):
        before = record.get("interrupted", {})
        gpu_seconds = 3600 * (record["gpu_hours"] - before.get("gpu_hours", 0.0))
        write_json(path, record | Cost(gpu_seconds, before).spent())
    return True


@contextlib.contextmanager
def sharing(stage: Stage) -> Iterator[torch.device]:
    """Yield the device and hold it, alone or as one of several processes."""
    if not launched():
        with held_device(stage) as device:
            yield device
        return
    device = device_of(stage)  # The launching stage holds this device.
    threads = stage.runtime.threads or os.cpu_count() or 1
    torch.set_num_threads(max(1, threads // int(os.environ["LOCAL_WORLD_SIZE"])))
    with joined(device) as device, stage.cost.holding(world().size if device.type == "cuda" else 0):
        yield device


@contextlib.contextmanager
def _end_folder(stage: Stage) -> Iterator[Path]:
    """Hold the device for the stage's processes and yield the folder for their end files."""
    root, name = stage.runtime.scratch_root, f"{stage.address}-processes-"
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob(f"{name}*"):
        if holder_of(old / "lock") is None:  # Its stage was killed.
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=name, dir=root))
    try:
        with lock(folder / "lock"), held_device(stage):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(stage: Stage, processes: int) -> list[str]:
    template = stage.runtime.launch
    module = [f"pipelines.{stage.name}", *([stage.key] if stage.key else [])]
    if template == RAY:
        if not importlib.util.find_spec("ray"):
            raise ParamsError("runtime.launch: ray needs the extra ray: `pip install '.[ray]'`")
        driver = sys.executable, "-m", "pipelines.on_ray", str(processes), stage.runtime.device
        return [*driver, *module]
    try:
        words = shlex.split(template.format(processes=processes))
    except (LookupError, ValueError) as error:
        raise ParamsError(
            f"runtime.launch {template!r} is not a command with {{processes}} in it: {error}"
        ) from None
    if words[:1] == ["torchrun"]:  # Use the torchrun of this environment, regardless of PATH.
        words[:1] = [sys.executable, "-m", "pipelines.launch"]
    if not words or not shutil.which(words[0]):
        raise ParamsError(f"runtime.launch {template!r}: command not found")
    return [*words, "-m", *module]


@contextlib.contextmanager
def _forward_signals(child: "subprocess.Popen[Any]") -> Iterator[None]:
    """Forward SIGINT and SIGTERM as SIGTERM; a second Ctrl-C kills all processes immediately.

    The processes have a separate session, so a terminal's Ctrl-C reaches only this process.
    """
    is_stopping = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping and number == signal.SIGINT:
            os.killpg(child.pid, signal.SIGKILL)
        elif not is_stopping:
            child.send_signal(signal.SIGTERM)
        is_stopping = True

    handlers = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _raise_first_error(stage: Stage, ends: Path) -> None:
    """Raise the error of the first process that did not merely lose another process."""
    kinds = {2: ValueError, 130: KeyboardInterrupt}
    for path in sorted(ends.glob("*.json")):
        end = json.loads(path.read_text())
        if not end["lost"]:
            raise kinds.get(end["code"], OSError)(end["message"])
    died = read_json(ends / _DIED) or {"process": "a process", "reason": "see above"}
    resume = "" if stage.name in ("evaluate", "curate") else " to resume"
    raise OSError(f"{died['process']} died ({died['reason']}); run the stage again{resume}")


def torchrun() -> None:
    """Run torchrun; write how one of its processes died to a file instead of a traceback."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable()  # The stage reports what torchrun would log.
    try:
        run.main()
    except SignalException as asked:
        raise SystemExit(128 + asked.sigval) from None
    except ChildFailedError as error:
        ends, first = Path(os.environ[RANKS]), error.get_first_failure()
        # Failures are in order of time. Some processes that lost another one have reported so.
        failures = error.failures.items()
        silent = ((rank, died) for rank, died in failures if not end_file(ends, rank).exists())
        rank, died = next(silent, first)
        reason = died.signal_name() if died.exitcode < 0 else f"exit code {died.exitcode}"
        write_json(ends / _DIED, {"process": f"process {rank}", "reason": reason})
        raise SystemExit(1) from None


if __name__ == "__main__":
    torchrun()
