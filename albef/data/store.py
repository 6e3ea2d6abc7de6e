"""Shards in a bucket or folder under their digests, and the manifest that names them.

A shard is the object ``STORE/DIGEST.tar``; equal shards of several data sets, or of several
versions of one, are one object. What a data set keeps beside its index is ``shards.json``: the
store, and the digest and size of each of its shards.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from albef.config import Section, validate
from albef.io import file_digest, opened, read_json

MANIFEST = "shards.json"


class Stored(Section):
    """A shard in a store."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Its SHA-256."""
    size: Annotated[int, Field(ge=1)]
    """Its bytes."""


class Manifest(Section):
    """Where the shards of a data set are."""

    store: str
    """Address of the store."""
    shards: dict[str, Stored]
    """Shards by name, in order."""


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a data set; None where its shards lie beside its index.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / MANIFEST
    values = read_json(path)
    return None if values is None else validate(Manifest, values, where=str(path))


@dataclass(frozen=True)
class Store:
    """A bucket or folder of shards, by its address; credentials come from the environment."""

    url: str

    def address(self, shard: Stored) -> str:
        """The address of a shard."""
        return f"{self.url.rstrip('/')}/{shard.digest}.tar"

    def put(self, path: Path) -> Stored:
        """Send a shard; one that is there, with its size, is not sent again.

        Raises:
            OSError: it cannot be written.
        """
        from fsspec.implementations.local import LocalFileSystem

        shard = Stored(digest=file_digest(path), size=path.stat().st_size)
        files, target = self._locate(shard)
        try:
            files.invalidate_cache()
            if not files.exists(target) or files.info(target)["size"] != shard.size:
                files.makedirs(target.rpartition("/")[0], exist_ok=True)
                if isinstance(files, LocalFileSystem):  # an object is whole or absent by itself
                    temporary = f"{target}.{os.getpid()}.part"
                    files.put_file(str(path), temporary)
                    files.mv(temporary, target)
                else:
                    files.put_file(str(path), target)
        except Exception as error:  # of each kind of store another
            raise OSError(
                f"{self.address(shard)} cannot be written ({why(error)}): mend that, or name "
                "another store, and run it again; what is there is not sent again"
            ) from error
        return shard

    def get(self, shard: Stored, path: Path) -> None:
        """Fetch a shard to a file, which is written in place.

        Raises:
            FileNotFoundError: the store does not have it.
            Exception: of each kind of store another.
        """
        files, source = self._locate(shard)
        files.get_file(source, str(path))

    def _locate(self, shard: Stored) -> tuple[Any, str]:
        files, root = _connection(self.url, os.getpid())
        return files, f"{root.rstrip('/')}/{shard.digest}.tar"


def why(error: Exception) -> str:
    """What a store says of an error; of a missing permission some say little."""
    return f"permission is missing: {error}" if isinstance(error, PermissionError) else str(error)


@functools.cache
def _connection(url: str, process: int) -> tuple[Any, str]:
    """The file system of a store and its path there: a fork connects for itself."""
    return opened(url, "store")
