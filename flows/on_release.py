"""Verification of a release on a worker: the deployment ``verify`` of prefect.yaml."""

import tempfile
from pathlib import Path

from prefect import flow

from flows import git
from flows.releases import verify
from flows.releases.registry import Registry


@flow(name="verify", persist_result=False)
def verify_release(run: str, version: str, key: str, replay: str | None = "any") -> str:
    """Fetch a version, verify its signatures and lineage, and run a randomly chosen stage again.

    Args:
        run: the run.
        version: version of its export.
        key: file of the public key.
        replay: stage to run again; ``any`` draws one, null runs none.
    """
    git.fetch()
    registry = Registry(run)
    with tempfile.TemporaryDirectory(prefix="albef-verify-") as folder:
        registry.fetch(version, out := Path(folder) / run)
        registry.fetch_release(version, release := Path(folder) / version)
        verify.main(out, release, Path(key), replay, seed=0, tolerance=verify.TOLERANCE)
    return f"{run} {version} is what was released"
