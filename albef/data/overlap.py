"""Pictures that two splits share, by the digests of their files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from albef.data.shards import read_index

_COLUMNS = ("key", "digest", "more")


def shared(folder: Path, split: str, other: Path, other_split: str = "train") -> tuple[str, ...]:
    """Keys of the records of a split that have a picture which a split of a data set has too.

    Equal files are found; pictures that only look alike are not.

    Raises:
        ShardError: a data set that is missing or damaged.
    """
    theirs = pc.unique(_pictures(read_index(other, other_split, _COLUMNS))["digest"])
    own = _pictures(read_index(folder, split, _COLUMNS))
    keys = own.filter(pc.is_in(own["digest"], value_set=theirs))["key"]
    return tuple(dict.fromkeys(keys.to_pylist()))


def _pictures(index: pa.Table) -> pa.Table:
    """Key and digest of every picture, also of the further ones of a record."""
    first = index.select(["key", "digest"])
    if "more" not in index.column_names:
        return first
    owner = pc.list_parent_indices(index["more"].combine_chunks())
    more = pa.Table.from_struct_array(pc.list_flatten(index["more"]).combine_chunks())
    further = pa.table({"key": first["key"].take(owner), "digest": more["digest"]})
    return pa.concat_tables([first, further])
