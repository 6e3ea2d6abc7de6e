"""Artifacts on Prefect's page of a run (results, model cards), and events."""

import contextlib
import os
import platform
import re
from collections.abc import Mapping
from typing import Any

from httpx import HTTPError
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event

from albef.layout import Layout
from flows import results
from flows.graph import Node


def publish(layout: Layout, nodes: Mapping[str, Node]) -> None:
    """Publish the results of the flow run; without artifacts if the server cannot be reached."""
    stale = results.stale_results(layout, nodes)
    rows = [dict(zip(results.HEADER, r, strict=True)) for r in results.evaluated(layout, stale)]
    notes = "".join(f"\n- {results.STALE} {name}: {reason}" for name, reason in stale.items())
    with contextlib.suppress(HTTPError):
        if rows:
            text = f"Results beside their baselines.{notes}"
            create_table_artifact(table=rows, key="results", description=text)
        pages = [page for page in (layout.report(), layout.data_pages()) if page.exists()]
        if pages:  # A browser elsewhere cannot open a file of the worker.
            lines = (f"- `{platform.node()}:{page.resolve()}`" for page in pages)
            create_markdown_artifact("Pages on the worker:\n\n" + "\n".join(lines), key="report")
        for card in sorted(layout.cards().glob("*.md")):
            key = re.sub("[^a-z0-9]+", "-", f"card-{card.stem}".lower())
            create_markdown_artifact(card.read_text(), key=key)


def emit(event: str, resource: str, **payload: Any) -> None:
    """Send an event about a resource to the server of PREFECT_API_URL, if it is set."""
    if os.environ.get("PREFECT_API_URL"):
        named = {"prefect.resource.id": f"albef.{resource}", "prefect.resource.name": resource}
        emit_event(f"albef.{event}", named, payload=payload)
