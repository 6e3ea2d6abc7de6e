"""Prometheus metrics of a running server."""

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
    """Metrics of one server. Labels never have content of a request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        seconds = partial(Histogram, registry=self.registry, buckets=_SECONDS)
        items = partial(Histogram, registry=self.registry, buckets=_ITEMS)
        step = ["run", "step"]
        self.requests = counter("albef_requests", "Requests", ["route", "method", "status"])
        self.token_requests = counter("albef_token_requests", "By token", ["token", "status"])
        self.seconds = seconds("albef_request_seconds", "From headers to answer", ["route"])
        # Plain numbers, because every change of a gauge takes a lock.
        self.open_requests = self.held_bytes = 0
        open_requests = gauge("albef_open_requests", "Requests in progress")
        open_requests.set_function(lambda: self.open_requests)
        held_bytes = gauge("albef_held_bytes", "Bytes of request bodies, announced or in memory")
        held_bytes.set_function(lambda: self.held_bytes)
        self.items = items("albef_batch_items", "Items per batch", step)
        self.computing = seconds("albef_batch_seconds", "Computation of a batch", step)
        self.waited = seconds("albef_wait_seconds", "Time of an item in the queue", step)
        self.waiting = gauge("albef_waiting_items", "Items waiting for a step", step)
        self.refused = counter("albef_refused", "Requests refused because of load", ["reason"])
        self.dropped = counter("albef_dropped_items", "Items whose client left", step)
        self.folder_checks = counter(
            "albef_looks",
            "Replacements of exports, and failed checks of their folders",
            ["outcome"],
        )
        # Creates the counters at 0, so Prometheus sees the first event as an increase.
        for outcome in ("replaced", "failed"):
            self.folder_checks.labels(outcome)
        drift = "Divergence of requests from validation data, in nats"
        self.drift = gauge("albef_drift", drift, ["run", "what"])
        self.model = gauge("albef_model_info", "Served exports", ["run", "kind", "digest"])
        written = "Unix time at which the served export's manifest was written"
        self.written = gauge("albef_model_written_timestamp_seconds", written, ["run"])

    def clear(self) -> None:
        """Remove the numbers of a model that is replaced."""
        for each in (self.model, self.drift, self.written):
            each.clear()

    def page(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
