"""Kind ``webdataset``: existing shards, such as those of img2dataset.

A sample is a sequence of members with the same name: an image, and a ``.txt`` or ``.json`` with its
caption. Only these members are read. A damaged member becomes a rejected row.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from albef.config import ParamsError
from albef.data.image_formats import IMAGE_SUFFIXES
from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.data.tar import Damage, Member, members
from albef.ingest.sources.rows import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_BYTES,
    FilesBySplit,
    Row,
    SplitFiles,
    attempt,
    captions_of,
    expand_splits,
    to_json,
)

_LIMITS = dict.fromkeys(IMAGE_SUFFIXES, MAX_IMAGE_BYTES) | {
    "txt": MAX_TEXT_BYTES,
    "json": MAX_TEXT_BYTES,
}


class Config(SplitFiles):
    """Shards in WebDataset's format."""

    files: FilesBySplit
    """Uncompressed tar files by split, as paths or patterns."""
    caption: Annotated[str, Field(pattern=r"^(txt|json\..+)$")] = "txt"
    """Member with the captions: ``txt``, or ``json.FIELD``, which may be a list."""
    keep: list[str] | None = None
    """Fields of the JSON to keep in meta; null keeps all."""

    def fields_of_row(self) -> frozenset[str]:
        """Return the fields with the place of the sample, and img2dataset's own of its caption."""
        return frozenset({"path", "key", "caption"})


@dataclass(slots=True)
class _Sample:
    """Consecutive members with the same name, and the damage among them."""

    name: str
    parts: dict[str, bytes] = field(default_factory=dict)
    damage: Damage | None = None

    def image(self) -> bytes | None:
        return next((self.parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in self.parts), None)

    def add(self, suffix: str, data: bytes) -> None:
        self.parts[suffix] = data
        for other in [suffix for suffix in IMAGE_SUFFIXES if suffix in self.parts][1:]:
            self.parts[other] = b""  # Only one of several images stays in memory.

    def accepts(self, damage: Damage, name: str, caption_key: str) -> bool:
        """Return whether damage, under a name if it is known, belongs to this sample."""
        is_complete = self.image() is not None and caption_key in self.parts
        return self.damage is None and (name == self.name if name else not is_complete)


def records(config: Config, seed: int) -> Iterator[Record | Rejection]:
    """Yield the samples of all shards, in order."""
    number = 0
    for split, shard in expand_splits(config.files):
        try:
            samples = _samples(members(shard, limit), config.caption.split(".")[0])
            for line, sample in enumerate(samples, 1):
                row = Row(shard, line, sample, sample.name)
                if damage := sample.damage:
                    where = f"{shard}, byte {damage.offset}: {damage.detail}"
                    yield Rejection("", line, sample.name, damage.reason, where)
                result = attempt(row, _record, config, split, number)
                number += isinstance(result, Record)
                if isinstance(result, Record) or not damage:
                    yield result
        except OSError as error:
            raise ParamsError(f"{shard} cannot be read: {error.strerror}") from None


def limit(name: str) -> int:
    """Return the most bytes of a member that are read, by its name; 0 for other members."""
    return _LIMITS.get(split_name(name)[1], 0)


def _samples(entries: Iterator[Member | Damage], caption_key: str) -> Iterator[_Sample]:
    """Group members by name; assign damage to an incomplete sample, or else to the next one."""
    current = _Sample("")
    for entry in entries:
        name, suffix = split_name(entry.name)
        if isinstance(entry, Damage):
            belongs = entry.reason != Reason.CUT_SHARD and current.accepts(entry, name, caption_key)
        else:
            if not current.parts:
                # The damaged member may have been the start of the sample.
                current.name = current.name or name
            belongs = current.name == name and suffix not in current.parts
        if not belongs:
            if current.parts or current.damage:
                yield current
            current = _Sample(name)
        if isinstance(entry, Damage):
            current.damage = entry
        else:
            current.add(suffix, entry.data)
    if current.parts or current.damage:
        yield current


def split_name(path: str) -> tuple[str, str]:
    """Split a member's path at the first dot of its file name; return both parts."""
    folder, slash, file = path.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _record(row: Row, config: Config, split: str, number: int) -> Record:
    sample: _Sample = row.values
    image = sample.image()
    if image is None:
        raise RowError(Reason.MISSING_FILE, "the sample has no image")
    values = json.loads(sample.parts.get("json", "{}"))
    if not isinstance(values, Mapping):
        raise RowError(Reason.MALFORMED_ROW, "the .json of the sample is not an object")
    selected = values if config.keep is None else {k: values[k] for k in config.keep if k in values}
    meta = {**to_json(selected), "path": f"{row.file.name if row.file else ''}/{sample.name}"}
    captions = captions_of([_caption(config, sample, values)])
    return Record(f"{split}-{number:08d}", image, captions, number, split, "webdataset", meta)


def _caption(config: Config, sample: _Sample, values: Mapping[str, Any]) -> object:
    if config.caption == "txt":
        return sample.parts["txt"].decode() if "txt" in sample.parts else None
    return values.get(config.caption.removeprefix("json."))
