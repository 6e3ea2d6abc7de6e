"""DVC's default remote with its run cache, so that no machine repeats another's computation."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotFoundError

from albef.io import file_digest
from flows.graph import LOCK, one_line

PUSHED = Path(".dvc/tmp/albef-pushed")
"""File with the digest of the dvc.lock whose artifacts the remote has."""
log = logging.getLogger("albef")


def configured() -> str | None:
    """Return the name of the default remote, or None."""
    with Repo(".") as repo:
        name = repo.config["core"].get("remote")
    return str(name) if name else None


def fetch_runs() -> None:
    """Fetch the run cache of the remote, or log a warning if it cannot be reached."""
    warning = "cannot read the DVC remote; missing artifacts are computed here"
    with _warn_on_failure(warning), Repo(".") as repo:
        repo.stage_cache.pull(None)


def fetch_artifacts(name: str) -> None:
    """Fetch the artifacts of a stage if the remote knows a run with the same inputs.

    ``dvc repro --pull`` omits artifacts that DVC does not cache, such as metrics.
    """
    warning = f"cannot fetch the artifacts of {name} from the DVC remote"
    with _warn_on_failure(warning), Repo(".", _wait_for_lock=True) as repo, repo.lock:
        stage = next(stage for stage in repo.index.stages if getattr(stage, "name", "") == name)
        redrawn = any(not (out.use_cache or out.is_metric or out.is_plot) for out in stage.outs)
        if stage.changed() and not redrawn:
            with contextlib.suppress(RunCacheNotFoundError):
                repo.stage_cache.restore(stage, pull=True)


@contextlib.contextmanager
def _warn_on_failure(warning: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # The libraries of remotes have errors of many types.
        log.warning("%s: %s", warning, one_line(error))


def push() -> str | None:
    """Push artifacts and the run cache; return an error message, or None on success."""
    try:
        with Repo(".") as repo:
            count = repo.push(run_cache=True)
            # `dvc push` omits what DVC does not cache, but restoring a run elsewhere needs it.
            objs = {out.hash_info for out in repo.index.outs if not out.use_cache and out.hash_info}
            objs = {info for info in objs if repo.cache.local.exists(info.value)}
            count += len(repo.cloud.push(objs).transferred) if objs else 0
    except Exception as error:  # as above
        return f"push: {one_line(error)}; the next `albef run` tries it again"
    log.info("pushed %d files to the remote", count)
    PUSHED.write_text(file_digest(LOCK))
    return None


def pushed() -> bool:
    """Return whether the remote has what dvc.lock names, as far as this clone knows."""
    return PUSHED.exists() and LOCK.exists() and PUSHED.read_text() == file_digest(LOCK)
