"""Presets and overrides: what becomes of params.yaml, and what is refused before it is touched."""

import shutil
import subprocess
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.config import ParamsError, read_preset, read_yaml
from flows import values
from pipelines.own_data import to_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml, committed, and a preset; no stage is needed."""
    (tmp_path / "presets").mkdir()
    for name in ("built-in", "all-tasks", "smoke"):  # all are composed where values are in none
        shutil.copyfile(ROOT / f"presets/{name}.yaml", tmp_path / f"presets/{name}.yaml")
    shutil.copyfile(ROOT / "presets/built-in.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(values, "check", lambda path: None)  # tests/pipelines/test_params.py
    for command in ("init", "add params.yaml", "-c user.name=x -c user.email=x commit -m x"):
        subprocess.run(["git", *command.split()], check=True, capture_output=True)
    return tmp_path


def test_an_override_changes_its_line_and_no_other(project: Path) -> None:
    before = (project / "params.yaml").read_text().splitlines()
    start = "{low: 1e-5, high: 1e-3, log: true, start: 1e-4}"
    values.prepare(None, ["tasks.retrieval.lr=3e-5", "pretrain.epochs=5", f"pretrain.lr={start}"])
    after = (project / "params.yaml").read_text().splitlines()
    changed = [new.strip() for old, new in zip(before, after, strict=True) if old != new]
    assert sorted(changed) == [
        "epochs: 5", "lr: 3e-05", "lr: {low: 1e-05, high: 0.001, log: true, start: 0.0001}"
    ]  # fmt: skip


def test_a_value_that_has_its_default_is_added(project: Path) -> None:
    values.prepare(None, ["pretrain.precision=bfloat16", "validate.accepted.web=profiles/web.json"])
    now = read_yaml(project / "params.yaml")
    assert now["pretrain"]["precision"] == "bfloat16"
    assert now["validate"]["accepted"] == {"web": "profiles/web.json"}
    now["pretrain"].pop("precision"), now["validate"].pop("accepted")
    assert now == read_yaml(ROOT / "presets/built-in.yaml")


def test_a_wrong_override_is_one_sentence_and_writes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise ParamsError("no")

    before = (project / "params.yaml").read_bytes()
    for override, says in (
        ("tasks.retreival.lr=1", "there is no tasks.retreival; did you mean retrieval?"),
        ("seed.x=1", "seed is a value, not a section"),
        ("seed", "must be KEY=VALUE"),
        ("tasks.retrieval.lr=[", "lr=[: value is not valid YAML ("),
    ):
        with pytest.raises(ParamsError) as caught:
            values.prepare(None, ["pretrain.epochs=9", override])
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(values, "check", refuse)
    with pytest.raises(ParamsError, match="no"):
        values.prepare(None, ["seed=2"])
    assert (project / "params.yaml").read_bytes() == before
    assert not (project / values.CHANGED).exists()


def test_a_missing_package_is_reported_before_the_stages_that_a_training_waits_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ModuleSpec("mlflow", None)  # as a folder ./mlflow looks to Python
    for value, found, says in (
        ("tasks.vqa.lora={}", None, r"lora needs the package peft.* `pip install '\.\[lora\]'`"),
        ("runtime.trackers=[mlflow]", folder, r"mlflow needs.* `pip install '\.\[mlflow\]'`"),
    ):
        monkeypatch.setattr(values, "find_spec", lambda name, found=found: found)
        values.prepare(None, [value])
        values.check_packages(["ingest@web", "report"])
        with pytest.raises(ParamsError, match=says):
            values.check_packages(["ingest@web", "pretrain"])


def test_a_preset_replaces_what_git_or_a_preset_holds_and_nothing_else(project: Path) -> None:
    (project / "params.yaml").write_text("")
    with pytest.raises(ParamsError, match=r"^params\.yaml must be a mapping"):
        values.prepare(None, ["seed=2"])
    values.prepare("smoke", [])
    assert read_yaml(project / "params.yaml") == read_preset(project / "presets/smoke.yaml")
    edited = (project / "presets/smoke.yaml").read_text() + "seed: 4\n"
    (project / "presets/smoke.yaml").write_text(edited)
    values.prepare("smoke", [])
    assert read_yaml(project / "params.yaml")["seed"] == 4
    values.prepare("built-in", [])
    values.prepare("smoke", ["seed=5"])
    with pytest.raises(ParamsError, match="would overwrite changes in"):
        values.prepare("smoke", [])
    assert read_yaml(project / "params.yaml")["seed"] == 5
    with pytest.raises(ParamsError, match="there is no preset smok; did you mean smoke"):
        values.prepare("smok", [])


@pytest.mark.parametrize(
    ("code", "says"), [("os._exit(3)", "failed"), ("os.kill(os.getpid(), 9)", "was killed")]
)
def test_a_check_that_dies_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/__init__.py").touch()
    (tmp_path / "pipelines/params.py").write_text(f"import os; {code}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ChildProcessError, match=rf"the check of params\.yaml {says}"):
        values.check_files([Path("x")], "x", "params.yaml")


def test_the_text_of_a_preset_holds_its_values_and_says_what_it_is(tmp_path: Path) -> None:
    for preset in (ROOT / "presets").glob("*.yaml"):
        text = values.compose(preset)
        (tmp_path / "params.yaml").write_text(text)
        assert read_yaml(tmp_path / "params.yaml") == read_preset(preset), preset
        assert text.splitlines()[0] == preset.read_text().splitlines()[0]


def test_a_wrong_preset_is_refused(project: Path) -> None:
    for text, says in (
        ("a: [", r"presets/mine\.yaml is not valid YAML"),
        ("base: mine", "base mine is itself based on"),
        ("base: smok", r"base: there is no preset smok; did you mean smoke\?"),
        ("base: built-in\ndrop: [tasks.vqaa]", r"no tasks.vqaa; did you mean tasks.vqa\?"),
    ):
        (project / "presets/mine.yaml").write_text(text)
        with pytest.raises(ParamsError, match=says):
            values.prepare("mine", [])


def test_a_wrong_override_of_runtime_is_refused_and_names_the_variable(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(project)
    monkeypatch.setattr(values, "is_checked", lambda path: True)
    for name, value, says in (
        ("THREADS", "x", "ALBEF_RUNTIME__NAME: runtime.threads: "),
        ("THREDS", "1", "ALBEF_RUNTIME__NAME: runtime.threds .* did you mean runtime.threads"),
    ):
        monkeypatch.setenv(f"ALBEF_RUNTIME__{name}", value)
        with pytest.raises(ParamsError, match=says):
            values.check(project / "params.yaml")
        monkeypatch.delenv(f"ALBEF_RUNTIME__{name}")


@given(
    texts=st.lists(
        st.text(st.sampled_from([*"a1é:#,[]{}&*!|>'\"%@`-?~= \\\n\t"]), max_size=12)
        | st.sampled_from(["https://a.test/x?y=1#z", "yes", "null", "1e3", "0x1", "12:30", "<<"]),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=40)
def test_any_text_of_a_preset_can_be_read_back(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("presets")
    (folder / "base.yaml").write_text("seed: 1\ndatasets: {}\n")
    sources = {"a": {"files": texts, "url": texts[0], "more": [{"what": it} for it in texts]}}
    preset = folder / "own.yaml"
    preset.write_text(to_yaml({"base": "base", "datasets": {"own": {"sources": sources}}}))
    assert read_yaml(preset)["datasets"]["own"]["sources"] == sources
    (folder / "params.yaml").write_text(values.compose(preset))
    assert read_yaml(folder / "params.yaml") == read_preset(preset)
    assert read_preset(preset)["datasets"] == {"own": {"sources": sources}}
