"""What a release says of itself, and signatures over it: OpenSSF model signing with local keys.

A release is a folder of small files beside the export's: the model card, its figures, the
statement of the lineage, a list of the software. One signature is over every file of the export,
one over every file of the release; both are Sigstore bundles, which ``model_signing verify key``
reads too.
"""

import ast
import json
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from albef.config import ParamsError
from albef.io import read_json
from albef.lineage import Lineage
from albef.runtime.manifest import NAME as MANIFEST

CARD, FIGURES, LINEAGE, SBOM = "README.md", "figures.json", "lineage.json", "sbom.json"
SIGNED, SEAL = "export.sig", "release.sig"
"""Signatures over the export, and over the release with that one in it."""
_DISTRIBUTION = "albef-pipeline"
_NEEDS = "signatures need model-signing: `pip install '.[signing]'`"
_DIFFERS = re.compile(r"Hash mismatch for '(.+?)': Expected|(Extra|Missing) files .*?': (.+)")
"""How model signing names files that are not as they were signed."""


class Unverified(ValueError):
    """Something that is not what was signed; its text is the sentence to show."""

    exit_code = 1


def check_key(key: Path, project: Path) -> Iterator[str]:
    """Why a private key cannot sign, in sentences."""
    if not key.is_file():
        yield f"there is no signing key {key}"
    elif key.resolve().is_relative_to(project.resolve()):
        yield f"the signing key {key} lies in the project; keep it outside of any repository"
    else:
        try:
            _signer(key)
        except (ValueError, TypeError) as error:
            yield f"{key} cannot sign, an EC key on P-256, P-384 or P-521 in PEM can: {error}"
        except ModuleNotFoundError:
            yield _NEEDS


def sign(folder: Path, key: Path, signature: Path) -> None:
    """Sign every file of a folder but the signature itself."""
    _signer(key).set_hashing_config(_hashing_config(folder, signature)).sign(folder, signature)


def verify(folder: Path, key: Path, signature: Path) -> None:
    """See that a folder has exactly the files that the owner of a public key signed.

    Raises:
        Unverified: it names the files that differ, or says that the signature is another's.
        ParamsError: there is nothing to verify it with.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from model_signing import verifying
    except ModuleNotFoundError:
        raise ParamsError(_NEEDS) from None

    for path in (folder, key, signature):
        if not path.exists():
            raise Unverified(f"{path} is missing")
    config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    config.set_hashing_config(_hashing_config(folder, signature))
    try:
        config.verify(folder, signature)
    except (InvalidSignature, ValueError) as error:
        if names := ", ".join(_differences(str(error))):
            raise Unverified(f"{folder} is not as it was signed: {names}") from None
        reason = "is not by the owner of" if "Key mismatch" in f"{error}" else "does not fit"
        raise Unverified(f"the signature {signature} {reason} {key}") from None
    except (KeyError, AttributeError) as error:
        raise Unverified(f"the signature {signature} is damaged: no {error}") from None


def verify_release(export: Path, release: Path, key: Path) -> dict[str, Any]:
    """See that an export and what is told of it are what was released; the lineage's statement.

    Raises:
        Unverified: what differs, by name.
    """
    verify(release, key, release / SEAL)
    verify(export, key, release / SIGNED)
    lineage: dict[str, Any] = read_json(release / LINEAGE)
    parameters = lineage["predicate"]["buildDefinition"]["externalParameters"]
    if lineage != statement(export, parameters["version"], parameters["commit"]):
        raise Unverified(f"{release / LINEAGE} is not what the manifest of {export} tells")
    return lineage


def statement(export: Path, version: str, commit: str) -> dict[str, Any]:
    """Return the chain of an export as an in-toto statement with SLSA's provenance, version 1.

    It depends on the folder's content and the arguments alone; no level of SLSA is claimed.
    Digests in it that are not of a file are those of what they name, as of a dataset.

    Args:
        version: under which it is released.
        commit: of the code, the values and dvc.lock.
    """
    chain = Lineage().export(export)
    subject = {
        MANIFEST: chain.digest,
        **dict(sorted(read_json(export / MANIFEST)["files"].items())),
    }
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


def sbom(run: str, version: str, digest: str) -> dict[str, Any]:
    """The software that serves an export (``required``) and that made it, in CycloneDX 1.6.

    It is read from the distributions that are installed, so what is not needed here is not in it.
    """
    required = _closure("serving", "cpu", "gpu")
    included = _closure("serving", "cpu", "gpu", "pipeline")
    components = []
    for name, package in sorted(included.items()):
        purl = f"pkg:pypi/{name}@{quote(package.version)}"
        scope = "required" if name in required else "excluded"
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl,
            "purl": purl,
            "scope": scope,
            "name": name,
            "version": package.version,
        }
        if "License-Expression" in package.metadata:
            component["licenses"] = [{"expression": package.metadata["License-Expression"]}]
        components.append(component)
    model = {
        "type": "machine-learning-model",
        "bom-ref": run,
        "name": run,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": model},
        "components": components,
    }


def _closure(*extras: str) -> dict[str, metadata.Distribution]:
    """What is installed of all that the project with these extras requires, itself included."""
    packages: dict[str, metadata.Distribution] = {}
    visited, pending = set(), [(_DISTRIBUTION, frozenset(extras))]
    while pending:
        name, enabled = pending.pop()
        name = canonicalize_name(name)
        if (name, enabled) in visited:
            continue
        visited.add((name, enabled))
        try:
            packages[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # of another platform, or an extra that is not used
            continue
        for requirement in map(Requirement, packages[name].requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *enabled)):
                pending.append((requirement.name, frozenset(requirement.extras)))
    return packages


def _differences(error: str) -> Iterator[str]:
    """How files differ, by what model signing says: a list of messages, as Python writes it."""
    _, _, messages = error.partition("Signature mismatch: ")
    for message in ast.literal_eval(messages or "[]"):
        if match := _DIFFERS.match(message):
            changed, status, others = match.groups()
            yield f"{changed} (changed)" if changed else f"{others} ({status.lower()})"


def _signer(key: Path) -> Any:
    from model_signing import signing

    return signing.Config().use_elliptic_key_signer(private_key=key)


def _hashing_config(folder: Path, signature: Path) -> Any:
    """Every file counts, git's too; links, as DVC makes them, for what they lead to."""
    from model_signing import hashing

    config = hashing.Config().set_allow_symlinks(True)
    ignored = [signature.relative_to(folder)] if signature.is_relative_to(folder) else []
    return config.set_ignored_paths(paths=ignored, ignore_git_paths=False)


def write(export: Path, release: Path, version: str, commit: str, key: Path | None) -> None:
    """Write what a release tells beside its card and figures, and sign all of it if there is a key.

    Args:
        export: the folder that is released.
        release: the folder with the card and the figures.
        commit: whose code, values and data made the export.
    """
    lineage = statement(export, version, commit)
    subject = lineage["subject"][0]
    run = lineage["predicate"]["buildDefinition"]["externalParameters"]["run"]
    bill = sbom(run, version, subject["digest"]["sha256"])
    for name, value in ((LINEAGE, lineage), (SBOM, bill)):
        (release / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    if key is not None:
        sign(export, key, release / SIGNED)
        sign(release, key, release / SEAL)
