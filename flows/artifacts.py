"""Artifacts on Prefect's pages of a run (tables, links, progress bars), and events.

An artifact belongs to the flow or task that runs when it is created.
"""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.objects import State

from albef.layout import Layout
from flows import results

GATES = ("validate", "export")
"""Stages that can refuse their input."""
_PROGRESS = re.compile(r"(?:step|trial) (\d+) of (\d+)")
"""Pattern of the progress in a stage's output."""


def publish(layout: Layout, states: Mapping[str, State]) -> None:
    """Publish the results of a run, given the final states of its stages.

    If the server cannot be reached, the run succeeds without artifacts.
    """
    gates = [
        (name, "refused" if state.is_failed() else "passed", state.message or "")
        for name, state in states.items()
        if name.partition("@")[0] in GATES
    ]
    with contextlib.suppress(HTTPError):
        result_rows = results.evaluated(layout)
        _table("results", results.HEADER, result_rows, "Results beside their baselines.")
        _table("gates", ("gate", "verdict", "what it says"), gates, "What may be used.")
        for key, page in (("report", layout.report()), ("data-pages", layout.data_pages())):
            if page.exists():
                link = page.resolve().as_uri()
                create_link_artifact(link, str(page), key=key, description=f"On the worker: {page}")


def _table(key: str, header: Sequence[str], rows: Sequence[Sequence[str]], text: str) -> None:
    if table := [dict(zip(header, row, strict=True)) for row in rows]:
        create_table_artifact(table=table, key=key, description=text)


class Progress:
    """Progress bar of a stage, read from its output and updated at each further percent."""

    def __init__(self, name: str) -> None:
        self._tag_name, self._percent = name, -1
        self._artifact: UUID | None = None

    def line(self, text: str) -> None:
        """Update the bar from a line of the stage's output."""
        if not (match := _PROGRESS.search(text)):
            return
        done, total = map(int, match.groups())
        percent = 100 * done // max(1, total)
        if percent <= self._percent:
            return
        self._percent = percent
        with contextlib.suppress(HTTPError):  # An outdated page must not end a training.
            if self._artifact is None:
                key = re.sub("[^a-z0-9]+", "-", self._tag_name.lower())
                text = f"Steps or trials of {self._tag_name}."
                artifact = create_progress_artifact(float(percent), f"progress-{key}", text)
                assert isinstance(artifact, UUID)
                self._artifact = artifact
            else:
                update_progress_artifact(self._artifact, float(percent))


def emit(event: str, resource: str, **payload: Any) -> None:
    """Send an event about a resource to the server of PREFECT_API_URL, if it is set."""
    if not os.environ.get("PREFECT_API_URL"):
        return
    from prefect.events import emit_event

    find_yaml = {"prefect.resource.id": f"albef.{resource}", "prefect.resource.name": resource}
    emit_event(f"albef.{event}", find_yaml, payload=payload)
