import os
import platform
import subprocess
import sys

import pytest

SHOW = """
import os, sys, threading
from albef.serving.scheduling import shorten_turns

raised = os.nice(3)
shorten_turns()
assert os.nice(0) == raised
assert sys.getswitchinterval() < 6e-5
show = lambda: print(open(f"/proc/self/task/{threading.get_native_id()}/sched").read())
if os.path.exists("/proc/self/sched"):
    threading.Thread(target=show).start()
"""


def test_threads_wait_less_for_the_interpreter_and_for_a_core() -> None:
    command = [sys.executable, "-c", SHOW]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    release = [int(part) for part in platform.release().split(".")[:2] if part.isdigit()]
    if sys.platform != "linux" or release < [6, 12] or not os.path.exists("/proc/self/sched"):
        pytest.skip("only Linux 6.12 and later have time slices of a thread")
    (line,) = (line for line in shown.splitlines() if line.startswith("se.slice "))
    assert line.split()[-1] == "100000"
