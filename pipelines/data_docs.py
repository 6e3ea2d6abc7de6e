"""``albef data docs NAME OUT``: a validation as the Data Docs of Great Expectations."""

from pathlib import Path

from albef.data.shards import read_index
from albef.validation.config import ValidateConfig
from albef.validation.expectations import write_data_docs
from albef.validation.suites import expectations_of, parameters
from albef.validation.tables import tables
from pipelines.stage import Stage
from pipelines.validate import image_stats


def main(name: str, out: Path) -> Path:
    """Write the site; its first page.

    Raises:
        ValueError: no such data set, or ``out`` is there already.
        NotFit: the data set cannot be held against its suites.
    """
    stage = Stage("validate", name)
    config = stage.section("validate", ValidateConfig)
    index = read_index(stage.layout.data(name)).combine_chunks()
    items = expectations_of(tables(index, image_stats(stage)))
    return write_data_docs(*items, parameters(config), out)
