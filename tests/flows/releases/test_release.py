"""`albef release`: what is compared, refused and registered, and how others get it."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import albef
from albef.config import ParamsError
from albef.io import file_digest
from albef.layout import Layout, Paths
from albef.release.gate import ReleaseConfig
from albef.runtime.manifest import NAME
from flows import git
from flows.releases import release
from flows.releases.registry import Registry, annotate, check_names
from pipelines import judge
from tests.conftest import Bucket, free_port
from tests.flows.shop import JUDGED, another, build, set_params
from tests.flows.toy import ROOT, Toy
from tests.release.test_attestation import keys

EXPORT = Path("products/exports/retrieval")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process, which has torch."""

    def measure(command: list[str]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", command[-3:])  # module, facts, result
            judge.main()
        return mock.Mock(returncode=0)

    monkeypatch.setattr(release, "subprocess", mock.Mock(run=measure))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def lacking() -> list[str]:
    return list(Registry("retrieval").lacking(Path("products/exports/retrieval"), "HEAD"))


class Loosened(ReleaseConfig):
    """The limits with another default."""

    max_batch_effect: float = 1.0


@pytest.mark.usefixtures("here")
def test_release_refuse_and_go_back(
    project: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = content(project.path / "products/exports/retrieval")
    private, _ = keys(tmp_path, "ours")
    project.env |= {"ALBEF_SIGNING_KEY": str(shutil.copy(private, "inside.pem"))}
    said = project.albef("release retrieval --approve", fails=True)
    assert "- signing key inside.pem is inside the project; keep it" in said
    Path("inside.pem").unlink()
    project.env |= {"ALBEF_SIGNING_KEY": str(private)}
    said = project.albef("release retrieval --approve")
    assert "released: retrieval@v0.1.0, retrieval#prod#1, pushed to origin" in said
    assert project.sh("git status --porcelain") == ""
    assert project.sh("git log -1 --format=%s") == "Release retrieval v0.1.0\n"
    changed = project.sh("git show --format= --name-only").split()
    names = ["README.md", "export.sig", "figures.json", "lineage.json", "release.sig"]
    assert changed == ["dvc.yaml", *(f"releases/retrieval/v0.1.0/{name}" for name in names)]
    assert "# A comment that stays." in Path("dvc.yaml").read_text()
    assert "| git revision | `" in Path(changed[1]).read_text()
    assert project.sh("git ls-remote --tags origin").count("retrieval") >= 2
    assert "nothing to release" in project.albef("release retrieval", fails=True)

    # Another clone gets exactly that folder, from the remotes alone, and it works.
    there = Toy(tmp_path / "there", tmp_path)
    there.path.mkdir()
    there.sh("dvc artifacts get ../project.git retrieval --stage prod -o got")
    assert content(there.path / "got") == first
    told = project.albef("verify ../there/got releases/retrieval/v0.1.0 --key ../ours.pub")
    digest = file_digest(there.path / "got/manifest.json")
    assert told.startswith(f"retrieval v0.1.0, sha256:{digest}, is signed with the private key of")
    assert f"albef serve FOLDER --expect sha256:{digest}" in said
    assert albef.runtime.load(there.path / "got").embed_text(["a dog"]).shape == (1, 8)

    # What is not where others find it is told at once, and a worse one once it is measured.
    another(project, worse=True)
    with open("dvc.yaml", "a") as file:
        file.write("# edited\n")
    before = project.sh("git rev-parse HEAD && git tag")
    limits = Path("params.yaml").read_text()
    set_params(project.path, max_drop=2.0)
    project.checked()
    said = project.albef("release retrieval --approve", fails=True)
    assert "- the limits differ from those of v0.1.0: release.max_drop 1 -> 2; `--accept-" in said
    Path("params.yaml").write_text(limits)
    project.checked()
    with monkeypatch.context() as patch:  # a default, in the code of the commit that is judged
        patch.setattr(release, "ReleaseConfig", Loosened)
        changed = list(release.changed_limits(Registry("retrieval"), "v0.1.0"))
    assert changed == ["release.max_batch_effect 0.001 -> 1"]
    said = project.albef("release retrieval --approve", fails=True)
    assert "retrieval is not released:\n- uncommitted changes: dvc.yaml; " in said
    assert "- unpushed git commits: 1; " in said
    assert "- products/exports/retrieval is not in the DVC remote store (" in said
    assert "files are missing); `dvc push`" in said
    assert "measured" not in said
    project.sh("git checkout -q dvc.yaml && dvc push -q && git push -q")
    said = project.albef("release retrieval --approve", fails=True)
    assert "retrieval is not released:\n- float32 loses " in said
    assert "This and v0.1.0 were measured in one process" in said
    assert project.sh("git rev-parse HEAD && git tag") == before

    # One that is registered with GTO's own command counts as well; then the way back.
    project.sh("gto register retrieval HEAD --version v0.2.0 && sleep 1")
    project.sh("gto assign retrieval --version v0.2.0 --stage prod")
    assert Registry("retrieval").holder("prod") == "v0.2.0"
    said = project.albef("release retrieval --back")
    assert said == "retrieval: prod goes from v0.2.0 back to v0.1.0; run again with --approve\n"
    assert Registry("retrieval").holder("prod") == "v0.2.0"
    project.albef("release retrieval --back --approve")
    assert Registry("retrieval").holder("prod") == "v0.1.0"
    pushed = project.sh("git ls-remote --tags origin")
    assert all(tag in pushed for tag in project.sh("git tag").split()), "GTO's own too"
    there.sh("dvc artifacts get ../project.git retrieval --stage prod -o again")
    assert content(there.path / "again") == first
    said = project.albef("release retrieval --back --approve", fails=True)
    assert "no version held prod before retrieval v0.1.0" in said


@pytest.mark.slow
def test_two_clones_and_a_stranger_share_a_bucket(
    bucket: Bucket, tmp_path: Path, tiny_checkpoint: Path, tiny_export: Path
) -> None:
    """Released and verified, with the commands of the page."""
    page = (ROOT / "docs/how-to/release.md").read_text()

    def documented(command: str) -> str:
        assert command in page, command
        return command

    project = build(tmp_path / "project", tmp_path, bucket.url, tiny_checkpoint, tiny_export)
    project.sh("git add -f made && git commit -qm made && git push -q")  # what a stage reads
    project.env["HOME"] = str(tmp_path)
    for make in (
        "openssl ecparam -genkey -name prime256v1 -noout -out ~/albef.pem && chmod 600 ~/albef.pem",
        "openssl ec -in ~/albef.pem -pubout -out albef.pub",
    ):
        project.sh(documented(make))
    project.sh("mv albef.pub ..")
    first = file_digest(project.path / EXPORT / NAME)
    said = project.sh("albef release retrieval --dry --approve")
    assert "## Limits" in said  # the card
    assert said.endswith("pushed to origin; run again with --approve\n")
    assert project.sh("git tag") == ""
    approve = documented("ALBEF_SIGNING_KEY=~/albef.pem albef release retrieval --approve")
    project.sh(f"{approve} --stage staging")
    said = project.sh(approve)  # the same export: the same version
    assert "released: retrieval#prod#2, pushed" in said

    def clone(name: str) -> Toy:
        project.sh(f"git clone -q ../project.git ../{name}")
        toy = Toy(tmp_path / name, tmp_path)
        toy.env["HOME"] = str(tmp_path)
        toy.checked()
        return toy

    another(project)
    second = content(project.path / EXPORT)
    project.sh("dvc push -q && git push -q")
    other = clone("other")
    said = other.sh("albef release retrieval --approve", fails=True)
    assert "- export@retrieval is stale: products/exports/retrieval is not in the" in said
    assert "`dvc pull`" in said
    other.sh("dvc pull -q")
    said = other.sh(approve)
    assert re.search(r"precision +v0\.1\.0 +v0\.2\.0 +change", said)
    assert "released: retrieval@v0.2.0, retrieval#prod#3, pushed to origin" in said
    project.sh(documented("albef release retrieval --back --approve"))

    stranger = clone("stranger")
    stranger.sh("cp ../albef.pub .")
    for command in (
        "dvc artifacts get . retrieval --rev v0.2.0 -o got",
        "albef verify got releases/retrieval/v0.2.0 --key albef.pub",
        "model_signing verify key got --signature releases/retrieval/v0.2.0/export.sig "
        "--public_key albef.pub",
        "git checkout --quiet retrieval@v0.2.0",
        "dvc pull --with-deps finetune@retrieval",
        "dvc repro --single-item --force --no-run-cache finetune@retrieval",
        "git diff --exit-code dvc.lock",
    ):
        stranger.sh(documented(command))
    assert content(stranger.path / "got") == second
    there = Toy(tmp_path / "there", tmp_path)
    there.path.mkdir()
    get = documented("dvc artifacts get ADDRESS retrieval --stage prod")
    there.sh(get.replace("ADDRESS", "../project.git"))
    assert file_digest(there.path / "retrieval" / NAME) == first
    load = "python -c \"import albef.runtime; print(albef.runtime.load('retrieval').facts)\""
    assert "kind='retrieval'" in there.sh(documented(load))


def test_what_is_not_committed_or_not_pushed_is_reported(project: Toy) -> None:
    needed = [Path("params.yaml"), Path("dvc.lock")]
    assert [*git.uncommitted(needed), *git.unpushed(), *lacking()] == []
    with open("dvc.yaml", "a") as file:
        file.write("# edited\n")
    Path("new.json").touch()
    assert list(git.uncommitted([*needed, Path("new.json")])) == [
        "uncommitted changes: dvc.yaml; commit or undo them",
        "files that git does not track: new.json; add and commit them",
    ]
    project.sh("sed -i /made/d .gitignore")
    (_, untracked) = git.uncommitted(needed)
    assert untracked.startswith("files that git does not track: made/")
    project.sh("git checkout -q .gitignore")
    ahead = "unpushed git commits: 1; run `git push`"
    behind = "unpulled git commits: 1; run `git pull`"
    nowhere = "the branch has no upstream; run `git push --set-upstream origin HEAD`"
    theirs = "git clone -q ../project.git ../other && cd ../other && git commit -q --allow-empty"
    for command, reasons in (
        ("git commit -qam edited", [ahead]),
        (f"{theirs} -m theirs && git push -q", [ahead, behind]),
        ("git checkout -q --detach", [nowhere]),
        ("git remote remove origin", []),
    ):
        project.sh(command)
        git.fetch()
        assert list(git.unpushed()) == reasons
    project.sh("git checkout -q --orphan new")
    (none,) = git.uncommitted(needed)
    assert none == "the repository has no commit; run `git add -A && git commit`"


def test_without_a_dvc_remote_there_is_nowhere_to_get_an_export_from(project: Toy) -> None:
    project.sh("dvc remote remove store && git commit -qam none")
    (said,) = lacking()
    assert "DVC has no default remote" in said


def test_what_is_stale_is_reported_and_what_is_elsewhere_is_not(project: Toy) -> None:
    assert list(release.stale_reasons("retrieval")) == []
    shutil.rmtree("made/data")  # of a stage above
    assert list(release.stale_reasons("retrieval")) == []
    with open("made/models/retrieval/config.json", "a") as file:
        file.write("\n")
    shutil.rmtree("products/exports")
    said = project.albef("release retrieval", fails=True)
    assert "- finetune@retrieval is stale: made/models/retrieval changed" in said
    assert "- export@retrieval is stale: products/exports/retrieval is missing" in said
    assert "`albef run` updates" in said
    assert "Traceback" not in said


def approve() -> None:
    release.main("retrieval", "prod", approve=True)


def state(project: Toy) -> str:
    return project.sh("git rev-parse HEAD; git status --porcelain; git tag; git ls-remote")


@pytest.mark.usefixtures("judged")
def test_what_fails_leaves_nothing(project: Toy) -> None:
    before = state(project)
    for fails, name in (
        ("push", "../project.git/hooks/pre-receive"),
        ("commit", ".git/hooks/pre-commit"),
    ):
        hook = Path(name)
        hook.write_text("#!/bin/sh\necho protected >&2\nexit 1\n")
        hook.chmod(0o755)
        with pytest.raises(ParamsError, match=rf"`git {fails} .* failed: .*protected"):
            approve()
        assert state(project) == before


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize("pushed", ["HEAD", "retrieval@v0.1.0"])
def test_the_slower_of_two_releases_is_refused_and_pulls(
    project: Toy, monkeypatch: pytest.MonkeyPatch, pushed: str
) -> None:
    project.sh("git clone -q ../project.git ../other")

    def judge(*args: object) -> dict[str, Any]:
        project.sh(
            "cd ../other && git commit -q --allow-empty -m theirs && "
            f"git tag -am theirs retrieval@v0.1.0 && git push -q origin {pushed}"
        )
        return JUDGED

    monkeypatch.setattr(release, "_judge", judge)
    before = project.sh("git rev-parse HEAD; git status --porcelain; git tag")
    with pytest.raises(git.OvertakenError, match="origin has newer commits or releases; `git pull"):
        approve()
    assert project.sh("git rev-parse HEAD; git status --porcelain; git tag") == before


@pytest.mark.usefixtures("judged")
def test_releases_that_an_older_experiment_lacks_are_restored_and_the_report_may_be_new(
    project: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Path("products/runs/report.json")
    record.parent.mkdir()
    record.write_text("{}")
    project.sh("git add -A && git commit -qm report && git push -q && dvc exp save -q -n old")
    record.write_text('{"seconds": 1}')
    approve()
    card = Path("releases/retrieval/v0.1.0/README.md")
    assert card.is_file()
    project.sh("git checkout -q . && dvc exp apply -q old")
    assert not card.exists()
    another(project)
    project.sh("git push -q")
    capsys.readouterr()
    approve()
    assert "HEAD lacks releases/retrieval/v0.1.0" in capsys.readouterr().out
    released = project.sh("git ls-tree -r --name-only HEAD releases").splitlines()
    names = ["README.md", "figures.json", "lineage.json"]
    versions = ("v0.1.0", "v0.2.0")
    assert released == [f"releases/retrieval/{v}/{name}" for v in versions for name in names]


def test_dvc_yaml_names_the_export_and_nothing_else_changes(project: Toy) -> None:
    before = Path("dvc.yaml").read_text()
    for run in ("retrieval", "vqa", "vqa"):
        annotate(run, Path("products"), Path("products/exports", run))
    assert Path("dvc.yaml").read_text() == before + (
        "\nartifacts:\n"
        "  vqa:\n    path: ${paths.root}/exports/vqa\n    type: model\n"
        "  retrieval:\n    path: ${paths.root}/exports/retrieval\n    type: model\n"
    )
    with pytest.raises(ParamsError, match=r"artifacts\.vqa\.path is products/exports/vqa, but the"):
        annotate("vqa", Path("products"), Path("products/elsewhere/vqa"))
    odd = before + "artifacts: {other: {path: a}}\n"
    Path("dvc.yaml").write_text(odd)
    with pytest.raises(ParamsError, match="add vqa with path"):
        annotate("vqa", Path("products"), Path("products/exports/vqa"))
    assert Path("dvc.yaml").read_text() == odd


def test_versions_count_up_and_the_one_before_is_found(project: Toy) -> None:
    registry = Registry("retrieval")
    assert (registry.versions, registry.last, registry.holder("prod")) == ({}, None, None)
    bumped = [registry.next(bump) for bump in ("patch", "minor", "major")]
    assert bumped == ["v0.0.1", "v0.1.0", "v1.0.0"]
    export = registry.hash_at(None)
    assert export == registry.hash_at("HEAD") is not None
    versions = ["v0.1.0", "v0.2.0", "v0.10.0"]
    for version in versions:
        project.sh(f"git commit -q --allow-empty -m {version}")
        registry.register(version)
    for version in versions:
        Registry("retrieval").assign(version, "prod")

    def state(stage: str = "prod") -> tuple[list[str], str | None, str | None]:
        registry = Registry("retrieval")
        holder = registry.holder(stage)
        return list(registry.versions), holder, holder and registry.before(stage, holder)

    assert state() == (versions, "v0.10.0", "v0.2.0")
    registry = Registry("retrieval")
    assert registry.next("minor") == "v0.11.0"
    assert (registry.same(export), registry.same("another.dir")) == ("v0.10.0", None)
    registry.assign("v0.2.0", "prod")
    assert state() == (versions, "v0.2.0", "v0.1.0")
    assert state("staging") == (versions, None, None)
    ahead = "GIT_COMMITTER_DATE=2090-01-01T00:00:00Z git tag -a -m ahead 'retrieval#prod#9' HEAD"
    project.sh(ahead)
    with pytest.raises(ParamsError, match=r"ahead of this machine's clock.*; set the clock"):
        Registry("retrieval").assign("v0.2.0", "prod")
    project.sh("git tag -d 'retrieval#prod#9'")
    project.sh("sleep 1 && gto assign retrieval --version v0.1.0 --stage prod --force --push")
    assert state()[1] == "v0.1.0", "as docs/how-to/release.md goes back"
    project.sh("gto deprecate retrieval v0.10.0")
    assert state()[0] == versions[:2]
    assert Registry("retrieval").next("patch") == "v0.10.1", "a number is not given twice"


def test_what_cannot_be_done_is_a_sentence(project: Toy) -> None:
    said = project.albef("release retreival", fails=True)
    assert "export.runs has no retreival; did you mean retrieval?" in said
    with pytest.raises(ParamsError, match="no version of retrieval holds prod; see `gto show`"):
        release.go_back("retrieval", "prod", approve=False)
    check_names("as_it_is", "prod")
    with pytest.raises(ParamsError, match="coco_ is not a valid name"):
        check_names("coco_", "prod")


def test_a_registry_that_cannot_be_reached_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    layout = Layout(Paths(root="products", models="models"))
    for trackers, warned in (("[tensorboard]", False), ("[mlflow]", True)):
        Path("params.yaml").write_text(f"runtime: {{trackers: {trackers}}}\n")
        release.register_in_mlflow(layout, "retrieval", "v0.1.0", "prod", {"gate": "passed"})
        assert ("warning: not registered in MLflow: " in capsys.readouterr().err) is warned
