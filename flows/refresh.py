"""What a refresh of the data sets changed: the data as they lay before, beside what lies there now.

What DVC knows tells whether anything changed. Before a stage runs DVC removes its products, so the
indexes are kept meanwhile, as links where the disk can.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from albef.layout import Layout
from flows import graph

if TYPE_CHECKING:
    import pyarrow as pa

SOURCES, CHECKS = ("heldout", "ingest"), ("validate",)
"""Stages that read sources, and those that check what came of it."""
_INGEST = "ingest@"
_FOLDER = Path(".dvc/tmp")


class DatasetSnapshot:
    """The data sets before a refresh, whose indexes ``folder`` keeps meanwhile."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        self._layout, self._folder = layout, folder
        self._hashes = _read_hashes(layout)
        for name in self._hashes:
            index, copy = layout.data(name) / "index.parquet", folder / f"{name}.parquet"
            if index.is_file():
                try:
                    os.link(index.resolve(), copy)
                except OSError:  # another disk, or one without links
                    shutil.copyfile(index, copy)

    def compare(self) -> tuple[list[str], list[str]]:
        """Data sets of other bytes, and those of equal bytes whose quarantine is another."""
        now, before = _read_hashes(self._layout), self._hashes
        changed = [name for name in now if now[name][0] != before.get(name, ("", {}))[0]]
        return changed, [n for n in now if n not in changed and now[n] != before.get(n)]

    def describe(self, name: str) -> str:
        """What became of a data set, by split, as one sentence.

        Records are told by what they hold: a source of files numbers them, so that one that goes
        gives all that follow another key.
        """
        import pyarrow.parquet as pq  # only where something changed

        old, new = self._folder / f"{name}.parquet", self._layout.data(name) / "index.parquet"
        if not (old.is_file() and new.is_file()):
            return f"{name}: made, with nothing to compare it with"
        counts = count_changes(pq.read_table(old), pq.read_table(new))
        parts = [
            f"{split} +{added:,} -{removed:,}"
            for split, (added, removed) in counts.items()
            if added or removed
        ]
        return f"{name}: {'; '.join(parts) or 'the same records, in other order or shards'}"


@contextlib.contextmanager
def snapshot(layout: Layout) -> Iterator[DatasetSnapshot]:
    """The data sets as they are now, to be compared with what a refresh makes."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="albef-refresh-", dir=_FOLDER) as folder:
        yield DatasetSnapshot(layout, Path(folder))


def count_changes(before: "pa.Table", after: "pa.Table") -> dict[str, tuple[int, int]]:
    """Records of each split that only the later index has, and that only the earlier one has."""
    import pyarrow.compute as pc

    from albef.report.drift import contents  # pandas

    counts = {}
    for split in dict.fromkeys(before["split"].to_pylist() + after["split"].to_pylist()):
        old, new = (
            contents(table.filter(pc.equal(table["split"], split))).value_counts()
            for table in (before, after)
        )
        gained = new.sub(old, fill_value=0)
        counts[split] = int(gained.clip(lower=0).sum()), int(-gained.clip(upper=0).sum())
    return counts


def _read_hashes(layout: Layout) -> dict[str, tuple[str, dict[str, str]]]:
    """The digest of each data set, and those of what else ingest made, as dvc.lock has them."""
    hashes = {}
    for stage, entry in graph.locked().items():
        if stage.startswith(_INGEST):
            name = stage.removeprefix(_INGEST)
            outs = {out["path"]: str(out.get("md5", out.get("hash", ""))) for out in entry["outs"]}
            hashes[name] = outs.pop(str(layout.data(name)), ""), outs
    return hashes
