"""Kind ``urls``: a list of addresses of pictures with their captions, which are downloaded.

Records stand in the order of the list. What was downloaded is kept in scratch under the digest of
the list: an ingest that is killed, or made again with other values, asks no server twice. Meta
holds the address and the SHA-256 of what it gave.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from albef.data.record import Record
from albef.data.refusal import Reason, Refusal, Refused
from albef.ingest.download.limits import Limits
from albef.ingest.sources.rows import Row, Split, captions_of, expand, plain
from albef.ingest.sources.tables import Tables
from albef.io import file_digest

SCRATCH = True
"""``records`` is given a folder for what should outlast an ingest."""
CHUNK = 1000
"""Rows that are kept together."""


class Config(Tables):
    """Tables of addresses and captions, and how they are downloaded."""

    url: str
    """Column of the addresses."""
    split: Split
    """Split of all rows."""
    download: Limits
    """What bounds the download."""


count = Config.count
Entry = tuple[int, Row, str, tuple[str, ...]] | Refusal
"""A row: its place, itself, address and captions."""


def records(
    config: Config, seed: int, scratch: Path, most: int | None = None
) -> Iterator[Record | Refusal]:
    """The first ``most`` rows of the list, or all, in order, each downloaded or set aside; what was
    downloaded is kept in ``scratch``, in a folder named by the digest of the list.

    Raises:
        ParamsError: a file that cannot be read at all; it is named.
        OSError: what is downloaded cannot be kept.
    """
    from albef.ingest.download.downloads import Downloads

    folder = scratch / f"downloads-{_digest(config)[:16]}"
    with Downloads(folder, config.download) as downloads:
        for entries, chunk in downloads.chunks(_chunks(config, most)):
            for entry in entries:
                if isinstance(entry, Refusal):
                    yield entry
                    continue
                place, row, address, captions = entry
                outcome = chunk.outcomes[place]
                if outcome.reason:
                    yield row.refusal(Refused(Reason(outcome.reason), outcome.detail), address)
                    continue
                kept = {name: plain(row.values[name]) for name in config.keep}
                yield Record(
                    key=f"{config.split}-{place:08d}",
                    image=chunk.body(outcome),
                    captions=captions,
                    image_id=place,
                    split=config.split,
                    source="urls",
                    meta={**kept, "url": address, "sha256": outcome.sha256},
                )


def _chunks(
    config: Config, most: int | None
) -> Iterator[tuple[list[Entry], list[tuple[int, str]]]]:
    """The entries of each chunk, and the addresses among them by place."""
    entries = islice(_entries(config), most)
    while chunk := list(islice(entries, CHUNK)):
        yield chunk, [(e[0], e[2]) for e in chunk if not isinstance(e, Refusal)]


def _entries(config: Config) -> Iterator[Entry]:
    for place, row in enumerate(config.rows(config.url)):
        yield row if isinstance(row, Refusal) else _entry(config, place, row)


def _entry(config: Config, place: int, row: Row) -> Entry:
    address = row.values[config.url]
    if not isinstance(address, str) or not address.strip():
        return row.refusal(Refused(Reason.MISSING_FIELD, f"{config.url!r} holds no address"))
    address = plain(address.strip())
    try:
        return place, row, address, captions_of([row.values[config.caption]])
    except Refused as error:
        return row.refusal(Refused(error.reason, f"{config.caption!r}: {error}"), address)


def _digest(config: Config) -> str:
    """Names the addresses of the list and their places."""
    files = [file_digest(file) for file in expand(config.files)]
    named = [config.format, config.header, config.url, files]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()
