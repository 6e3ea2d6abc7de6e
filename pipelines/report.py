"""Write the report from all available artifacts: the report page, dataset pages and cards."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from albef.config import ParamsError, Section, did_you_mean
from albef.lineage import Project
from albef.report import card, page
from albef.report.sections import datasets
from albef.report.sections.datasets import read_page
from pipelines.stage import PARAMS, Stage, main

NOT_SHOWN = ("paths", "runtime", "release")
"""Sections of params.yaml that change no artifact."""


class ReportConfig(Section):
    """Values of the report."""

    examples: Annotated[int, Field(ge=1, le=100)] = 8
    """Number of queries, pairs and sample images to show per group."""


def run(stage: Stage) -> None:
    """Write the report on every artifact that exists."""
    count = stage.section("report", ReportConfig).examples
    params, layout = stage.params, stage.layout
    runs = tuple(params.get("tasks", {}))
    project = Project(Path(), layout, runs)
    values = {key: section for key, section in params.items() if key not in NOT_SHOWN}
    report = page.read(values, project, count)
    found = {name: card.read(params, layout, name) for name in runs}
    cards = {f"{name}.md": card.render(facts) for name, facts in found.items() if facts}
    pages = {
        f"{data.name}.html": page.render_dataset(read_page(layout, data, count))
        for data in report.datasets
    }
    text = page.render(replace(report, cards=[name.removesuffix(".md") for name in cards]))
    written = [*_write(layout.cards(), cards), *_write(layout.data_pages(), pages)]
    layout.report().write_text(text)
    stage.made(layout.report(), *written)
    stage.record["bytes"] = len(text.encode())


def data_page(name: str) -> Path:
    """Write the page of one dataset, even before the report exists, and return its path.

    Raises:
        ParamsError: params.yaml has no such dataset.
    """
    stage = Stage("report", name)
    count = stage.section("report", ReportConfig).examples
    users = page.used_by(stage.params)
    if name not in users:
        raise ParamsError(f"{PARAMS} has no dataset {name}{did_you_mean(name, users)}")
    path = stage.layout.data_pages() / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.read(stage.layout, name, users[name], count)
    path.write_text(page.render_dataset(read_page(stage.layout, data, count)))
    return path


def _write(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]


if __name__ == "__main__":
    main(run)
