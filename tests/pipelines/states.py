"""Training states that a test watches while another process writes and removes them."""

import glob
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def saved(folder: str = "scratch") -> list[Path]:
    """The finished states; folders may go away meanwhile, which pathlib does not bear."""
    return [Path(name) for name in glob.glob(f"{folder}/**/state-0*.pt", recursive=True)]


def step_of(path: Path) -> int:
    """The step of a saved state, from its name."""
    return int(path.stem.split("-")[1])


def wait(process: "subprocess.Popen[Any]", ready: Callable[[], T]) -> T:
    """What ``ready`` gives once that is something; the process has to live until then."""
    while not (value := ready()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    return value
