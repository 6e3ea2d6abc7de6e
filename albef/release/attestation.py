"""Files of a release and their signatures: OpenSSF model signing with local keys.

A release is a folder of small files that accompanies the export. It contains the model card, its
figures, and the lineage as an in-toto statement. One signature covers every file of the export,
another every file of the release. Both are Sigstore bundles, which ``model_signing verify key``
reads.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from albef.config import ParamsError
from albef.io import read_json, write_json
from albef.lineage import Lineage
from albef.runtime.manifest import NAME as MANIFEST

CARD, FIGURES, LINEAGE = "README.md", "figures.json", "lineage.json"
SIGNED, SEAL = "export.sig", "release.sig"
"""Signature of the export, and signature of the release, which covers the former."""
_MISSING = "signatures need the package model-signing: `pip install '.[signing]'`"


class AttestationError(ValueError):
    """Error for a file, folder or statement that is not what was signed."""

    exit_code = 1


def check_key(key: Path, project: Path) -> Iterator[str]:
    """Yield an error message for each reason why a private key cannot sign."""
    if not key.is_file():
        yield f"signing key {key} does not exist"
    elif key.resolve().is_relative_to(project.resolve()):
        yield f"signing key {key} is inside the project; keep it outside of any repository"
    else:
        try:
            _signer(key)
        except (ValueError, TypeError) as error:
            yield f"{key} is not a private EC key on P-256, P-384 or P-521 in PEM: {error}"
        except ModuleNotFoundError:
            yield _MISSING


def sign(folder: Path, key: Path, signature: Path) -> None:
    """Sign every file of a folder except the signature itself."""
    _signer(key).set_hashing_config(_hashing_config(folder, signature)).sign(folder, signature)


def verify(folder: Path, key: Path, signature: Path) -> None:
    """Verify that a folder has exactly the files that the owner of a public key signed.

    Raises:
        AttestationError: files differ (the message names them), or someone else signed them.
        ParamsError: the packages that verification needs are not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from model_signing import verifying
    except ModuleNotFoundError:
        raise ParamsError(_MISSING) from None

    for path in (folder, key, signature):
        if not path.exists():
            raise AttestationError(f"{path} is missing")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except ValueError:
        raise AttestationError(
            f"{key} is not a public key in PEM format; `openssl ec -pubout` writes one"
        ) from None
    config.set_hashing_config(_hashing_config(folder, signature))
    try:
        config.verify(folder, signature)
    except (InvalidSignature, ValueError, KeyError, AttributeError):
        if names := ", ".join(_differences(folder, signature)):
            raise AttestationError(f"{folder} differs from what was signed: {names}") from None
        raise AttestationError(f"{signature} was not made with the private key of {key}") from None


def verify_release(export: Path, release: Path, key: Path) -> dict[str, Any]:
    """Verify an export and its release like :func:`verify`; return the statement of its lineage."""
    verify(release, key, release / SEAL)
    verify(export, key, release / SIGNED)
    lineage: dict[str, Any] = read_json(release / LINEAGE)
    parameters = lineage["predicate"]["buildDefinition"]["externalParameters"]
    if lineage != statement(export, parameters["version"], parameters["commit"]):
        raise AttestationError(f"{release / LINEAGE} does not match the manifest of {export}")
    return lineage


def statement(export: Path, version: str, commit: str) -> dict[str, Any]:
    """Return the chain of an export as an in-toto statement with SLSA's provenance, version 1.

    It depends only on the folder's content and the arguments. It claims no level of SLSA.
    """
    chain = Lineage().export(export)
    files = read_json(export / MANIFEST)["files"]
    subject = {MANIFEST: chain.digest, **dict(sorted(files.items()))}
    dependencies = {
        (step.what, step.name, step.digest): {
            "name": f"{step.what} {step.name}",
            "digest": {"sha256": step.digest},
            "annotations": step.facts,
        }
        for step in chain.walk()
        if step is not chain and step.digest
    }
    commit_entry = {"name": "git commit", "digest": {"gitCommit": commit}}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": n, "digest": {"sha256": digest}} for n, digest in subject.items()],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:albef:export",
                "externalParameters": {"run": chain.name, "version": version, "commit": commit},
                "resolvedDependencies": [commit_entry, *dependencies.values()],
            },
            "runDetails": {"builder": {"id": "urn:albef:pipeline"}},
        },
    }


def _differences(folder: Path, signature: Path) -> list[str]:
    """Return the files that differ from a signature's list. The signature need not be verified."""
    try:
        payload = base64.b64decode(read_json(signature)["dsseEnvelope"]["payload"])
        resources = json.loads(payload)["predicate"]["resources"]
    except (ValueError, KeyError, TypeError):
        raise AttestationError(f"{signature} is not a signature, or is damaged") from None
    signed = {(each["name"], each["digest"]) for each in resources}
    hashed = _hashing_config(folder, signature).hash(folder).resource_descriptors()
    local = {(each.identifier, each.digest.digest_hex) for each in hashed}
    return sorted({name for name, _ in signed ^ local})


def _signer(key: Path) -> Any:
    from model_signing import signing

    return signing.Config().use_elliptic_key_signer(private_key=key)


def _hashing_config(folder: Path, signature: Path) -> Any:
    """Return the configuration: every file counts, git's too; links are followed, as DVC's are."""
    from model_signing import hashing

    config = hashing.Config().set_allow_symlinks(True)
    ignored = [signature.relative_to(folder)] if signature.is_relative_to(folder) else []
    return config.set_ignored_paths(paths=ignored, ignore_git_paths=False)


def write(export: Path, release: Path, version: str, commit: str, key: Path | None) -> None:
    """Write the lineage of a release, and sign everything if there is a private key.

    ``release`` is the folder with the card and the figures. ``commit`` has the code, values and
    data that made the export.
    """
    write_json(release / LINEAGE, statement(export, version, commit))
    if key is not None:
        sign(export, key, release / SIGNED)
        sign(release, key, release / SEAL)
