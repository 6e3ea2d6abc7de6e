"""`albef verify --replay`: a stranger's clone runs a stage of a release again."""

from pathlib import Path

import pytest

from albef.release.attestation import write
from flows import git
from tests.flows.shop import build
from tests.flows.toy import Toy
from tests.release.test_attestation import keys

BRING = """
import json, os
for target in map(Path, sys.argv[1:]):
    if target.suffix == ".json" and "exports" not in target.parts:
        told = json.loads(target.read_text())
        told.setdefault("test", {})["r_mean"] = 40.0 + float(os.environ.get("DRIFT", 0))
        target.write_text(json.dumps(told))
        record = Path("products/runs/evaluate@retrieval.json")
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps({"machine": os.environ.get("MACHINE", "ours")}))
"""


@pytest.mark.slow
def test_a_stranger_makes_it_again_and_sees_what_is_not_the_same(
    tmp_path: Path, tiny_checkpoint: Path, tiny_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    project = build(tmp_path / "project", tmp_path, store, tiny_checkpoint, tiny_export)
    with open(project.path / "bring.py", "a") as file:
        file.write(BRING)
    project.sh("dvc repro -q -f evaluate@retrieval && git add -f made && git add -A")
    project.sh("git commit -qm whole")
    private, _ = keys(tmp_path, "ours")
    monkeypatch.chdir(project.path)
    release = Path("releases/retrieval/v0.1.0")
    release.mkdir(parents=True)
    commit = git.git("rev-parse", "HEAD")
    write(Path("products/exports/retrieval"), release, "v0.1.0", commit, private)
    project.sh("git add -A && git commit -qm release && dvc push -q && git push -q")

    project.sh("git clone -q ../project.git ../stranger")
    stranger = Toy(tmp_path / "stranger", tmp_path)
    stranger.sh("dvc pull -q export@retrieval && cp -rL products/exports/retrieval ../got")
    command = f"verify ../got {release} --key ../ours.pub"
    told = stranger.albef(f"{command} --replay any --seed 1")
    assert "gives the same bytes: products/" in told
    again = stranger.albef(f"{command} --replay any --seed 1")
    assert again == told
    command += " --replay evaluate@retrieval"
    told = stranger.albef(command)
    assert told.endswith(
        "evaluate@retrieval gives the same bytes: products/metrics/retrieval.json\n"
    )
    stranger.env["DRIFT"] = "0.5"
    told = stranger.albef(command, fails=True)
    assert "evaluate@retrieval gives other bytes with the same machine and lib" in told
    stranger.env["MACHINE"] = "theirs"
    told = stranger.albef(command)
    assert "with another machine or other libraries, and the same 11 figures" in told
    told = stranger.albef(f"{command} --tolerance 0.01", fails=True)
    assert "evaluate@retrieval: products/metrics/retrieval.json: test.r_mean is 40.5, was" in told
    told = stranger.albef(f"{command[:-9]}vqa", fails=True)
    assert (
        "retrieval has no stage evaluate@vqa, but ingest, finetune@retrieval, evaluate@ret" in told
    )
