"""Kind ``urls``: a list of addresses of pictures with their captions, which are downloaded.

Records stand in the order of the list. What was downloaded is kept in scratch for each source: an
ingest that is killed, or made again with other values or a longer list, asks no server twice. What
the list no longer names is removed. Meta holds the address and the SHA-256 of what it gave.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from albef.data.record import Record
from albef.data.refusal import Reason, Refusal, Refused
from albef.ingest.download.limits import Limits
from albef.ingest.sources.rows import Row, Split, attempt, captions_of, plain
from albef.ingest.sources.tables import Tables
from albef.layout import Engine

SCRATCH = True
"""``records`` is given a folder for what should outlast an ingest."""
CHUNK = 1000
"""Rows whose downloads are waited for together."""


class Config(Tables):
    """Tables of addresses and captions, and how they are downloaded."""

    url: str
    """Column of the addresses."""
    split: Split
    """Split of all rows."""
    download: Limits
    """What bounds the download."""


Entry = tuple[int, Row, str, tuple[str, ...]] | Refusal
"""A row: its place, itself, address and captions."""


def records(
    config: Config, seed: int, scratch: Path, max_rows: int | None = None, engine: Engine = "local"
) -> Iterator[Record | Refusal]:
    """The first ``max_rows`` of the list, or all, in order, each downloaded by the engine or set
    aside; what was downloaded is kept in ``scratch``, in a folder that the source's ``seed`` names.

    Raises:
        ParamsError: a file that cannot be read at all; it is named.
        OSError: what is downloaded cannot be kept.
    """
    from albef.ingest.download.downloads import Downloads

    folder = scratch / f"downloads-{seed:012x}"
    with Downloads(folder, config.download, engine) as downloads:
        for entries, outcomes in downloads.chunks(_chunks(config, max_rows)):
            for entry in entries:
                if isinstance(entry, Refusal):
                    yield entry
                    continue
                place, row, address, captions = entry
                outcome = outcomes[address]
                if outcome.reason:
                    yield row.refusal(Refused(Reason(outcome.reason), outcome.detail), address)
                    continue
                meta = {name: plain(row.values[name]) for name in config.keep}
                yield Record(
                    key=f"{config.split}-{place:08d}",
                    image=downloads.body(outcome),
                    captions=captions,
                    image_id=place,
                    split=config.split,
                    source="urls",
                    meta={**meta, "url": address, "sha256": outcome.sha256},
                )
        if max_rows is None:
            downloads.forget_unlisted()


def _chunks(config: Config, max_rows: int | None) -> Iterator[tuple[list[Entry], list[str]]]:
    """Yield the entries of each chunk of rows, and their addresses."""
    rows = enumerate(islice(config.rows(config.url), max_rows))
    while chunk := [attempt(row, _entry, config, place) for place, row in islice(rows, CHUNK)]:
        yield chunk, [entry[2] for entry in chunk if not isinstance(entry, Refusal)]


def _entry(row: Row, config: Config, place: int) -> Entry:
    address = row.values[config.url]
    if not isinstance(address, str) or not address.strip():
        raise Refused(Reason.MISSING_FIELD, f"{config.url!r} holds no address")
    address = plain(address.strip())
    try:
        return place, row, address, captions_of([row.values[config.caption]])
    except Refused as error:
        return row.refusal(Refused(error.reason, f"{config.caption!r}: {error}"), address)
