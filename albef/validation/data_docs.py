"""A validation as Data Docs, the web site that Great Expectations itself draws."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from albef.validation.config import ValidateConfig
from albef.validation.expectations import expectation, quiet, without_bars
from albef.validation.suites import held_to
from albef.validation.tables import Tables


def build(dataset: str, tables: Tables, config: ValidateConfig, out: Path) -> Path:
    """Hold a data set against its suites and draw what came of it.

    Args:
        dataset: its name.
        tables: of the data set.
        config: when it is refused.
        out: folder of the site, which must not be there yet.

    Returns:
        The page to open.

    Raises:
        ValueError: the folder is there already.
    """
    if out.exists():
        raise ValueError(f"{out} is there already: name another folder, or remove it")
    named, items = held_to(tables, config)
    with tempfile.TemporaryDirectory() as work, quiet():
        import great_expectations as gx

        context: Any = gx.get_context(mode="file", project_root_dir=work)
        without_bars(context)
        source = context.data_sources.add_pandas(dataset)
        for name, frame in named.items():
            own = [item for item in items if item["meta"]["table"] == name]
            suite = gx.ExpectationSuite(
                name=name, expectations=[expectation(item, i) for i, item in enumerate(own)]
            )
            batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
            definition = context.validation_definitions.add(
                gx.ValidationDefinition(name=name, data=batch, suite=context.suites.add(suite))
            )
            definition.run(batch_parameters={"dataframe": frame})
        context.build_data_docs()
        site = next(Path(work).rglob("local_site"))
        shutil.copytree(site, out)
    return out / "index.html"
