"""Order in which the stages of a run start."""

import threading
import time
from collections.abc import Mapping

from flows.graph import PRETRAIN, Node, dependents

_PATIENCE_S = 2.0
"""Longest wait for a stage that could start, but may never ask, since Prefect skips it."""


class Schedule:
    """Start of stages: one per CPU core, and those first that more stages depend on.

    A stage also starts without a free core if more stages depend on it than on any running one:
    what the rest of the run waits for must not wait for what only the report reads. Pre-training
    takes ``threads`` cores, so that stages which can run later do not slow it down.
    """

    def __init__(self, nodes: Mapping[str, Node], cores: int, threads: int = 0) -> None:
        self._cores = cores
        self._sizes = {name: max(1, threads) if name == PRETRAIN else 1 for name in nodes}
        self._needed = dependents(nodes)
        self._order = sorted(nodes, key=lambda name: -self._needed[name])
        self._missing = {name: nodes.keys() & node.upstream for name, node in nodes.items()}
        self._ready = {name: time.monotonic() for name in nodes if not self._missing[name]}
        self._waiting: set[str] = set()
        self._running: set[str] = set()
        self._changed = threading.Condition()

    def start(self, name: str) -> None:
        """Wait until a stage may start."""
        with self._changed:
            self._waiting.add(name)
            while not self._may_start(name):
                self._changed.wait(_PATIENCE_S)
            self._waiting.remove(name)
            self._ready.pop(name, None)
            self._running.add(name)
            self._changed.notify_all()

    def end(self, name: str) -> None:
        """Free the cores of a stage, or note that it has nothing to do."""
        with self._changed:
            self._running.discard(name)
            self._ready.pop(name, None)
            for other, missing in self._missing.items():
                if missing == {name}:
                    self._ready[other] = time.monotonic()
                missing.discard(name)
            self._changed.notify_all()

    def _may_start(self, name: str) -> bool:
        needed = [self._needed[other] for other in self._running]
        if needed and self._needed[name] > max(needed):
            return True
        first = self._order[: self._order.index(name)]
        recent = time.monotonic() - _PATIENCE_S
        is_next = not any(it in self._waiting or self._ready.get(it, 0) > recent for it in first)
        return is_next and sum(self._sizes[other] for other in self._running) < self._cores
