"""``albef fetch RUN#STAGE``: the export that holds a stage, here, behind a link that follows it."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from albef.config import ParamsError
from albef.io import atomic, lock
from albef.release.attestation import LINEAGE
from albef.runtime import manifest
from flows import git
from flows.releases.registry import Registry, check_names
from flows.releases.release import RELEASES

SERVED = Path(".albef/serve")
"""Has a folder for each run: its versions that are served, and a link to one for each stage."""


def main(released: Sequence[str]) -> Iterator[Path]:
    """The link to each export of ``RUN#STAGE``, once it leads to the version that holds the stage.

    Raises:
        ParamsError: none does, or it cannot be fetched.
        ExportError: what was fetched is damaged.
    """
    git.fetch()
    for name in released:
        run, _, stage = name.partition("#")
        check_names(run, stage)
        folder = SERVED.absolute() / run
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder / ".lock", wait=str):
            _follow(Registry(run), stage, folder / stage)
        yield folder / stage


def _follow(registry: Registry, stage: str, link: Path) -> None:
    version = registry.holder(stage)
    if version is None:
        raise ParamsError(
            f"no version of {registry.run} holds {stage}; `gto show` lists what there is"
        )
    before = link.resolve().name
    if before == version:
        return
    if not (folder := link.with_name(version)).exists():
        with atomic(folder) as part:
            registry.fetch(version, part)
            _check(part, registry, version)
    with atomic(link) as part:
        part.symlink_to(version)
    links = [path for path in link.parent.iterdir() if path.is_symlink()]
    kept = {before, *(path.resolve().name for path in links)}
    for path in link.parent.iterdir():  # the version before may be served still
        if path.is_dir() and not path.is_symlink() and path.name not in kept:
            shutil.rmtree(path)


def _check(folder: Path, registry: Registry, version: str) -> None:
    """See that a folder is whole, and the one that the release tells of, where it tells of it."""
    written = manifest.read(folder)
    for precision in written.precisions:
        manifest.check(folder, written, precision)
    lineage = git.show(registry.versions[version], RELEASES / registry.run / version / LINEAGE)
    digest = manifest.digest(folder)
    if lineage and json.loads(lineage)["subject"][0]["digest"]["sha256"] != digest:
        raise ParamsError(
            f"{registry.run} {version} was fetched as sha256:{digest}, which is not what "
            "its release tells"
        )
