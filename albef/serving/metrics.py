"""Numbers of a running server, as Prometheus reads them."""

from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server; labels are routes, calls and statuses, never a request's content."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        step = ["run", "step"]
        self.requests = counter(
            "albef_requests", "Answered requests", ["route", "method", "status"]
        )
        self.seconds = histogram(
            "albef_request_seconds",
            "From a request's headers to its answer",
            ["route"],
            buckets=_SECONDS,
        )
        self.open = gauge("albef_open_requests", "Requests that are worked on")
        self.held = gauge("albef_held_bytes", "Bytes of bodies that are held")
        self.items = histogram("albef_batch_items", "Items of a batch", step, buckets=_ITEMS)
        self.computing = histogram(
            "albef_batch_seconds", "Computing a batch", step, buckets=_SECONDS
        )
        self.waiting = gauge("albef_waiting_items", "Items that wait to be computed", step)
        self.refused = counter("albef_refused", "Requests refused for load", ["reason"])
        self.dropped = counter(
            "albef_dropped_items", "Items left uncomputed since nobody waits for them", step
        )
        self.model = gauge("albef_model_info", "Exports that are served", ["run", "kind", "digest"])

    def page(self) -> bytes:
        """All of them, in the text format of Prometheus."""
        return generate_latest(self.registry)
