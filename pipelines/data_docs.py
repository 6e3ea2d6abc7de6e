"""``albef data docs NAME OUT``: a validation as the Data Docs of Great Expectations."""

from pathlib import Path

from albef.data.shards import read_index
from albef.validation.config import ValidateConfig
from albef.validation.data_docs import build
from albef.validation.tables import tables
from pipelines.seen import pictures
from pipelines.stage import Stage


def main(name: str, out: Path) -> Path:
    """Write the site; its first page.

    Raises:
        ValueError: no such data set, or ``out`` is there already.
        NotFit: the data set cannot be held against its suites.
    """
    stage = Stage("validate", name)
    config = stage.section("validate", ValidateConfig)
    found = tables(read_index(stage.layout.data(name)).combine_chunks(), pictures(stage))
    return build(name, found, config, out)
