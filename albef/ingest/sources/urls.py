"""Kind ``urls``: a list of image URLs with captions; the images are downloaded.

Records are in the order of the list. Downloads are kept in scratch for each source. If an ingest is
killed, or repeated with other values or a longer list, no URL is requested twice. If a URL leaves
the list, its download is removed. Meta contains the URL and the SHA-256 of the download.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.download.limits import Limits
from albef.ingest.sources.rows import Row, Split, attempt, captions_of, keep, to_json
from albef.ingest.sources.tables import Tables
from albef.layout import Engine

SCRATCH = True
"""``records`` receives a folder for files that should outlast an ingest."""
CHUNK = 1000
"""Rows whose downloads are awaited together."""


class Config(Tables):
    """Tables of URLs and captions, and the limits of the download."""

    url: str
    """Column of the URLs."""
    split: Split
    """Split of all rows."""
    download: Limits
    """Limits of the download."""


Entry = tuple[int, Row, str, tuple[str, ...]] | Rejection
"""Position, row with the values to keep, URL and captions of a row, or its rejection."""


def records(
    config: Config, seed: int, scratch: Path, max_rows: int | None = None, engine: Engine = "local"
) -> Iterator[Record | Rejection]:
    """Yield the rows of the list in order, each downloaded or rejected.

    Raises:
        OSError: a download cannot be stored.
    """
    from albef.ingest.download.downloads import Downloads

    folder = scratch / f"downloads-{seed:012x}"
    with Downloads(folder, config.download, engine) as downloads:
        for entries, outcomes in downloads.chunks(_chunks(config, max_rows)):
            for entry in entries:
                if isinstance(entry, Rejection):
                    yield entry
                    continue
                position, row, url, captions = entry
                outcome = outcomes[url]
                if outcome.reason:
                    yield row.rejection(RowError(Reason(outcome.reason), outcome.detail), url)
                    continue
                meta = {**row.values, "url": url, "sha256": outcome.sha256}
                key, image = f"{config.split}-{position:08d}", downloads.store.body(outcome)
                yield Record(key, image, captions, position, config.split, "urls", meta)
        if max_rows is None:
            downloads.store.remove_unlisted()


def _chunks(config: Config, max_rows: int | None) -> Iterator[tuple[list[Entry], list[str]]]:
    rows = enumerate(islice(config.rows(config.url), max_rows))
    while chunk := [attempt(row, _entry, config, i) for i, row in islice(rows, CHUNK)]:
        yield chunk, [entry[2] for entry in chunk if not isinstance(entry, Rejection)]


def _entry(row: Row, config: Config, position: int) -> Entry:
    url = to_json(row.text(config.url).strip())
    try:
        captions = captions_of([row.values[config.caption]])
    except RowError as error:
        return row.rejection(RowError(error.reason, f"{config.caption!r}: {error}"), url)
    return position, replace(row, values=keep(row, config.keep)), url, captions
