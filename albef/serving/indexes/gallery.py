"""The index that follows a folder of images."""

import asyncio
import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from albef.data.image_formats import is_image_name
from albef.serving.engine import Engine
from albef.serving.errors import ApiError
from albef.serving.indexes.index import About, Index
from albef.serving.indexes.reader import AT_ONCE, RETRY_SECONDS
from albef.serving.indexes.store import GALLERY

log = logging.getLogger("albef")


async def follow(engine: Engine, folder: Path) -> None:
    """Update the index :data:`GALLERY` to the contents of ``folder``.

    An image that cannot be read is logged and skipped.
    """
    try:
        index = await _open(engine)
        indexed = await engine.store.run(index.digests)
        files = await asyncio.to_thread(lambda: [*list_images(folder)])
        await engine.store.run(index.remove, sorted(set(indexed) - set(dict(files))))
        for start in range(0, len(files), AT_ONCE):
            part = files[start : start + AT_ONCE]
            updates = (_update(engine, index, *each, indexed.get(each[0])) for each in part)
            await asyncio.gather(*updates)
        log.info("index gallery has %d images of %s", await engine.store.run(len, index), folder)
    except Exception:  # No caller awaits this task, so the error is logged.
        log.exception("cannot update the index gallery")


async def _open(engine: Engine) -> Index:
    queues, store = engine.calls["embed_image"], engine.store
    index = await engine.store.run(store.get, GALLERY)
    if index is not None and not await engine.indexes.is_up_to_date(index):
        log.info("a new model is served; the index gallery is built again")
        await engine.store.run(store.delete, GALLERY)
    about = About(GALLERY, queues.space, queues.run, queues.model.facts.embed_dim)
    return await engine.store.run(store.create, about)


async def _update(engine: Engine, index: Index, name: str, path: Path, digest: str | None) -> None:
    """Add an image unless its file still has this digest."""
    try:
        image = await asyncio.to_thread(path.read_bytes)
        if digest == await asyncio.to_thread(lambda: hashlib.sha256(image).hexdigest()):
            return
        while True:
            try:
                (result,) = await engine.indexes.add(index, [image], [name])
                if isinstance(result, ApiError):
                    raise result
                return
            except ApiError as error:
                if error.status != 429:
                    raise
            await asyncio.sleep(RETRY_SECONDS)
    except (ApiError, OSError) as error:
        log.warning("%s is not in the index gallery: %s", path, error)


def list_images(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the images of a folder, each with a name that is valid in a URL."""
    names: set[str] = set()
    for path in sorted(folder.rglob("*")):
        if not (is_image_name(path.name) and path.is_file()):
            continue
        relative = path.relative_to(folder).as_posix()
        name = re.sub(r"[^A-Za-z0-9._-]", "_", relative)[-100:].lstrip("._-")
        if name in names or name != relative:
            name = f"{hashlib.sha256(relative.encode(errors='replace')).hexdigest()[:8]}-{name}"
        names.add(name)
        yield name, path
