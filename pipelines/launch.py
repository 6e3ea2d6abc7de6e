"""Several processes for a stage that trains, by the launcher that ``runtime.launch`` names.

The stage that DVC started holds the device, hands signals on and tells the end in one sentence;
the work is done by the launched processes, each of which runs the same stage.
"""

import contextlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from albef.config import ParamsError
from albef.run_record import spent
from albef.training.distributed import launched
from pipelines.device_lock import device_slot
from pipelines.stage import LAUNCHED_ON, RANKS, Stage, read_json, write_json
from pipelines.trainer import device_of

_NOISE = re.compile(r"[EWI]\d{4} \d\d:\d\d:\d\d|\*+$")
"""How the launcher's own lines start."""
_DIED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")


def launch(stage: Stage) -> bool:
    """Run the stage in ``runtime.processes`` processes; false where one is asked for.

    Raises:
        ValueError: as one of the processes.
        OSError: one of them died.
        KeyboardInterrupt: they were asked to stop, and saved their state.
    """
    processes = stage.runtime.processes
    if processes == 1 or launched():
        return False
    told = stage.scratch("processes")
    environment = os.environ | {RANKS: str(told.resolve()), LAUNCHED_ON: platform.node()}
    try:
        with device_slot(str(device_of(stage)), stage.runtime.threads):
            child = subprocess.Popen(
                _command(stage, processes),
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C reaches this process alone
            )
            with handing_on([child]):
                died = _follow(child)
                code = child.wait()
        if code == 0:
            _count(stage)
        else:
            tell(told, died or f"one of the {processes} processes died")
    finally:
        shutil.rmtree(told)
    return True


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
def handing_on(children: "Sequence[subprocess.Popen[Any]]") -> Iterator[None]:
    """Hand SIGINT and SIGTERM on as SIGTERM; a second Ctrl-C ends all of them at once."""
    asked = False

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        for child in children:
            if child.poll() is not None:
                continue
            if asked and number == signal.SIGINT:
                os.killpg(child.pid, signal.SIGKILL)
            elif not asked:
                child.send_signal(signal.SIGTERM)
        asked = True

    before = {n: signal.signal(n, hand_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(child: "subprocess.Popen[str]") -> str:
    """Pass on what the processes say, and leave out the launcher's words; how one died, or ""."""
    assert child.stderr is not None
    died = ""
    trace: list[str] = []
    for line in child.stderr:
        if trace or line.startswith("Traceback"):
            trace.append(line)
            if line.startswith((" ", "Traceback")):
                continue
            if not died and "SignalException" not in line:  # the launcher's own end
                sys.stderr.writelines(trace)
            trace = []
        elif found := _DIED.search(line):
            code, rank = int(found[1]), found[2]
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            died = died or f"process {rank} of the training died ({how})"
        elif not died and not _NOISE.match(line):
            sys.stderr.write(line)
            sys.stderr.flush()
    return died


def _count(stage: Stage) -> None:
    """Put the cores' time of all processes of this machine into the first one's run record."""
    path = stage.layout.record(stage.address)
    record = read_json(path)
    if record:
        before = record.get("interrupted", {})
        held = 3600 * (record["gpu_hours"] - before.get("gpu_hours", 0.0))
        write_json(path, record | spent(held, before))


def tell(folder: Path, died: str) -> None:
    """Raise what the processes left behind; one that only lost another has nothing to say."""
    ends = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    own = [end for end in ends if not end["lost"]]
    if not own:
        raise OSError(f"{died}; the state saved last is kept: run it again to go on")
    kinds = {2: ValueError, 130: KeyboardInterrupt}
    raise kinds.get(own[0]["code"], OSError)(own[0]["message"])
