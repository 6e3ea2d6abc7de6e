"""Shards in a bucket or folder under their digests, and the manifest that names them.

A shard is the object ``STORE/DIGEST.tar``. Equal shards of several datasets, or of several versions
of one, are one object. Beside its index, a dataset keeps ``shards.json``: the store, and the digest
and size of each of its shards.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from albef.config import Section, validate
from albef.io import file_digest, open_filesystem, read_json

MANIFEST = "shards.json"


class Stored(Section):
    """A shard in a store."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the shard."""
    size: Annotated[int, Field(ge=1)]
    """Size of the shard in bytes."""


class Manifest(Section):
    """Locations of the shards of a dataset."""

    store: str
    """Address of the store."""
    shards: dict[str, Stored]
    """Shards by name, in order."""


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a dataset; None if its shards are beside its index.

    Raises:
        ValueError: the manifest is damaged.
    """
    path = folder / MANIFEST
    values = read_json(path)
    return None if values is None else validate(Manifest, values, where=str(path))


@dataclass(frozen=True)
class Store:
    """Bucket or folder of shards at an address; credentials come from the environment."""

    url: str

    def address(self, shard: Stored) -> str:
        """Return the address of a shard."""
        return f"{self.url.rstrip('/')}/{shard.digest}.tar"

    def put(self, path: Path) -> Stored:
        """Send a shard, unless the store already has it with the same size.

        Raises:
            OSError: the shard cannot be written.
        """
        from fsspec.implementations.local import LocalFileSystem

        shard = Stored(digest=file_digest(path), size=path.stat().st_size)
        files, target = self._locate(shard)
        try:
            files.invalidate_cache()
            if not files.exists(target) or files.info(target)["size"] != shard.size:
                files.makedirs(target.rpartition("/")[0], exist_ok=True)
                # A bucket never shows a partial object; a folder may show a partial file.
                if isinstance(files, LocalFileSystem):
                    temporary = f"{target}.{os.getpid()}.part"
                    files.put_file(str(path), temporary)
                    files.mv(temporary, target)
                else:
                    files.put_file(str(path), target)
        except Exception as error:  # Each kind of store raises its own exceptions.
            raise OSError(
                f"cannot write {self.address(shard)}: {explain(error)}. Fix it or set another "
                "`store`, then run the command again; it skips shards that were sent"
            ) from error
        return shard

    def get(self, shard: Stored, path: Path) -> None:
        """Fetch a shard to a file, which is written in place.

        Raises:
            FileNotFoundError: the store does not have the shard.
            Exception: each kind of store raises its own exceptions.
        """
        files, source = self._locate(shard)
        files.get_file(source, str(path))

    def _locate(self, shard: Stored) -> tuple[Any, str]:
        files, root = _connection(self.url, os.getpid())
        return files, f"{root.rstrip('/')}/{shard.digest}.tar"


def explain(error: Exception) -> str:
    """Return the message of a store's error; point out a missing permission.

    Some stores report little about a missing permission.
    """
    return f"permission is missing: {error}" if isinstance(error, PermissionError) else str(error)


@functools.cache
def _connection(url: str, process: int) -> tuple[Any, str]:
    """Return the file system of a store and the path in it; a forked process connects again."""
    return open_filesystem(url, "store")
