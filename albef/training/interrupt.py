"""A signal that asks a training to stop, taken between two steps instead of anywhere."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A training was asked to stop and has saved its state."""


class Interrupt:
    """Whether a signal has asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal: the first one asks, a second Ctrl-C stops at once."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.asked:
            log.info("asked to stop: the state is saved after this step")
        self.asked = True


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Take SIGINT and SIGTERM while inside; outside the main thread they are left as they are."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
