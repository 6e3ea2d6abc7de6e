"""``albef lineage PATH``: the chain from a product back to the raw source."""

import argparse
import json
import os
import sys
from pathlib import Path

from albef.config import ParamsError
from albef.lineage.find import lineage
from albef.lineage.show import plain, text
from albef.lineage.step import LineageError

CHANGED = 1


def main() -> None:
    """The command; exit code 1 where something at hand is not what is told, 2 for no product."""
    parser = argparse.ArgumentParser(
        prog="albef lineage",
        description="Print where a product comes from: export, checkpoint, search, data sets, "
        "sources; of each its digest, whether the file at hand has it, and how it was made. "
        "The exit code is 1 if a file at hand is not the one that was told of.",
    )
    parser.add_argument("path", type=Path, help="an export, or any other product")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    options = parser.parse_args()
    try:
        chain = lineage(options.path)
        if options.json:
            print(json.dumps(plain(chain), indent=2, ensure_ascii=False))
        else:
            print(text(chain, Path.cwd()))
        sys.stdout.flush()
    except (LineageError, ParamsError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # as before `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        print(f"albef lineage: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if any(step.state == "changed" for step in chain.walk()):
        raise SystemExit(CHANGED)


if __name__ == "__main__":
    main()
