"""``albef data page NAME``: the page of a data set, as the report has it, before there is one."""

from pathlib import Path

from albef.config import ParamsError, did_you_mean
from albef.report import page
from albef.report.sections import datasets
from pipelines.report import ReportConfig
from pipelines.stage import PARAMS, Stage


def main(name: str) -> Path:
    """Write the page; its file.

    Raises:
        ParamsError: no such data set.
    """
    stage = Stage("report", name)
    count = stage.section("report", ReportConfig).examples
    users = page.used_by(stage.params)
    if name not in users:
        raise ParamsError(f"{PARAMS} has no data set {name}{did_you_mean(name, users)}")
    path = stage.layout.data_pages() / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.read(stage.layout, name, users[name], count)
    path.write_text(page.render_dataset(datasets.read_page(stage.layout, data, count)))
    return path
