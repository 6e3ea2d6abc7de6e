"""Flows of prefect.yaml that are not ``train``: several seeds, and verification of a release."""

import tempfile
from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows import git
from flows.experiments.seeds import run_seeds
from flows.releases import verify
from flows.releases.registry import Registry
from flows.results import show_progress


@flow(name="seeds", persist_result=False)
def seeds(
    name: str,
    count: Annotated[int, Field(ge=2)] = 3,
    preset: str | None = None,
    overrides: list[str] | None = None,
) -> str:
    """Run the same values with several seeds and record an experiment for each.

    Args:
        name: prefix of the experiments' names; -seedN is added, from ``seed`` of params.yaml on.
        count: number of seeds.
        preset: preset to apply first.
        overrides: changed values, each as KEY=VALUE.
    """
    show_progress()
    if run_seeds(preset, overrides or (), name, count):
        raise RuntimeError("the first seed failed; see the newest flow run of train")
    return f"recorded {count} experiments as {name}-seed..."


@flow(name="verify", persist_result=False)
def verify_release(run: str, version: str, key: str) -> str:
    """Fetch a version and verify its signatures and lineage.

    Args:
        run: the run.
        version: version of its export.
        key: file of the public key.
    """
    git.fetch()
    registry = Registry(run)
    with tempfile.TemporaryDirectory(prefix="albef-verify-") as folder:
        registry.fetch(version, out := Path(folder) / run)
        registry.fetch_release(version, release := Path(folder) / version)
        verify.main(out, release, Path(key))
    return f"{run} {version} is what was released"
