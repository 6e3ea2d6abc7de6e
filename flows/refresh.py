"""What a refresh of the data sets changed: the data as they lay before, beside what lies there now.

What DVC knows tells whether anything changed. Before a stage runs DVC removes its products, so the
indexes are kept aside meanwhile, as links where the disk can.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from albef.layout import Layout
from flows import graph

SOURCES, CHECKS = ("heldout", "ingest"), ("validate",)
"""Stages that read sources, and those that check what came of it."""
INGEST = "ingest@"
_ASIDE = Path(".dvc/tmp")


def of(names: Collection[str], modules: Collection[str]) -> list[str]:
    """Those stages whose name before the ``@`` is among some."""
    return [name for name in names if name.partition("@")[0] in modules]


class Before:
    """The data sets before a refresh.

    Args:
        layout: where products lie.
        folder: keeps their indexes meanwhile.
    """

    def __init__(self, layout: Layout, folder: Path) -> None:
        self._layout = layout
        self._folder = folder
        self._hashes = _hashes()
        for stage in self._hashes:
            name = stage.removeprefix(INGEST)
            index = layout.data(name) / "index.parquet"
            if index.is_file():
                _keep(index, folder / f"{name}.parquet")

    def changed(self) -> list[str]:
        """The data sets whose bytes are others now."""
        now, was = _hashes(), self._hashes
        return [
            stage.removeprefix(INGEST)
            for stage, outs in now.items()
            if outs.get(self._data(stage)) != was.get(stage, {}).get(self._data(stage))
        ]

    def set_aside_otherwise(self) -> list[str]:
        """The data sets with equal bytes of whose sources other rows were set aside."""
        now, others = _hashes(), self.changed()
        names = (stage.removeprefix(INGEST) for stage in now)
        return [
            name
            for name in names
            if name not in others and now[INGEST + name] != self._hashes.get(INGEST + name)
        ]

    def told(self, name: str) -> str:
        """What became of a data set, by split, as one sentence."""
        from albef.report import drift  # pandas: only where something changed

        old, new = self._folder / f"{name}.parquet", self._layout.data(name) / "index.parquet"
        if not (old.is_file() and new.is_file()):
            return f"{name}: made, with nothing to compare it with"
        import pyarrow.parquet as pq

        rows = drift.compare(pq.read_table(old), pq.read_table(new)).rows
        parts = [
            f"{row.split} +{row.added:,} -{row.removed:,}"
            + (f", {row.changed:,} with other content" if row.changed else "")
            for row in rows
            if row.added or row.removed or row.changed
        ]
        return f"{name}: {'; '.join(parts) or 'the same records, in other shards or order'}"

    def _data(self, stage: str) -> str:
        return str(self._layout.data(stage.removeprefix(INGEST)))


@contextlib.contextmanager
def watching(layout: Layout) -> Iterator[Before]:
    """The data sets as they are now, to be compared with what a refresh makes."""
    _ASIDE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="albef-refresh-", dir=_ASIDE) as folder:
        yield Before(layout, Path(folder))


def _hashes() -> dict[str, Mapping[str, str]]:
    """Digests of the products of each ingest by path, as dvc.lock has them."""
    return {
        name: {out["path"]: str(out.get("md5", out.get("hash", ""))) for out in entry["outs"]}
        for name, entry in graph.locked().items()
        if name.startswith(INGEST)
    }


def _keep(index: Path, beside: Path) -> None:
    try:
        os.link(index.resolve(), beside)
    except OSError:  # another disk, or one without links
        shutil.copyfile(index, beside)
