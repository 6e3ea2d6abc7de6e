"""Process for calls on bytes from outside, with limits on processor time and memory."""

import contextlib
import importlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")


class KilledError(Exception):
    """Error for a call whose process ended; ``too_long`` if it took too much processor time."""

    def __init__(self, code: int | None, seconds: float) -> None:
        self.too_long = code == -signal.SIGPROF
        end = f"took more than {seconds:g} s of processor time" if self.too_long else "crashed"
        super().__init__(f"{end} (exit code {code})")


class Worker:
    """Process for calls on bytes from outside. If it ends, the next call starts another one.

    Args:
        seconds: processor time for each item of a call. The kernel counts it, so other load of the
            machine does not matter.
        memory: bytes that a call may allocate before it raises MemoryError; None sets no limit.
        nice: how much lower its priority is than that of this process.
        modules: names of modules that it imports first, so that `memory` does not limit that.
    """

    def __init__(
        self, seconds: float, memory: int | None = None, nice: int = 0, modules: Sequence[str] = ()
    ) -> None:
        self._limits = seconds, memory, nice, modules
        self._start()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # A fork is not safe beside threads.
        self._pipe, other = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(other, *self._limits), daemon=True)
        # Arrow's own allocator would reserve a GiB of the addresses that `memory` limits.
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
        self._process.start()
        other.close()  # If the process ends, so does the pipe.
        Finalize(self, self._process.kill, exitpriority=0)  # Signals do not end it.

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def run(self, call: Callable[..., Iterable[Item]], *args: object) -> Iterator[Item]:
        """Yield the items of ``call(*args)``, which the process computes.

        Raises:
            MemoryError: the call needs more than the memory. C++ code may abort at that.
            KilledError: the process ended.
            Exception: the call raised it.
        """
        if self._pipe.closed:
            self._start()
        result: Any = ()
        try:
            self._pipe.send((call, args))
            while isinstance(result := self._pipe.recv(), tuple):
                yield result[0]
        except (EOFError, OSError):  # It may end within an item.
            self._process.join()
            if self._limits[1] is not None and self._process.exitcode == -signal.SIGABRT:
                raise MemoryError("aborted, as C++ code does without memory") from None
            raise KilledError(self._process.exitcode, self._limits[0]) from None
        finally:
            if isinstance(result, tuple):  # The call has not ended.
                self.close()
        if result is not None:
            raise result


def _work(
    pipe: Connection, seconds: float, memory: int | None, nice: int, modules: Sequence[str]
) -> None:
    """Send the items of each call as tuples, then None or the error that ended the call."""
    os.nice(nice)
    for number in (signal.SIGINT, signal.SIGTERM):  # The parent, which has them too, decides.
        signal.signal(number, signal.SIG_IGN)
    for module in modules:
        importlib.import_module(module)
    with contextlib.suppress(EOFError, OSError):
        while True:
            call, args = pipe.recv()
            if memory is not None:
                _, hard = resource.getrlimit(resource.RLIMIT_AS)
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                soft = pages * resource.getpagesize() + memory
                soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            result: Exception | None = None
            try:
                limit_processor(seconds)
                for item in call(*args):
                    pipe.send((item,))
                    limit_processor(seconds)
            except Exception as error:
                result = error
            limit_processor(0)
            pipe.send(result)


def limit_processor(seconds: float) -> None:
    """End this process after some seconds of processor time from now; 0 removes the limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
