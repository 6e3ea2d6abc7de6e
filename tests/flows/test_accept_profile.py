"""`albef data accept`: a profile becomes a suite, and later versions are held to it."""

import difflib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from albef.config import ParamsError, read_yaml
from albef.data.shards import ShardError
from albef.validation.result import NotFit
from flows.accept_profile import accept
from flows.values import override
from pipelines import validate
from pipelines.stage import Stage
from tests.data import toy
from tests.validation.test_suites import picture

ROOT = Path(__file__).parents[2]
TEXT = "one dog left of some apples"


def write(caption: str) -> None:
    """Another version of the data set ``scenes``."""
    records = [
        toy.record(i, image=picture(i), captions=(caption,), split="train" if i < 15 else "test")
        for i in range(20)
    ]
    folder = Path("products/data/scenes")
    for old in folder.rglob("*.*"):
        old.unlink()
    toy.write(folder, records)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALBEF_RUNTIME__SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the commands
    shutil.copyfile(ROOT / "presets/built-in.yaml", tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").touch()
    write(TEXT)
    return tmp_path


def validated() -> None:
    validate.run(Stage("validate", "scenes"))


def test_a_later_version_is_held_to_what_was_accepted_and_can_be_accepted_in_turn(
    here: Path,
) -> None:
    validated()
    before = (here / "params.yaml").read_text()
    assert accept("scenes") == (Path("profiles/scenes.json"), 42)
    after = (here / "params.yaml").read_text()
    changed = [
        line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"
    ]
    assert changed == ["+   accepted: {scenes: profiles/scenes.json}"]
    assert read_yaml(here / "params.yaml")["validate"]["accepted"]["scenes"] == (
        "profiles/scenes.json"
    )
    validated()
    page = (here / "products/validation/scenes/report.html").read_text()
    assert "Drift: from the accepted profile" in page
    write("something else is said here and goes on")
    with pytest.raises(NotFit) as caught:
        validated()
    assert "vocabulary: divergence of " in str(caught.value)
    assert "(validate.drift.accepted.divergence.stop)" in str(caught.value)
    assert not (here / "products/verdicts/scenes.json").exists()
    page = (here / "products/validation/scenes/report.html").read_text()
    assert "distributions moved too far; nothing is trained on it" in page
    assert '<p class="verdict told fail">vocabulary: divergence of ' in page
    assert accept("scenes") == (Path("profiles/scenes.json"), 42)
    validated()
    assert (here / "products/verdicts/scenes.json").exists()


def test_a_small_change_is_logged_as_a_warning_and_trained_on(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    validated()
    accept("scenes")
    loose = "{divergence: {warn: 0.1}, shift: {warn: 0.25}}"
    override(Path("params.yaml"), [f"validate.drift.accepted={loose}"])
    write(TEXT + " here")
    with caplog.at_level("WARNING", "albef"):
        validated()
    assert any("(validate.drift.accepted.divergence.warn)" in line for line in caplog.messages)
    assert (here / "products/verdicts/scenes.json").exists()
    assert (
        '<p class="verdict told warn">'
        in (here / "products/validation/scenes/report.html").read_text()
    )


def test_pictures_are_decoded_once_for_all_thresholds(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated()
    result = (here / "products/validation/scenes/result.json").read_bytes()

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("pipelines.seen.seen", never)
    validated()
    assert (here / "products/validation/scenes/result.json").read_bytes() == result
    write(TEXT + " here")
    with pytest.raises(AssertionError, match="decoded again"):
        validated()


def test_what_cannot_be_accepted_is_said(here: Path) -> None:
    with pytest.raises(ParamsError, match="has no data set scene; did you mean scenes"):
        accept("scene")
    with pytest.raises(ShardError, match="run the stage ingest@web"):
        accept("web")
    with pytest.raises(ParamsError, match=r"profile.json is missing: run `albef run --only"):
        accept("scenes")
    validated()
    with pytest.raises(ParamsError, match="is not in profiles, which validation depends on"):
        accept("scenes", Path("scenes.json"))
    Path("profiles").mkdir()
    Path("profiles/scenes.json").write_text("{}")
    with pytest.raises(ParamsError, match=r"is there already, and params.yaml does not name it"):
        accept("scenes")
    assert accept("scenes", Path("profiles/built-in/scenes.json"))[1] == 42
    write("of another version")
    with pytest.raises(ParamsError, match="is the profile of an earlier version of scenes"):
        accept("scenes")


def test_the_commands_say_what_is_wrong_in_a_sentence(here: Path) -> None:
    for command in (["accept", "nope"], ["docs", "nope", "site"]):
        done = subprocess.run(
            [sys.executable, "-m", "albef.cli", "data", *command], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "nope" in done.stderr


def test_data_docs_are_written_for_every_suite(here: Path) -> None:
    command = [sys.executable, "-m", "albef.cli", "data", "docs", "scenes", "site"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "site/index.html")
    assert done.stderr == ""
    pages = Path("site/validations").rglob("*.html")
    assert {path.stem.removeprefix("scenes-") for path in pages} == {
        "image_text.records", "image_text.captions", "captions.captions"
    }  # fmt: skip
    assert "Great Expectations" in Path("site/index.html").read_text()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "site is there already" in again.stderr
