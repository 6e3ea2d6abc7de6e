"""What answers requests: the models that are served now, with the indexes as they read them."""

import asyncio
from contextvars import ContextVar

from albef.runtime import manifest
from albef.serving.computing import Models, Resources
from albef.serving.indexes.reader import IndexReader

ENGINE: ContextVar["Engine"] = ContextVar("engine")
"""Answers the request that is worked on: the one that it began with."""


def current() -> "Engine":
    """What answers the request that is worked on."""
    return ENGINE.get()


class Engine(Models):
    """Models of a server that compute from :meth:`start` to :meth:`stop`.

    Another one with the same resources takes its place when the folders have other exports.
    """

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self.indexes = IndexReader(self)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def names(self) -> str:
        """What the exports are called."""
        return ", ".join(queues.name for queues in self.models)

    def is_outdated(self) -> bool:
        """Whether a folder has another export by now."""
        digests = [manifest.digest(folder) for folder in self.resources.options.exports]
        return digests != [queues.model.digest for queues in self.models]

    def start(self) -> None:
        """Compute what is asked from now on."""
        self._tasks += [
            asyncio.create_task(batcher.run())
            for queues in self.models
            for batcher in queues.batchers
            for _ in range(self.resources.options.workers)
        ]

    async def stop(self) -> None:
        """Compute nothing more, and let go of the models."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for queues in self.models:
            self.store.forget(queues.space)
            queues.model = None  # whatever holds the rest until it is collected

    def announce(self) -> None:
        """Let the server's numbers be of these models."""
        self.metrics.model.clear()
        self.metrics.drift.clear()
        for queues in self.models:
            facts = queues.run, queues.model.facts.kind, queues.model.digest
            self.metrics.model.labels(*facts).set(1)
            self.metrics.follow_drift(queues.run, queues.sketch, queues.profile)
            for batcher in queues.batchers:
                batcher.announce()
