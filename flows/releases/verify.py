"""``albef verify FOLDER RELEASE``: verify that an export is what was released."""

from pathlib import Path

from albef.release.attestation import verify_release


def main(export: Path, release: Path, key: Path) -> None:
    """Verify the signatures and the lineage of an export and print what was signed.

    Raises:
        AttestationError: something is not as it was released. The message names it.
    """
    lineage = verify_release(export, release, key)
    definition, files = lineage["predicate"]["buildDefinition"], lineage["subject"]
    parameters = definition["externalParameters"]
    print(
        f"{parameters['run']} {parameters['version']}, sha256:{files[0]['digest']['sha256']}, is "
        f"signed with the private key of {key}: {len(files)} files, "
        f"{len(definition['resolvedDependencies'])} inputs"
    )
