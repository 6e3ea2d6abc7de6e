"""``albef data docs NAME OUT``: a validation as the Data Docs of Great Expectations."""

import argparse
import os
import sys
from pathlib import Path

from albef.data.shards import read_index
from albef.validation.config import ValidateConfig
from albef.validation.data_docs import build
from albef.validation.outcome import NotFit
from albef.validation.tables import tables
from pipelines.seen import pictures
from pipelines.stage import Stage


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
        found = tables(
            read_index(stage.layout.data(options.name)).combine_chunks(), pictures(stage)
        )
        out = Path(os.environ.get("ALBEF_FROM", "."), options.out)
        print(build(options.name, found, config, out))
    except (ValueError, NotFit) as error:
        print(f"albef data docs: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
