"""Scheduling of the server's threads on cores that they share."""

import ctypes
import os
import platform
import struct
import sys

# A thread that waits for the interpreter demands it after this many seconds, unless it was released
# in the meantime. The event loop releases it every 0.2 ms, but too briefly for another thread.
_INTERVAL = 5e-5
_SLICE = 100_000  # Nanoseconds of a time slice; Linux accepts no shorter one.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # number of the system call


def shorten_turns() -> None:
    """Let threads of this process wait less for each other, and for those of other processes.

    Since Linux 6.12, a thread that wakes takes the core of a thread with a longer time slice.
    Otherwise it may wait 4 ms, even for a process with a lower priority. On other systems, only the
    interpreter's interval changes. Threads and processes that start later inherit the slice.
    """
    sys.setswitchinterval(_INTERVAL)
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform == "linux" and number and os.sched_getscheduler(0) == os.SCHED_OTHER:
        # struct sched_attr: size, policy, flags, nice, priority, slice, deadline, period
        fields = 48, os.SCHED_OTHER, 0, os.nice(0), 0, _SLICE, 0, 0
        ctypes.CDLL(None).syscall(number, 0, struct.pack("IIQiIQQQ", *fields), 0)
