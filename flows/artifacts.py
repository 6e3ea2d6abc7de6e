"""Artifacts on Prefect's pages of a run (tables, model cards, progress bars), and events.

An artifact belongs to the flow or task that runs when it is created.
"""

import contextlib
import os
import platform
import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.objects import State
from prefect.events import emit_event

from albef.layout import Layout
from flows import results
from flows.graph import Node

GATES = ("validate", "export")
"""Stages that can refuse their input."""
_PROGRESS = re.compile(r"(?:step|trial) (\d+) of (\d+)")
"""Pattern of the progress in a stage's output."""


def publish(layout: Layout, nodes: Mapping[str, Node], states: Mapping[str, State]) -> None:
    """Publish the results of a run, given the final states of its stages.

    If the server cannot be reached, the run succeeds without artifacts.
    """
    gates = [
        {
            "gate": name,
            "verdict": "refused" if state.is_failed() else "passed",
            "message": state.message or "",
        }
        for name, state in states.items()
        if name.partition("@")[0] in GATES
    ]
    stale = results.stale_results(layout, nodes)
    rows = [dict(zip(results.HEADER, r, strict=True)) for r in results.evaluated(layout, stale)]
    notes = "".join(f"\n- {results.STALE} {name}: {reason}" for name, reason in stale.items())
    with contextlib.suppress(HTTPError):
        if rows:
            text = f"Results beside their baselines.{notes}"
            create_table_artifact(table=rows, key="results", description=text)
        if gates:
            create_table_artifact(table=gates, key="gates", description="Validation and export.")
        pages = [page for page in (layout.report(), layout.data_pages()) if page.exists()]
        if pages:  # A browser elsewhere cannot open a file of the worker.
            lines = (f"- `{platform.node()}:{page.resolve()}`" for page in pages)
            create_markdown_artifact("Pages on the worker:\n\n" + "\n".join(lines), key="report")
        for card in sorted(layout.cards().glob("*.md")):
            create_markdown_artifact(card.read_text(), key=f"card-{_key(card.stem)}")


def _key(name: str) -> str:
    """Return a name as a key of an artifact."""
    return re.sub("[^a-z0-9]+", "-", name.lower())


class Progress:
    """Progress bar of a stage, read from its output and updated at each further percent."""

    def __init__(self, name: str) -> None:
        self._name, self._percent = name, -1
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
                key, text = f"progress-{_key(self._name)}", f"Steps or trials of {self._name}."
                artifact = create_progress_artifact(float(percent), key, text)
                assert isinstance(artifact, UUID)
                self._artifact = artifact
            else:
                update_progress_artifact(self._artifact, float(percent))


def emit(event: str, resource: str, **payload: Any) -> None:
    """Send an event about a resource to the server of PREFECT_API_URL, if it is set."""
    if os.environ.get("PREFECT_API_URL"):
        named = {"prefect.resource.id": f"albef.{resource}", "prefect.resource.name": resource}
        emit_event(f"albef.{event}", named, payload=payload)
