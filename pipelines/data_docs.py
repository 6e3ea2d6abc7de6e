"""``albef data docs NAME OUT``: a validation as the Data Docs of Great Expectations."""

import argparse
import os
import sys
from pathlib import Path

from albef.data.shards import read_index
from albef.validation.config import ValidateConfig
from albef.validation.expectations import write_data_docs
from albef.validation.result import NotFit
from albef.validation.suites import expectations_of, parameters
from albef.validation.tables import tables
from pipelines.stage import Stage
from pipelines.validate import image_stats


def main() -> None:
    """Write the site; errors are a sentence, exit code 2."""
    parser = argparse.ArgumentParser(
        prog="albef data docs",
        description="Hold a data set against its suites again and write what came of it as Data "
        "Docs. A browser that opens them fetches styles and a logo from other hosts.",
    )
    parser.add_argument("name", metavar="NAME", help="the data set")
    parser.add_argument("out", metavar="OUT", help="folder of the site; it must not be there yet")
    options = parser.parse_args()
    try:
        stage = Stage("validate", options.name)
        config = stage.section("validate", ValidateConfig)
        index = read_index(stage.layout.data(options.name)).combine_chunks()
        items = expectations_of(tables(index, image_stats(stage)))
        out = Path(os.environ.get("ALBEF_FROM", "."), options.out)
        print(write_data_docs(*items, parameters(config), out))
    except (ValueError, NotFit) as error:
        print(f"albef data docs: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
