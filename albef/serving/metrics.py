"""Numbers of a running server, as Prometheus reads them."""

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
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        PlatformCollector(registry=own)
        self.requests = Counter(
            "albef_requests", "Answered requests", ["route", "method", "status"], registry=own
        )
        self.seconds = Histogram(
            "albef_request_seconds",
            "From a request's headers to its answer",
            ["route"],
            buckets=_SECONDS,
            registry=own,
        )
        self.open = Gauge("albef_open_requests", "Requests that are worked on", registry=own)
        self.held = Gauge("albef_held_bytes", "Bytes of bodies that are held", registry=own)
        self.items = Histogram(
            "albef_batch_items",
            "Items of a batch",
            ["run", "step"],
            buckets=_ITEMS,
            registry=own,
        )
        self.computing = Histogram(
            "albef_batch_seconds",
            "Computing a batch",
            ["run", "step"],
            buckets=_SECONDS,
            registry=own,
        )
        self.waiting = Gauge(
            "albef_waiting_items", "Items that wait to be computed", ["run", "step"], registry=own
        )
        self.refused = Counter(
            "albef_refused", "Requests refused for load", ["reason"], registry=own
        )
        self.dropped = Counter(
            "albef_dropped_items",
            "Items left uncomputed since nobody waits for them",
            ["run", "step"],
            registry=own,
        )
        self.model = Gauge(
            "albef_model_info", "Exports that are served", ["run", "kind", "digest"], registry=own
        )

    def page(self) -> bytes:
        """All of them, in the text format of Prometheus."""
        return generate_latest(self.registry)
