"""What Prefect's pages show of a run beside its states: tables, links, progress; and events.

Artifacts belong to the flow or task that is at work when they are made.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from gto.exceptions import GTOException
from httpx import HTTPError
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.objects import State

from albef.config import read_yaml
from albef.io import read_json
from albef.layout import PARAMS, Layout
from flows import git, results
from flows.releases.registry import Registry

STAGE = "prod"
"""What a version holds that results are compared with."""
GATES = ("validate", "export")
"""Stages that refuse."""
_POINT = re.compile(r"(?:step|trial) (\d+) of (\d+)")
"""How a stage says how far it is."""


def publish(layout: Layout, states: Mapping[str, State]) -> None:
    """Show what a run came to, by the states in which its stages ended.

    A server out of reach, or a name that GTO does not take, costs artifacts and not the run.
    """
    gates = [
        (name, "refused" if state.is_failed() else "passed", _verdict(layout, name, state))
        for name, state in states.items()
        if name.partition("@")[0] in GATES
    ]
    with contextlib.suppress(HTTPError, GTOException):
        result_rows = results.evaluated(layout)
        _table("results", results.HEADER, result_rows, "Results beside their baselines.")
        _table("gates", ("gate", "verdict", "what it says"), gates, "What may be used.")
        header = ("run", "metric", "released", "value", "now", "change")
        rows = list(_compare_with_released(layout))
        _table("released", header, rows, f"Results beside the version that holds {STAGE}.")
        for key, page in (("report", layout.report()), ("data-pages", layout.data_pages())):
            if page.exists():
                link = page.resolve().as_uri()
                create_link_artifact(link, str(page), key=key, description=f"On the worker: {page}")


def _table(key: str, header: Sequence[str], rows: Sequence[Sequence[str]], text: str) -> None:
    if table := [dict(zip(header, row, strict=True)) for row in rows]:
        create_table_artifact(table=table, key=key, description=text)


def _verdict(layout: Layout, name: str, state: State) -> str:
    """What a gate says: of data how many expectations are met, else the stage's own sentence."""
    stage, _, key = name.partition("@")
    result = read_json(layout.validation(key) / "result.json") if stage == "validate" else None
    if result is None or state.is_failed():
        return state.message or ""
    checks = [bool(check.get("passed")) for check in result.get("checks", ())]
    return f"{sum(checks)} of {len(checks)} expectations met"


def _compare_with_released(layout: Layout) -> Iterator[tuple[str, ...]]:
    """The results of each run that is released, as they were then and are now."""
    runs = read_yaml(PARAMS).get("export", {}).get("runs", ())
    for run in runs if git.ask("rev-parse", "HEAD") else ():
        registry = Registry(run)
        holder, path = registry.holder(STAGE), layout.metrics(run)
        text = git.show(registry.versions[holder], path) if holder else None
        if holder and text and path.exists():
            before = {row[1]: row[2] for row in results.rows(run, json.loads(text))}
            for _, metric, value, *_ in results.rows(run, json.loads(path.read_text())):
                old = before.get(metric, "")
                change = f"{float(value) - float(old):+.4g}" if old and value else ""
                yield run, metric, holder, old, value, change


class Progress:
    """How far a stage is, by what it says: a bar, renewed at each further percent."""

    def __init__(self, name: str) -> None:
        self._name, self._percent = name, -1
        self._artifact: UUID | None = None

    def line(self, text: str) -> None:
        """Take a line of the stage's output."""
        if not (match := _POINT.search(text)):
            return
        done, total = map(int, match.groups())
        percent = 100 * done // max(1, total)
        if percent <= self._percent:
            return
        self._percent = percent
        with contextlib.suppress(HTTPError):  # a page that lags must not end a training
            if self._artifact is None:
                key = re.sub("[^a-z0-9]+", "-", self._name.lower())
                text = f"Steps or trials of {self._name}."
                artifact = create_progress_artifact(float(percent), f"progress-{key}", text)
                assert isinstance(artifact, UUID)
                self._artifact = artifact
            else:
                update_progress_artifact(self._artifact, float(percent))


def emit(event: str, resource: str, **payload: Any) -> None:
    """Tell the server of PREFECT_API_URL, if one is named, what happened to a resource."""
    if not os.environ.get("PREFECT_API_URL"):
        return
    from prefect.events import emit_event

    named = {"prefect.resource.id": f"albef.{resource}", "prefect.resource.name": resource}
    emit_event(f"albef.{event}", named, payload=payload)
