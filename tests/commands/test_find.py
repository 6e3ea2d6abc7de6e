import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from albef.commands import find
from albef.config import ParamsError
from albef.data.record import Record
from albef.data.shards import ShardError, Shards
from albef.ingest.shard_writer import write
from albef.runtime import load
from albef.runtime.manifest import ExportError
from tests.conftest import CAPTIONS

COUNT = 40


def _records() -> list[Record]:
    rng = np.random.default_rng(1)
    records = []
    for i in range(COUNT):
        buffer = io.BytesIO()
        noise = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((16, 16)).save(buffer, "PNG")
        caption = f"{CAPTIONS[i % 4]} <{i}>"
        records.append(Record(f"k{i:02}", buffer.getvalue(), (caption,), i, "test", "made"))
    return records


@pytest.fixture(scope="module")
def made(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    data = folder / "products" / "data" / "scenes"
    write(data, "scenes", _records(), shard_mb=1, licences=[], sources=[])
    shutil.copytree(tiny_export, folder / "products" / "exports" / "retrieval")
    (folder / "params.yaml").write_text(
        "paths: {root: products, models: products/models}\n"
        "tasks: {retrieval: {dataset: scenes}, other: {dataset: gone}, broken: 3}\n"
    )
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(made, tmp_path / "project"))
    monkeypatch.chdir(folder)
    return folder


def search(text: str = "a dog left of an apple", run: str = "retrieval", k: int = 5) -> None:
    find.main(text, run, k)


def test_prints_the_best_and_a_page(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search()
    first = capsys.readouterr()
    *lines, page = first.out.splitlines()
    assert len(lines) == 5
    assert "reading the 40 pictures of scenes once" in first.err
    content = Path(page).read_text()
    assert content.count("<img") == content.count("data:image/png;base64,") == 5
    assert "&lt;" in content  # captions are text
    assert all(line.split()[0] in content for line in lines)

    search()
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err == ""  # features were kept


def test_ranks_as_reading_every_picture_would(project: Path) -> None:
    model, records = load(project / "products/exports/retrieval"), _records()
    text = "two apples above a squid"
    sim = model.embed_image([record.image for record in records]) @ model.embed_text([text])[0]
    best = np.argsort(-sim, kind="stable")[: find.RERANKED]
    images = [records[i].image for i in best]
    logits = model.match_logits(images, [text] * len(images))
    order = np.argsort(logits[:, 0] - logits[:, 1], kind="stable")[:3]
    expected = [records[best[i]].key for i in order]
    found = find.find(model, Shards(project / "products/data/scenes", "test"), text, 3)
    assert [item.key for item in found] == expected
    probabilities = model.match([item.image for item in found], [text] * 3)
    np.testing.assert_allclose([item.probability for item in found], probabilities, atol=1e-5)


def test_more_than_are_re_ranked_and_more_than_there_are(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(k=1000)
    assert len(capsys.readouterr().out.splitlines()) == COUNT + 1


def test_damaged_features_are_made_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search()
    first = capsys.readouterr().out
    (kept,) = find.FOLDER.glob("*.npy")
    kept.write_bytes(b"no features")
    search()
    assert capsys.readouterr().out == first


def test_errors_are_sentences(project: Path) -> None:
    with pytest.raises(ParamsError, match=r"no run 'retreival' .* did you mean retrieval\?"):
        search(run="retreival")
    with pytest.raises(ParamsError, match=r"tasks\.broken\.dataset must name a data set"):
        search(run="broken")
    with pytest.raises(ParamsError, match="the text is empty"):
        search(text="  ")
    with pytest.raises(ParamsError, match="at least one picture"):
        search(k=0)
    with pytest.raises(ExportError, match=r"exports/other holds no export .* `albef run` first"):
        search(run="other")
    shutil.rmtree("products/data")
    with pytest.raises(ShardError, match="ingest@scenes"):
        search()


def test_an_output_that_nobody_reads_on_is_no_error(project: Path) -> None:
    """As before ``| head -1``: the reader has gone when the second line comes."""
    (project / "dvc.yaml").touch()  # what makes it the root of a project
    script = "from albef.cli import main; main(['find', 'a dog', '--run', 'retrieval'])"
    with subprocess.Popen(
        [sys.executable, "-P", "-u", "-c", script],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        told = command.stderr.read()
    assert command.returncode == 0, told
    assert b"Error" not in told
    assert b"Broken" not in told
