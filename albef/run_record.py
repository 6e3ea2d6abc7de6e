"""Run records of products that are not at hand now, kept until DVC brings those back.

A record tells how a stage came to its products. When DVC takes earlier products from its cache, no
stage runs, and the record that lies there is that of later ones: theirs is then put back.
"""

import json
import shutil
from pathlib import Path

from albef.io import file_digest

KEPT = Path(".albef/records")
"""Where they lie, from the root of the project."""
MOST = 50
"""Records kept of each stage; the oldest go first."""


def keep(record: Path) -> None:
    """Keep a copy of a run record that was just written."""
    folder = KEPT / record.stem
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{file_digest(record)[:16]}.json"
    shutil.copyfile(record, copy)
    for old in _newest_first(folder)[MOST:]:
        old.unlink(missing_ok=True)


def recall(record: Path) -> bool:
    """Put the newest kept record in place whose products are those at hand; whether there is one.

    What lies there stays if it is right, or if no other is.
    """
    digests: dict[str, str] = {}

    def own(path: Path) -> bool:
        made = json.loads(path.read_text()).get("made", {})
        for name in made:
            if name not in digests:
                digests[name] = file_digest(Path(name)) if Path(name).is_file() else ""
        return bool(made) and all(digests[name] == digest for name, digest in made.items())

    if record.is_file() and own(record):
        return True
    for copy in _newest_first(KEPT / record.stem):
        if own(copy):
            shutil.copyfile(copy, record)
            return True
    return False


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
