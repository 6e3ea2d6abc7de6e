"""Shards in a bucket or folder under their digests, and the manifest that names them.

A shard is the object ``STORE/DIGEST.tar``; equal shards of several data sets, or of several
versions of one, are one object. What a data set keeps beside its index is ``shards.json``: the
store, and the digest and size of each of its shards.
"""

import contextlib
import json
import os
import posixpath
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from albef.config import Section, validate
from albef.io import file_digest, opened

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
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error})") from None
    return validate(Manifest, values, where=str(path))


class Store:
    """A bucket or folder of shards; each process connects for itself.

    Args:
        url: its address; credentials come from the environment.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._process = 0
        self._files: Any = None
        self._root = ""

    def address(self, shard: Stored) -> str:
        """The address of a shard."""
        return f"{self.url}/{shard.digest}.tar"

    def put(self, path: Path) -> Stored:
        """Send a shard; one that is there, with its size, is not sent again.

        Raises:
            OSError: it cannot be written.
        """
        shard = Stored(digest=file_digest(path), size=path.stat().st_size)
        files, target = self._place(shard)
        try:
            files.invalidate_cache()
            if not files.exists(target) or files.info(target)["size"] != shard.size:
                files.makedirs(self._root, exist_ok=True)
                if "file" in _protocols(files):  # objects are whole or absent, files are made so
                    beside = f"{target}.{os.getpid()}.part"
                    files.put_file(str(path), beside)
                    files.mv(beside, target)
                else:
                    files.put_file(str(path), target)
        except Exception as error:  # of each kind of store another
            raise OSError(
                f"{self.address(shard)} cannot be written ({error}): mend that, or name another "
                "store, and run it again; it goes on where it was"
            ) from error
        return shard

    def get(self, shard: Stored, path: Path) -> None:
        """Fetch a shard to a file, which is written in place.

        Raises:
            FileNotFoundError: the store does not have it.
            Exception: of each kind of store another.
        """
        files, source = self._place(shard)
        files.get_file(source, str(path))

    def _place(self, shard: Stored) -> tuple[Any, str]:
        if self._process != os.getpid():  # a connection is not shared with a fork
            self._files, self._root = opened(self.url, "store")
            self._process = os.getpid()
        return self._files, posixpath.join(self._root, f"{shard.digest}.tar")

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.url,)


def _protocols(files: Any) -> tuple[str, ...]:
    """Names of a file system, as ``("file", "local")``."""
    with contextlib.suppress(AttributeError):
        return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)
    return ()
