"""What a release says of itself is signed, and what is not as it was signed is named."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from albef.io import file_digest
from albef.release.attestation import (
    LINEAGE,
    SEAL,
    SIGNED,
    AttestationError,
    check_key,
    sign,
    verify_release,
    write,
)
from tests.data.toy import flip
from tests.flows.shop import alter

COMMIT = "0123456789012345678901234567890123456789"


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A new private key and its public one, as docs/how-to/release.md makes them."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    make = "openssl ecparam -genkey -name prime256v1 -noout -out"
    subprocess.run([*make.split(), private], check=True)
    command = ["openssl", "ec", "-in", private, "-pubout", "-out", public]
    subprocess.run(command, check=True, capture_output=True)
    return private, public


@pytest.fixture
def released(tiny_export: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """An export, what is told of its release, and the public key; DVC's get follows links."""
    export, release = tmp_path / "export", tmp_path / "release"
    shutil.copytree(tiny_export, export)
    release.mkdir()
    (release / "README.md").write_text("# A card\n")
    private, public = keys(tmp_path, "ours")
    write(export, release, "v0.1.0", COMMIT, private)
    return export, release, public


def test_a_release_is_verified_wherever_it_lies(
    released: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, release, public = released
    moved = export.rename(tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    told = verify_release(moved, release, public)
    subject = {part["name"]: part["digest"]["sha256"] for part in told["subject"]}
    files = [path for path in moved.rglob("*") if path.is_file()]
    assert subject == {path.relative_to(moved).as_posix(): file_digest(path) for path in files}
    commit, checkpoint, *_ = told["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert commit == {"name": "git commit", "digest": {"gitCommit": COMMIT}}
    manifest = json.loads((moved / "manifest.json").read_text())
    assert checkpoint["digest"]["sha256"] == manifest["provenance"]["checkpoint"]


def test_what_was_changed_is_refused_by_name(
    released: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    export, release, public = released
    private, others = keys(tmp_path, "theirs")

    def refused() -> str:
        with pytest.raises(AttestationError) as error:
            verify_release(export, release, public)
        return str(error.value)

    shutil.copytree(tmp_path, tmp_path / "kept")

    def restore() -> None:
        for name in ("export", "release"):
            shutil.rmtree(tmp_path / name)
            shutil.copytree(tmp_path / "kept" / name, tmp_path / name)

    flip(export / "int8/text_encoder/1/model.onnx")
    (export / "weights.data").touch()
    (export / ".gitignore").touch()
    (export / "tokenizer.json").unlink()
    names = ".gitignore, int8/text_encoder/1/model.onnx, tokenizer.json, weights.data"
    assert refused() == f"{export} differs from what was signed: {names}"
    restore()
    alter(export)  # folder and manifest fit each other
    assert "manifest.json" in refused()
    sign(export, private, release / SIGNED)
    assert refused() == f"{release} differs from what was signed: {SIGNED}"
    (release / SEAL).unlink()
    sign(release, private, release / SEAL)
    assert refused() == f"{release / SEAL} was not made with the private key of {public}"
    restore()
    told = json.loads((release / LINEAGE).read_text())
    told["predicate"]["buildDefinition"]["resolvedDependencies"][1]["name"] = "checkpoint other"
    (release / LINEAGE).write_text(json.dumps(told))
    assert refused() == f"{release} differs from what was signed: {LINEAGE}"
    (release / SEAL).unlink()
    sign(release, tmp_path / "ours.pem", release / SEAL)  # by who may sign, of another export
    assert refused() == f"{release / LINEAGE} does not match the manifest of {export}"
    restore()
    with pytest.raises(AttestationError, match="is not a public key in PEM format"):
        verify_release(export, release, private)
    with pytest.raises(AttestationError, match=r"release\.sig was not made with .*theirs\.pub"):
        verify_release(export, release, others)
    (release / SEAL).write_text("{}")
    assert refused() == f"{release / SEAL} is not a signature, or is damaged"
    (release / SEAL).unlink()
    assert refused() == f"{release / SEAL} is missing"


def test_a_key_that_cannot_sign_is_reported(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    project = tmp_path / "project"
    project.mkdir()
    assert list(check_key(private, project)) == []
    assert "none does not exist" in next(check_key(tmp_path / "none", project))
    assert "is not a private EC key" in next(check_key(public, project))
    inside = shutil.copy(private, project)
    assert "is inside the project; keep it outside" in next(check_key(Path(inside), project))
