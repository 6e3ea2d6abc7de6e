"""``albef fetch RUN#STAGE``: the export that holds a stage, here, behind a link that follows it."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from albef.config import ParamsError
from albef.io import atomic, lock
from albef.release.attestation import LINEAGE, Unverified, verify_release
from albef.runtime import manifest
from flows import git
from flows.releases.registry import Registry, check_names

SERVED = Path(".albef/serve")
"""Has a folder for each run: its versions that are served, and a link to one for each stage."""


def main(released: Sequence[str], key: Path | None = None) -> Iterator[Path]:
    """The link to each export of ``RUN#STAGE``, once it leads to the version that holds the stage.

    With a public key it leads to what its owner signed, or nothing changes.

    Raises:
        ParamsError: none does, or it cannot be fetched.
        ExportError: what was fetched is damaged.
        Unverified: it is not what was signed.
    """
    git.fetch()
    for name in released:
        run, _, stage = name.partition("#")
        check_names(run, stage)
        folder = SERVED.absolute() / run
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder / ".lock", wait=str):
            _follow(Registry(run), stage, folder / stage, key)
        yield folder / stage


def _follow(registry: Registry, stage: str, link: Path, key: Path | None) -> None:
    version = registry.holder(stage)
    if version is None:
        raise ParamsError(
            f"no version of {registry.run} holds {stage}; `gto show` lists what there is"
        )
    old_version = link.resolve().name
    if not (folder := link.with_name(version)).exists():
        with atomic(folder) as part:
            registry.fetch(version, part)
            _check(part, registry, version, key)
    elif key:  # it may have been fetched without one, or changed since
        _verify(folder, registry, version, key)
    if old_version == version:
        return
    with atomic(link) as part:
        part.symlink_to(version)
    links = [path for path in link.parent.iterdir() if path.is_symlink()]
    linked = {old_version, *(path.resolve().name for path in links)}
    for path in link.parent.iterdir():  # the version before may be served still
        if path.is_dir() and not path.is_symlink() and path.name not in linked:
            shutil.rmtree(path)


def _check(folder: Path, registry: Registry, version: str, key: Path | None) -> None:
    """See that a folder is whole, and the one that the release tells of, where it tells of it."""
    metadata = manifest.read(folder)
    for precision in metadata.precisions:
        manifest.check(folder, metadata, precision)
    if key:
        _verify(folder, registry, version, key)
    lineage = git.show(registry.versions[version], registry.release_folder(version) / LINEAGE)
    digest = manifest.digest(folder)
    if lineage and json.loads(lineage)["subject"][0]["digest"]["sha256"] != digest:
        raise ParamsError(
            f"{registry.run} {version} was fetched as sha256:{digest}, which is not what "
            "its release tells"
        )


def _verify(folder: Path, registry: Registry, version: str, key: Path) -> None:
    """See that a folder is what the owner of a public key signed as this version.

    Raises:
        Unverified: in what it is not.
    """
    with tempfile.TemporaryDirectory(prefix="albef-release-") as work:
        release = Path(work) / registry.release_folder(version)
        registry.fetch_release(version, release)
        try:
            lineage = verify_release(folder, release, key)
        except Unverified as error:
            text = f"{error}".replace(f"{folder}", f"{registry.run} {version}")
            raise Unverified(text.replace(f"{work}/", "")) from None
    parameters = lineage["predicate"]["buildDefinition"]["externalParameters"]
    if (parameters["run"], parameters["version"]) != (registry.run, version):
        raise Unverified(
            f"the tag {registry.run}@{version} leads to what was signed as {parameters['run']} "
            f"{parameters['version']}"
        )
