"""``albef fetch RUN#STAGE``: fetch the export that holds a stage and keep a link to it."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from albef.config import ParamsError
from albef.io import atomic, lock
from albef.release.attestation import AttestationError, verify_release
from albef.runtime import manifest
from flows import git
from flows.releases.registry import Registry, check_names

SERVED = Path(".albef/serve")
"""Folder with a folder for each run: its served versions, and a link for each stage."""


def main(released: Sequence[str], key: Path | None = None) -> Iterator[Path]:
    """Yield the link to each export of ``RUN#STAGE`` after pointing it at the current version.

    With a public key, the link changes only if the version is signed by the key's owner.

    Raises:
        ParamsError: no version holds the stage, or it cannot be fetched.
        ExportError: the fetched files are damaged.
        AttestationError: the fetched files are not what was signed.
    """
    git.fetch()
    for name in released:
        run, _, stage = name.partition("#")
        if not run or not stage:
            raise ParamsError(f"{name} must be RUN#STAGE, such as retrieval#prod")
        check_names(run, stage)
        folder = SERVED.absolute() / run
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder / ".lock", wait=str):
            _follow(Registry(run), stage, folder / stage, key)
        yield folder / stage


def _follow(registry: Registry, stage: str, link: Path, key: Path | None) -> None:
    version = registry.check_holder(stage)
    old_version = link.resolve().name
    if not (folder := link.with_name(version)).exists():
        with atomic(folder) as part:
            registry.fetch(version, part)
            _check(part, registry, version, key)
    elif key:  # It may have been fetched without a key, or changed since.
        _verify(folder, registry, version, key)
    if old_version == version:
        return
    with atomic(link) as part:
        part.symlink_to(version)
    links = [path for path in link.parent.iterdir() if path.is_symlink()]
    linked = {old_version, *(path.resolve().name for path in links)}
    for path in link.parent.iterdir():  # The previous version may still be served.
        if path.is_dir() and not path.is_symlink() and path.name not in linked:
            shutil.rmtree(path)


def _check(folder: Path, registry: Registry, version: str, key: Path | None) -> None:
    """Check that a folder is complete and, if its release has a lineage, that the digests match."""
    metadata = manifest.read(folder)
    for precision in metadata.precisions:
        manifest.check(folder, metadata, precision)
    if key:
        _verify(folder, registry, version, key)
    digest = manifest.digest(folder)
    if registry.digest(version) not in (None, digest):
        raise ParamsError(
            f"fetched {registry.run} {version} has sha256:{digest}, but its release has another"
        )


def _verify(folder: Path, registry: Registry, version: str, key: Path) -> None:
    """Verify that a folder is what the owner of a public key signed as this version."""
    with tempfile.TemporaryDirectory(prefix="albef-release-") as work:
        release = Path(work) / registry.release_folder(version)
        registry.fetch_release(version, release)
        try:
            lineage = verify_release(folder, release, key)
        except AttestationError as error:
            text = f"{error}".replace(f"{folder}", f"{registry.run} {version}")
            raise AttestationError(text.replace(f"{work}/", "")) from None
    parameters = lineage["predicate"]["buildDefinition"]["externalParameters"]
    if (parameters["run"], parameters["version"]) != (registry.run, version):
        raise AttestationError(
            f"tag {registry.run}@{version} points to an export that was signed as "
            f"{parameters['run']} {parameters['version']}"
        )
