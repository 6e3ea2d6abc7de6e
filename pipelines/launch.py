"""Several processes of a stage: ranks that train or evaluate together, or workers that share a
search.

The stage that DVC started holds the device, hands signals on and tells the end in one sentence;
the work is done by its processes, each of which runs the same stage.
"""

import contextlib
import json
import logging
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from albef.config import ParamsError
from albef.distributed import joined, launched, world
from albef.io import holder_of, lock
from albef.run_record import spent
from pipelines.device_lock import device_of, held_device
from pipelines.stage import LAUNCHED_ON, RANKS, WORKER, WORKERS, Stage, read_json, write_json

MIRROR_EVERY = 30.0
"""Seconds between two copies of a journal that workers write."""
_NOISE = re.compile(r"[EWI]\d{4} \d\d:\d\d:\d\d|\*+$")
"""How the launcher's own lines start."""
_DIED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
log = logging.getLogger("albef")


def launch(stage: Stage) -> bool:
    """Work in ``runtime.processes`` processes, by the launcher that ``runtime.launch`` names.

    Returns:
        Whether it was done so; false where one process is asked for.

    Raises:
        ValueError: as one of the processes.
        OSError: one of them died.
        KeyboardInterrupt: they were asked to stop, and saved their state.
    """
    processes = stage.runtime.processes
    if processes == 1 or launched():
        return False
    command = _command(stage, processes)
    work = {"evaluate": "evaluation", "curate": "curation"}.get(stage.name, "training")
    with _ends(stage) as (ends, environment):
        environment[LAUNCHED_ON] = platform.node()
        child = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        with _forward_signals([child]):
            failure = _follow(child, work)
            code = child.wait()
        if code:
            failure = failure or f"one of the {processes} processes died"
            _raise(ends, failure, resumable=work == "training")
    path = stage.layout.record(stage.address)
    if record := read_json(path):  # the first process has not seen what the others cost
        interrupted = record.get("interrupted", {})
        gpu_seconds = 3600 * (record["gpu_hours"] - interrupted.get("gpu_hours", 0.0))
        write_json(path, record | spent(gpu_seconds, interrupted))
    return True


@contextlib.contextmanager
def sharing(stage: Stage) -> Iterator[torch.device]:
    """The device to work on, held while inside, alone or as one of several processes."""
    if launched():  # the launching stage holds the device
        device = device_of(stage)
        threads = stage.runtime.threads or os.cpu_count() or 1
        torch.set_num_threads(max(1, threads // int(os.environ["LOCAL_WORLD_SIZE"])))
        with joined(device) as device:
            gpus = world().size if device.type == "cuda" else 0
            with stage.holding(gpus):
                yield device
    elif WORKER in os.environ:  # so does the stage of a worker
        device = device_of(stage)
        torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ[WORKERS])))
        if device.type == "cuda" and device.index is None:
            number = int(os.environ[WORKER]) % torch.cuda.device_count()
            device = torch.device("cuda", number)
        yield device
    else:
        with held_device(stage) as device:
            yield device


def work(stage: Stage, mirror: Callable[[], None], complete: Callable[[], bool]) -> None:
    """Run trials in ``runtime.search_workers`` processes; one that dies leaves its trial to others.

    Raises:
        ValueError: as the first worker that was refused something.
        OSError: they died before the search was complete.
        KeyboardInterrupt: they were asked to stop, and saved their states.
    """
    count = stage.runtime.search_workers
    command = [sys.executable, "-m", f"pipelines.{stage.name}", stage.key]
    with _ends(stage, count) as (ends, environment):
        environment |= {WORKERS: str(count), "DVC_STAGE": stage.address}
        environment["ALBEF_DVC"] = str(os.getpid())
        workers = [
            subprocess.Popen(
                command, env=environment | {WORKER: str(number)}, start_new_session=True
            )
            for number in range(count)
        ]
        with _forward_signals(workers):
            failure = _wait(workers, mirror)
        if not complete():
            _raise(ends, failure or "a worker of the search died")


@contextlib.contextmanager
def _ends(stage: Stage, workers: int = 1) -> Iterator[tuple[Path, dict[str, str]]]:
    """Hold the device for processes of the stage; a folder where each leaves how it ended, and an
    environment that names it."""
    root, name = stage.runtime.scratch_root, f"{stage.address}-processes-"
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob(f"{name}*"):
        if holder_of(old / "lock") is None:  # of one that was killed
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=name, dir=root))
    try:
        with lock(folder / "lock"), held_device(stage, workers):
            yield folder, os.environ | {RANKS: str(folder.resolve())}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(stage: Stage, processes: int) -> list[str]:
    template = stage.runtime.launch
    try:
        words = shlex.split(template.format(processes=processes))
    except (LookupError, ValueError) as error:
        raise ParamsError(
            f"runtime.launch {template!r} is no command with {{processes}} in it: {error}"
        ) from None
    if words[:1] == ["torchrun"]:  # that of this environment, whatever PATH says
        words[:1] = [sys.executable, "-m", "torch.distributed.run"]
    if not words or not shutil.which(words[0]):
        raise ParamsError(f"runtime.launch {template!r}: there is no such command")
    return [*words, "-m", f"pipelines.{stage.name}", *([stage.key] if stage.key else [])]


@contextlib.contextmanager
def _forward_signals(children: Sequence["subprocess.Popen[Any]"]) -> Iterator[None]:
    """Hand SIGINT and SIGTERM on as SIGTERM; a second Ctrl-C ends all of them at once.

    They are in sessions of their own, so that a terminal's Ctrl-C reaches this process alone.
    """
    is_stopping = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        for child in children:
            if child.poll() is not None:
                continue
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


def _follow(child: "subprocess.Popen[str]", work: str) -> str:
    """Pass on what the ranks say, and leave out the launcher's words; how one of the ``work`` died,
    or ""."""
    assert child.stderr is not None
    failure = ""
    trace: list[str] = []
    with child.stderr as lines:
        for line in lines:
            if trace or line.startswith("Traceback"):
                trace.append(line)
                if line.startswith((" ", "Traceback")):
                    continue
                if not failure and "SignalException" not in line:  # the launcher's own end
                    sys.stderr.writelines(trace)
                trace = []
            elif match := _DIED.search(line):
                code, rank = int(match[1]), match[2]
                reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                failure = failure or f"process {rank} of the {work} died ({reason})"
            elif not failure and not _NOISE.match(line):
                sys.stderr.write(line)
                sys.stderr.flush()
    return failure


def _wait(workers: Sequence["subprocess.Popen[Any]"], mirror: Callable[[], None]) -> str:
    """Wait for all workers, and say at once which one dies; the first one's end, or ""."""
    first_failure = ""
    running = dict(enumerate(workers, 1))
    mirrored_at = time.monotonic()
    while running:
        for number, worker in list(running.items()):
            if (code := worker.poll()) is None:
                continue
            del running[number]
            if code < 0:
                failure = f"worker {number} of the search died ({signal.Signals(-code).name})"
                log.warning("%s; its trial is tried again", failure)
                first_failure = first_failure or failure
        if time.monotonic() - mirrored_at > MIRROR_EVERY or not running:
            mirrored_at = time.monotonic()
            mirror()
        time.sleep(0.2)
    return first_failure


def _raise(ends: Path, failure: str, *, resumable: bool = True) -> None:
    """Raise what the first process left behind; one that only lost another has nothing to say."""
    for path in sorted(ends.glob("*.json")):
        end = json.loads(path.read_text())
        if not end["lost"]:
            kinds = {2: ValueError, 130: KeyboardInterrupt}
            raise kinds.get(end["code"], OSError)(end["message"])
    remedy = "the state saved last is kept: run it again to go on" if resumable else "run it again"
    raise OSError(f"{failure}; {remedy}")
