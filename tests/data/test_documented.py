"""What docs/data.md tells to type is read as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from albef.config import validate
from albef.data.sources import SourcesConfig

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"```yaml\n(sources:\n.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_source_of_the_page_is_read_strictly(block: str) -> None:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(block)
    read = validate(SourcesConfig, {**values, "shard_mb": 1}, where="docs/data.md")
    assert set(read.sources) == set(values["sources"])


def test_the_page_shows_every_kind_that_reads_files() -> None:
    shown = {kind for block in BLOCKS for kind in re.findall(r"kind: (\w+)", block)}
    assert shown == {"folder", "urls", "karpathy", "annotations", "parquet", "webdataset"}
