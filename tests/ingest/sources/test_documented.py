"""The datasets that the docs show are read as they stand."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from albef.config import validate
from albef.ingest.config import RowsConfig

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def test_datasets_of_the_docs_are_read_strictly_and_show_every_kind_that_reads_files() -> None:
    shown: set[str] = set()
    for page in PAGES:
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
            values: dict[str, Any] = YAML(typ="safe", pure=True).load(block)
            is_source = [isinstance(it, dict) and "kind" in it for it in values.values()]
            datasets = values.get("datasets") or {}
            if all(is_source) and "tasks" not in values:  # The page shows only sources.
                datasets = {"shown": {"sources": values}}
            for name, dataset in datasets.items():
                sources = dataset.get("sources", {"...": None})
                if "..." not in sources:
                    read = validate(RowsConfig, dataset, where=f"{page.name}: {name}")
                    assert set(read.sources) == set(sources)
                    shown |= {source["kind"] for source in sources.values()}
    files = "folder table urls karpathy annotations parquet webdataset huggingface"
    assert shown >= set(files.split())
