"""What docs/data.md tells to type is read as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from albef.config import read_preset, validate
from albef.ingest.config import RowsConfig

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"```yaml\n(sources:\n.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_source_of_the_page_is_read_strictly(block: str) -> None:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(block)
    read = validate(RowsConfig, {**values, "shard_mb": 1}, where="docs/data.md")
    assert set(read.sources) == set(values["sources"])


PRESETS = sorted((ROOT / "presets").glob("**/*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_names_the_terms_of_the_public_sets(preset: Path) -> None:
    values = read_preset(preset)
    for name, dataset in values.get("datasets", {}).items():
        for source in dataset["sources"].values():
            if source["kind"] in ("annotations", "karpathy"):
                assert source["licences"], f"{preset.stem}: {name}"
                for licence in source["licences"]:
                    assert f"({licence['url']}" in PAGE, "where the page says it is"


def test_the_page_shows_every_kind_that_reads_files() -> None:
    shown = {kind for block in BLOCKS for kind in re.findall(r"kind: (\w+)", block)}
    assert shown == {"folder", "table", "urls", "karpathy", "annotations", "parquet", "webdataset"}
