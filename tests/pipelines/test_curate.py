"""The stage that makes a view of a data set, by a checkpoint with hardly any training."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from albef.data.shards import Shards, describe, index_digest
from albef.lineage import Project, lineage
from albef.models.weights import load_checkpoint
from pipelines import curate, pretrain
from pipelines.report import data_page
from pipelines.stage import Stage
from tests.pipelines.test_ingest import contents
from tests.pipelines.test_training import start, values, work

BASE, VIEW = Path("products/data/web"), Path("products/data/clean")
BESIDE, VERDICT = Path("products/quarantine/clean"), Path("products/verdicts/clean.json")
CURATE = {"dataset": "web", "by": "earlier/pretrained", "score": "itm", "keep": 0.6}


def again(**changed: Any) -> Stage:
    """Make the view in the working folder, of values of its own."""
    view = {name: value for name, value in {**CURATE, **changed}.items() if value is not None}
    work(Path(), values(curate={"clean": view}, pretrain__dataset="clean"))
    stage = Stage("curate", "clean")
    curate.run(stage)
    return stage


@pytest.fixture(scope="module")
def curated(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the view, to be copied: the checkpoint that scored it is of another root."""
    folder = tmp_path_factory.mktemp("curated")
    shutil.copytree(pretrained, folder, dirs_exist_ok=True)
    (folder / "earlier").mkdir()
    (folder / "products/models/pretrained").rename(folder / "earlier/pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        again()
    return folder


@pytest.fixture
def here(curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(curated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_filtered_dataset_has_the_kept_captions_and_the_images_of_its_base(here: Path) -> None:
    scores = pq.read_table(BESIDE / "scores.parquet")
    kept = scores.filter(scores["kept"])
    assert len(kept) == round(0.6 * len(scores)) > 0
    assert min(kept["itm"].to_pylist()) >= max(
        scores.filter(np.invert(scores["kept"].to_numpy()))["itm"].to_pylist()
    )
    view, base = Shards(VIEW, "train"), Shards(BASE, "train")
    pairs = [(record.key, caption) for record in base for caption in record.captions]
    assert pairs == list(zip(scores["key"].to_pylist(), scores["caption"].to_pylist(), strict=True))
    stayed = [(record.key, caption) for record in view for caption in record.captions]
    assert stayed == list(zip(kept["key"].to_pylist(), kept["caption"].to_pylist(), strict=True))
    whole = {record.key: record for record in base}
    assert 0 < len(view) < len(base)
    for record in view:
        of = whole[record.key]
        assert (record.image, record.image_id, record.meta) == (of.image, of.image_id, of.meta)
    for row in pq.read_table(VIEW / "index.parquet").to_pylist():
        assert [len(text.split()) for text in row["captions"]] == row["caption_words"]
    assert sorted(path.name for path in VIEW.iterdir()) == ["dataset.json", "index.parquet"]
    assert list(Shards(VIEW, "val")) == list(Shards(BASE, "val"))


def test_the_view_counts_as_validated_and_is_counted_through(here: Path) -> None:
    described, base = describe(VIEW), describe(BASE)
    assert json.loads(VERDICT.read_text()) == {"dataset": "clean", "digest": described["digest"]}
    assert described["digest"] == index_digest(VIEW) != base["digest"]
    assert described["shards_of"] == "web"
    assert described["curated"]["data"] == base["digest"]
    assert described["curated"]["weights"] == load_checkpoint(Path(CURATE["by"])).digest
    assert described["splits"]["train"] == len(Shards(VIEW, "train"))
    assert described["captions"] == sum(
        len(row) for row in pq.read_table(VIEW / "index.parquet")["captions"].to_pylist()
    )
    summary = json.loads((BESIDE / "summary.json").read_text())
    for source in summary.values():
        assert source["rows"] == source["kept"] + source["rejected"].get("low_score", 0)
    assert sum(it["kept"] for it in summary.values()) == sum(described["splits"].values())


def test_a_filtered_dataset_is_filtered_again(here: Path) -> None:
    again_filtered = {"clean": CURATE, "best": CURATE | {"dataset": "clean", "keep": 0.5}}
    work(here, values(curate=again_filtered))
    curate.run(Stage("curate", "best"))
    described, before = describe(VIEW.with_name("best")), describe(VIEW)
    assert (described["shards_of"], described["curated"]["of"]) == ("web", "clean")
    assert described["splits"]["train"] < before["splits"]["train"]


def test_it_is_equal_each_time_and_another_limit_scores_nothing_again(here: Path) -> None:
    before = contents(VIEW), contents(BESIDE), VERDICT.read_bytes()
    shutil.rmtree("scratch")
    again()
    assert (contents(VIEW), contents(BESIDE), VERDICT.read_bytes()) == before
    (known,) = Path("scratch").glob("**/curate@clean-*/part-*.parquet")
    written = known.stat().st_mtime_ns
    below = json.loads((BESIDE / "curation.json").read_text())["below"]
    again(keep=None, threshold=below)
    assert (contents(VIEW), contents(BESIDE), VERDICT.read_bytes()) == before
    with pytest.raises(ValueError, match="increase keep or lower threshold"):
        again(keep=None, threshold=2.0)
    again(keep=0.3, score="itc")
    scores = pq.read_table(BESIDE / "scores.parquet")
    best = np.argsort(-scores["itc"].to_numpy(), kind="stable")[: round(0.3 * len(scores))]
    assert set(np.flatnonzero(scores["kept"].to_numpy())) == set(best)
    assert known.stat().st_mtime_ns == written
    described = json.loads((BASE / "dataset.json").read_text())
    (BASE / "dataset.json").write_text(json.dumps(described | {"digest": "other"}))
    with pytest.raises(ValueError, match="web changed after its validation"):
        again()


def test_an_interrupted_curation_keeps_the_scores_of_finished_parts(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pq.read_table(BESIDE / "scores.parquet")["caption"]
    shutil.rmtree("scratch")
    real, parts = curate.score, list[int]()

    def score(*arguments: Any) -> Any:
        parts.append(len(arguments[1]))
        if len(parts) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(curate, "score", score)
    monkeypatch.setattr(curate, "_PART", (16, 16))
    with pytest.raises(KeyboardInterrupt):
        again()
    again()
    assert parts[:3] == [16, 16, 16]
    assert sum(parts) == len(Shards(BASE, "train")) + 16
    assert pq.read_table(BESIDE / "scores.parquet")["caption"] == before


@pytest.mark.slow
def test_several_processes_write_the_same(here: Path) -> None:
    before = contents(VIEW), contents(BESIDE)
    for folder in (VIEW, BESIDE, Path("scratch")):
        shutil.rmtree(folder)
    work(here, values(curate={"clean": CURATE}, runtime__processes=2, runtime__threads=2))
    process = start(here, "curate", "clean")
    told = process.communicate(timeout=600)[1]
    assert process.returncode == 0, told
    assert (contents(VIEW), contents(BESIDE)) == before
    record = json.loads(Path("products/runs/curate@clean.json").read_text())
    assert record["kept"] == sum(pq.read_table(BESIDE / "scores.parquet")["kept"].to_pylist())


def test_pre_training_reads_a_view_and_tells_what_it_is(here: Path) -> None:
    pretrain.run(stage := Stage("pretrain", ""))
    told = load_checkpoint(stage.layout.model("pretrained")).config["provenance"]
    assert (told["dataset"], told["data"]) == ("clean", describe(VIEW)["digest"])
    project = Project(Path(), stage.layout, ("retrieval",))
    chain = lineage(stage.layout.model("pretrained"), project)
    (view,) = chain.origins
    data, judge = view.origins
    assert [(it.what, it.name, it.state) for it in (view, data, judge)] == [
        ("dataset", "clean", "verified"),
        ("dataset", "web", "verified"),
        ("checkpoint", "earlier/pretrained", "verified"),
    ]
    assert "It is filtered from web, whose validation applies." in data_page("clean").read_text()
    assert "Used by filtered dataset clean." in data_page("web").read_text()
