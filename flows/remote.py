"""What one machine computed no other computes again: DVC's default remote, run cache included."""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotFoundError

from flows.graph import LOCK

PUSHED = Path(".dvc/tmp/albef-pushed")
"""Digest of the dvc.lock whose products the remote has."""
log = logging.getLogger("albef")


def configured() -> str | None:
    """Name of the default remote, if there is one."""
    with Repo(".") as repo:
        name = repo.config["core"].get("remote")
    return str(name) if name else None


def fetch_runs() -> None:
    """Learn which runs the remote knows.

    A remote out of reach costs computing, no more: it is warned of.
    """
    warning = "the remote is out of reach, so what this machine lacks is computed here"
    with _tolerating(warning), Repo(".") as repo:
        repo.stage_cache.pull(None)


def fetch_products(name: str) -> None:
    """Take the products of a stage from the remote, if it knows a run of the same inputs.

    ``dvc repro --pull`` leaves out the products that DVC does not cache, such as metrics.
    """
    warning = f"{name} is not taken from the remote"
    with _tolerating(warning), Repo(".", _wait_for_lock=True) as repo, repo.lock:
        stage = next(stage for stage in repo.index.stages if getattr(stage, "name", "") == name)
        redrawn = any(not (out.use_cache or out.is_metric or out.is_plot) for out in stage.outs)
        if stage.changed() and not redrawn:
            with contextlib.suppress(RunCacheNotFoundError):
                repo.stage_cache.restore(stage, pull=True)


@contextlib.contextmanager
def _tolerating(warning: str) -> Iterator[None]:
    try:
        yield
    except (DvcException, OSError) as error:
        log.warning("%s: %s", warning, error)


def push() -> str | None:
    """Push products and the run cache; a sentence on what went wrong, or None."""
    try:
        with Repo(".") as repo:
            count = repo.push(run_cache=True)
            # dvc push leaves out what DVC does not cache, though a run elsewhere restores it
            objs = {out.hash_info for out in repo.index.outs if not out.use_cache and out.hash_info}
            objs = {info for info in objs if repo.cache.local.exists(info.value)}
            count += len(repo.cloud.push(objs).transferred) if objs else 0
    except (DvcException, OSError) as error:
        return (
            f"push: {' '.join(str(error).split())}; the products are complete here, and the next "
            "`albef run` pushes them"
        )
    log.info("pushed %d files to the remote", count)
    PUSHED.write_text(_digest())
    return None


def pushed() -> bool:
    """Whether the remote has what dvc.lock names, as far as this clone knows."""
    return PUSHED.exists() and PUSHED.read_text() == _digest()


def _digest() -> str:
    text = LOCK.read_bytes() if LOCK.exists() else b""
    return hashlib.sha256(text).hexdigest()
