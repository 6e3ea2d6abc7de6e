"""The engine of a server: the models that are served now, and their indexes."""

import asyncio
from contextvars import ContextVar

from albef.runtime import manifest
from albef.serving.computing import Models, Resources
from albef.serving.indexes.reader import IndexReader

ENGINE: ContextVar["Engine"] = ContextVar("engine")
"""The engine of the current request. A request keeps the engine that it started with."""


def current() -> "Engine":
    """Return the engine of the current request."""
    return ENGINE.get()


class Engine(Models):
    """Models of a server that compute from :meth:`start` to :meth:`stop`.

    If the folders have other exports, another engine with the same resources replaces it.
    """

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self.indexes = IndexReader(self)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def names(self) -> str:
        """Names of the exports."""
        return ", ".join(queues.name for queues in self.models)

    def is_outdated(self) -> bool:
        """Return whether a folder now has another export."""
        digests = [manifest.digest(folder) for folder in self.resources.options.exports]
        return digests != [queues.model.digest for queues in self.models]

    def start(self) -> None:
        """Start the tasks that compute requests."""
        self._tasks += [
            asyncio.create_task(batcher.run())
            for queues in self.models
            for batcher in queues.batchers
            for _ in range(self.resources.options.workers)
        ]

    async def stop(self) -> None:
        """Stop computing, and release the models."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for queues in self.models:
            self.store.forget(queues.space)
            # Frees the model even if other objects still hold the rest of the queues.
            queues.model = None

    def announce(self) -> None:
        """Report these models in the server's metrics."""
        self.metrics.model.clear()
        self.metrics.drift.clear()
        for queues in self.models:
            facts = queues.run, queues.model.facts.kind, queues.model.digest
            self.metrics.model.labels(*facts).set(1)
            self.metrics.follow_drift(queues.run, queues.sketch, queues.profile)
            for batcher in queues.batchers:
                batcher.announce()
