"""Files: their digests, and folders and buckets behind one kind of address.

An address is ``/mnt/a`` or ``s3://bucket/a``; credentials come from the environment or the
machine's role, as for any S3 client.
"""

import hashlib
import json
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(url: str, key: str) -> tuple[Any, str]:
    """The file system of fsspec that an address is in, and the path there.

    Args:
        url: the address.
        key: of params.yaml, which names it in errors.

    Raises:
        ValueError: there is no such kind of address, or what it needs is not installed.
    """
    import fsspec  # only where an address is asked for

    try:
        files, path = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{key} {url} cannot be used: {error}") from None
    return files, path


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON with sorted keys, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    part.replace(path)


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where there is none."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); run the stage that makes it") from None
