"""``albef data check``: what ingest would do, and that nothing of it stays."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from albef.cli import main
from albef.config import ParamsError, read_preset, validate
from albef.data.rejection import Reason
from albef.data.shards import Shards
from albef.ingest.config import RowsConfig
from albef.validation.result import ValidationFailedError
from flows.values import compose
from pipelines import heldout, ingest
from pipelines import validate as validate_stage
from pipelines.check import check, render
from pipelines.check import main as run_check
from pipelines.own_data import write_preset
from pipelines.params import load
from pipelines.report import data_page
from pipelines.stage import Stage
from tests.data import toy
from tests.ingest.bad_rows import LIMITS, bad_rows
from tests.ingest.download.server import Server
from tests.ingest.download.test_client import LIMITS as DOWNLOAD
from tests.pipelines.test_ingest import PHOTOS, PICTURES, ROOT, SCENES, contents, params, pictures

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd headers
ROWS = bad_rows()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "in").mkdir()
    params(tmp_path, {"names": PICTURES, "placed": SCENES})
    return tmp_path


def bad_folder(here: Path) -> dict[str, Any]:
    """A source of the bad rows, a file of text beside each image."""
    for row in ROWS:
        (here / "in" / f"{row.name}.jpg").write_bytes(row.image)
        caption = row.caption.replace("\n", " ").encode("utf-8", "surrogatepass")
        (here / "in" / f"{row.name}.txt").write_bytes(caption)
    return {"kind": "folder", "path": str(here / "in"), "split": "train"}


@pytest.mark.parametrize("kind", ["annotations", "folder"])
def test_of_bad_rows_it_tells_what_ingest_does_and_the_page_shows(here: Path, kind: str) -> None:
    annotated = {row.name: (row.image, row.caption) for row in ROWS}
    source = bad_folder(here) if kind == "folder" else pictures(here / "in", annotated)
    params(here, {"rows": source}, ingest=LIMITS)
    before = contents(here)
    result = check("toy", len(ROWS) + 1)
    assert contents(here) == before
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    aside = pq.read_table(stage.layout.quarantine("toy") / "quarantine.parquet").to_pylist()
    kept = list(Shards(stage.layout.data("toy"), "train"))
    told = result["sources"]["rows"]
    assert told["rows"] == result["rows"] == len(ROWS) == len(aside) + len(kept)
    assert told["kept"] == result["kept"] == stage.record["records"]["train"] == len(kept)
    for reason, why in told["rejected"].items():
        rows = [row for row in aside if row["reason"] == reason]
        first = {name: rows[0][name] for name in ("line", "key", "detail")}
        assert why == {"count": len(rows), **first}
        assert first["line"] > 0
        assert first["detail"]
    assert not result["stops"]
    if kind == "annotations":  # a folder cannot hold each of the captions
        empty = {row.name: Reason.MISSING_FIELD for row in ROWS if not row.caption.strip()}
        expected = {row.name: row.expected for row in ROWS} | empty
        found = {record.meta["path"]: record.captions[0] for record in kept}
        assert found | {row["key"]: row["reason"] for row in aside} == expected
    summary = json.loads((stage.layout.quarantine("toy") / "summary.json").read_text())["rows"]
    assert summary.pop("merged") == told["merged"] == 0
    counts = {reason: why["count"] for reason, why in told["rejected"].items()}
    assert summary == {"rows": len(ROWS), "kept": len(kept), "rejected": counts}
    with pytest.raises(ValidationFailedError):
        validate_stage.run(Stage("validate", "toy"))
    assert f"<dt>rejected</dt><dd>{len(aside):,}</dd>" in data_page("toy").read_text()


def test_the_first_rows_of_each_source(here: Path) -> None:
    result = check("toy", 5)
    rows = {name: source["rows"] for name, source in result["sources"].items()}
    assert rows == {"names": 5, "placed": 5}
    assert "placed (scenes): the first 5 rows" in render(result)
    assert check("toy.placed", 100)["sources"]["placed"]["rows"] == 18
    bad_folder(here)
    assert check("in", 1000)["sources"]["in"]["rows"] == len(ROWS)


def test_yield_and_repeated(here: Path) -> None:
    source = pictures(here / "own", {**PHOTOS, "none.jpg": (b"<html>", "none")})
    limits = {"near_distance": 4, "min_yield": 0.5}
    params(here, {"own": source}, ingest=limits, duplicates="drop_near")
    result = check("toy", 100)
    assert result["repeated"] == {"exact": 1, "near": 1, "dropped": 2, "rule": "drop_near"}
    assert (result["rows"], result["kept"], result["stops"]) == (5, 2, True)
    words = render(result)
    assert "ingest would fail: 40 % kept, ingest.min_yield is 0.5" in words
    assert "own (annotations): all 5 rows\n  kept 2 (40 %)\n" in words
    assert "rejected 1 (20 %): no_image\n    first: row 5, none.jpg: " in words
    assert "1 identical images, 1 similar images; `duplicates: drop_near` drops 2" in words
    assert not check("toy", 2)["stops"]


def test_what_is_evaluated_on_is_compared_as_far_as_it_is_there(here: Path) -> None:
    values = params(here, {"own": pictures(here / "own", PHOTOS)}, screened=True)
    tests = pictures(here / "held", {"a.jpg": PHOTOS["first.jpg"]}, "test")
    values["datasets"]["coco"] = {**values["datasets"]["toy"], "sources": {"e": tests}}
    values["ingest"]["heldout"] = ["coco"]
    (here / "params.yaml").write_text(json.dumps(values))
    result = check("toy", 100)
    assert result["not_compared"] == ["products/heldout/coco.parquet"]
    assert "not compared with products/heldout/coco.parquet" in render(result)
    heldout.run(Stage("heldout", "coco"))
    result = check("toy", 100)
    assert result["sources"]["own"]["rejected"]["contamination"]["count"] == 2
    assert not result["not_compared"]


def test_a_path_is_printed_as_in_params(here: Path) -> None:
    bad_folder(here)
    words = render(check("in", 3))
    _, heading, section = words.partition("To use it, add this to datasets in params.yaml:\n")
    assert heading
    section = section.removesuffix("or write a preset with --write")
    source = validate(RowsConfig, YAML(typ="safe").load(section)["in"], where="").sources["in"]
    described = {"kind": "folder", "path": "in", "split": "train"}
    assert source.model_dump(exclude={"licences"}) == described


def test_a_list_named_by_its_path_asks_no_private_address_and_one_of_values_asks_once(
    here: Path,
) -> None:
    with Server() as server:
        lines = (f"{server.url(f'ok/{i}')},a picture {i}\n" for i in range(12))
        (here / "list.csv").write_text(f"url,caption\n{''.join(lines)}")
        source = {
            "kind": "urls", "files": ["list.csv"], "format": "csv", "url": "url",
            "caption": "caption", "split": "train", "download": DOWNLOAD.model_dump(),
        }  # fmt: skip
        result = check("list.csv", 5)
        assert not server.asked
        params(here, {"rows": source}, ingest=LIMITS)
        check("toy", 10)
        assert server.asked.total() == 10
        ingest.run(Stage("ingest", "toy"))
        assert max(server.asked.values()) == 1
    assert result["sources"]["list"]["rejected"]["private_address"]["count"] == 5
    assert result["stops"]
    assert "# user_agent: say who downloads, and how to reach you\n  list:\n" in render(result)


def test_what_validation_would_refuse_and_which_limits_would_fit(here: Path) -> None:
    photos = {f"{i}.png": (toy.picture(i, (20 + i, 30)), f"a dog {i}") for i in range(9)}
    photos |= {"9.png": (toy.picture(9, (40, 40)), "word " * 40)}
    photos |= {"10.png": (toy.picture(10, (40, 40)), "собака слева")}
    sources = {"own": pictures(here / "own", photos)}
    limits = {"max_caption_words": 30, "min_image_side": 21, "max_other_scripts": 0.0}
    limits |= {"max_blank_images": 0.0, "max_short_captions": 0.0}
    params(here, sources, validate=limits)
    result = check("toy", 100)
    fitting = {"max_caption_words": 40, "scripts": ["Latin", "Cyrillic"], "min_image_side": 20}
    assert result["fitting"] == {**fitting, "max_blank_images": 1.0}
    assert (len(result["unmet"]), result["stops"]) == (4, False)
    words = render(result)
    assert "validation would fail\n  captions are not too long (" in words
    assert "would pass with validate: {max_caption_words: 40, scripts: [Latin, Cyrillic]" in words
    params(here, sources, validate=limits | result["fitting"])
    assert not check("toy", 100)["unmet"]


def test_a_path_becomes_a_preset(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shots = here / "shots"
    shots.mkdir()
    for i in range(6):
        (shots / f"{i}.png").write_bytes(toy.noisy(i).image)
        (shots / f"{i}.txt").write_text(f"dog {i} on the left")
    for name in ("presets", "behaviour"):
        shutil.copytree(ROOT / name, here / name)
    assert run_check("shots", None, None, True, False, here) == 0
    printed = capsys.readouterr().out
    assert "wrote presets/shots.yaml; to use it: albef run --preset shots\n" in printed
    assert printed.endswith("expected time: 2 minutes on two cores without a GPU\n")
    assert "--write" not in printed
    values = read_preset(here / "presets" / "shots.yaml")
    assert values["datasets"]["shots"]["split_off"] == {"val": 0.1, "test": 0.1}
    assert values["pretrain"]["projection_dropout"] == 0.7
    assert (values["pretrain"]["global_batch_size"], values["pretrain"]["epochs"]) == (2, 100)
    assert "about 4 images to train on" in (here / "presets" / "shots.yaml").read_text()
    with pytest.raises(ParamsError, match=r"presets/shots.yaml exists; .* --name"):
        check("shots", write=True)
    (here / "params.yaml").write_text(compose(here / "presets" / "shots.yaml"))
    assert {*load(here / "params.yaml").tasks} == {"contrast"}  # too few images for fusion
    with pytest.raises(ParamsError, match=r"--write: shots.shots is a dataset"):
        check("shots.shots", write=True)


NAMES = ["a.png", "b.png", "c.png", "d.png"]
CAPTIONS = {name: f"a photo of dog {name[0]}" for name in NAMES}
COCO = {
    "images": [{"id": i, "file_name": name} for i, name in enumerate(NAMES)],
    "annotations": [{"image_id": i, "caption": CAPTIONS[name]} for i, name in enumerate(NAMES)],
}


def rows(names: list[str], separator: str = ",") -> str:
    return "".join(f"{name}{separator}{CAPTIONS[name]}\n" for name in names)


LAYOUTS: dict[str, tuple[str, dict[str, str], list[str]]] = {
    # folder of the images, other files, splits
    "img2dataset": (
        "00000",
        {"00000_stats.json": "{}", "00000.parquet": ""}
        | {f"00000/{name[0]}.txt": CAPTIONS[name] for name in NAMES}
        | {f"00000/{name[0]}.json": json.dumps({"caption": CAPTIONS[name]}) for name in NAMES},
        ["train"],
    ),
    "metadata.csv": (".", {"metadata.csv": "file_name,text\n" + rows(NAMES)}, ["train"]),
    "metadata.jsonl": (
        "train",
        {
            "train/metadata.jsonl": "".join(
                json.dumps({"file_name": name, "text": CAPTIONS[name]}) + "\n" for name in NAMES
            )
        },
        ["train"],
    ),
    "Kaggle": ("Images", {"captions.txt": "image,caption\n" + rows(NAMES)}, ["train"]),
    "COCO": (
        "val2017",
        {"annotations/captions_val2017.json": json.dumps(COCO), "annotations/x.json": "{}"},
        ["val"],
    ),
    "splits": (
        "images",
        {
            "train.csv": "file,caption\n" + rows(NAMES[:3]),
            "test.csv": "file,caption\n" + rows(NAMES[3:]),
            "sample_submission.csv": "file,label\n",
        },
        ["test", "train"],
    ),
    "upper": (
        ".",
        {"C.CSV": "file,caption\n" + rows(NAMES), "README.txt": "Dogs, all."},
        ["train"],
    ),
    "TXT": (".", {f"{name[0]}.TXT": CAPTIONS[name] for name in NAMES}, ["train"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_common_layouts_are_read_whole(here: Path, layout: str) -> None:
    images, files, splits = LAYOUTS[layout]
    for i, name in enumerate(NAMES):
        path = here / "data" / images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(toy.noisy(i).image)
    for name, text in files.items():
        (here / "data" / name).parent.mkdir(exist_ok=True)
        (here / "data" / name).write_text(text)
    result = check("data")
    assert (result["rows"], result["kept"], result["splits"]) == (4, 4, splits)
    if "train" in splits:
        assert set(result["suggested"]["data"]["split_off"]) == {"val", "test"} - set(splits)


def test_names_of_datasets_for_paths(here: Path) -> None:
    for folder, name in (
        ("Fotos für Oma", "fotos_fur_oma"), ("Фото", "mine"), ("x" * 90, "x" * 40), ("a-b", "a_b"),
    ):  # fmt: skip
        (here / folder).mkdir()
        (here / folder / "a.png").write_bytes(toy.noisy(0).image)
        (here / folder / "a.txt").write_text("a photo of a dog")
        result = check(folder)
        assert (list(result["suggested"]), result["kept"]) == ([name], 1)
    assert list(check("a-b", name="oma")["suggested"]) == ["oma"]
    (here / "presets").mkdir()
    (here / "presets" / "mine.yaml").touch()
    with pytest.raises(ParamsError, match=r"presets/mine.yaml exists.* --name"):
        check("Фото", write=True)
    with pytest.raises(ParamsError, match="--name 'a b'"):
        check("Фото", name="a b")
    folder = {"kind": "folder", "path": "Фото", "split": "train"}
    with pytest.raises(ParamsError, match="rename source 'Фото'"):
        validate(RowsConfig, {"sources": {"Фото": folder}}, where="params.yaml")


def test_a_preset_fits_all_rows_of_a_small_dataset(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.check._ROWS", 3)
    for i in range(5):
        (here / "in" / f"{i}.png").write_bytes(toy.noisy(i).image)
        (here / "in" / f"{i}.txt").write_text(f"a photo of dog {i}")
    assert check("in")["rows"] == 3
    assert check("in", write=True)["rows"] == 5


def test_wrong_sources_are_named(here: Path) -> None:
    (here / "odd.bin").write_bytes(b"odd")
    (here / "empty.csv").write_text("url,caption\n")
    for name in ("a.csv", "b.csv"):
        (here / "in" / name).write_text("file,caption\n")
    (here / "own" / "test").mkdir(parents=True)
    (here / "own" / "test" / "a.png").write_bytes(toy.noisy(0).image)
    (here / "own" / "test" / "a.txt").write_text("a photo of a dog")
    for source, message in (
        ("in", "a.csv, b.csv"),
        ("tyo", "tyo does not exist, and params.yaml has no dataset tyo; did you mean toy?"),
        ("toy.place", "dataset toy has no source 'place'; did you mean toy.placed?"),
        ("odd.bin", "cannot infer the format of odd.bin"),
        ("empty.csv", "empty.csv has no rows"),
    ):
        with pytest.raises(ParamsError, match=re.escape(message)):
            check(source, 5)
    with pytest.raises(ParamsError, match="--rows 0: must be at least 1"):
        check("toy", 0)
    with pytest.raises(ParamsError, match="no valid rows of the split train"):
        write_preset(check("own", write=True))


def test_exit_codes_and_json(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params(here, {"own": pictures(here / "own", {"a.jpg": (b"", "a")}), "names": PICTURES})
    (here / "shots").mkdir()
    (here / "shots" / "a.png").write_bytes(PHOTOS["smaller.png"][0])
    (here / "shots" / "a.txt").write_text("a photo")
    for source, code, kept in (("toy.names", 0, 3), ("toy.own", 1, 0), (".", 0, 1), ("x", 2, None)):
        monkeypatch.chdir(here / "shots")  # where a path starts
        with pytest.raises(SystemExit) as caught:
            main(["data", "check", source, "--json", "--rows", "3"])
        assert (caught.value.code or 0) == code
        out, err = capsys.readouterr()
        if kept is None:
            assert err.startswith("albef data check: shots/x does not exist")
        else:
            assert json.loads(out)["kept"] == kept


def flickr8k(here: Path, *, sub: str = "", lists: bool = True, kaggle: bool = False) -> Path:
    """A folder as Kaggle's archive or the original one unpacks; its images are drawn."""
    folder, texts = here / "flickr8k", here / "flickr8k" / sub
    images = folder / ("Images" if kaggle else "Flicker8k_Dataset")
    for made in (images, texts):
        made.mkdir(parents=True, exist_ok=True)
    names = [f"{i}_{i}ab.jpg" for i in range(8)]
    for i, name in enumerate(names):
        (images / name).write_bytes(toy.noisy(i).image)
    told = [(name, n, f"dog {i} , and {n}") for i, name in enumerate(names) for n in range(5)]
    if kaggle:
        rows = "".join(f'{name},"{caption}"\n' for name, _, caption in told)
        (folder / "captions.txt").write_text(f"image,caption\n{rows}")
    else:
        for file in ("Flickr8k.token.txt", "Flickr8k.lemma.token.txt"):
            lines = (f"{name}#{number}\t{caption}\n" for name, number, caption in told)
            (texts / file).write_text("".join(lines))
        (texts / "ExpertAnnotations.txt").write_text(f"{names[0]}\t{names[1]}#2\t1\t1\t1\n")
        (texts / "readme.txt").write_text("If you use this corpus / data:\n")
    if lists:
        for part, listed in (("train", names[:4]), ("dev", names[4:5]), ("test", names[5:7])):
            (texts / f"Flickr_8k.{part}Images.txt").write_text("".join(f"{n}\n" for n in listed))
    return folder


@pytest.mark.parametrize("kaggle", [False, True])
@pytest.mark.parametrize("sub", ["", "Flickr8k_text"])
def test_flickr8k_is_read_with_its_lists(here: Path, kaggle: bool, sub: str) -> None:
    flickr8k(here, sub=sub, kaggle=kaggle)
    result = check("flickr8k")
    section = result["suggested"]["flickr8k"]
    (source,) = section["sources"].values()
    at = f"flickr8k/{sub}/" if sub else "flickr8k/"
    lists = {"train": "train", "val": "dev", "test": "test"}
    lists = {split: f"{at}Flickr_8k.{part}Images.txt" for split, part in lists.items()}
    assert source["splits"] == lists
    assert "split_off" not in section
    assert result["splits"] == ["test", "train", "val"]
    counts = {name: result[name] for name in ("rows", "kept", "merged", "unlisted", "stops")}
    assert counts == {"rows": 40, "kept": 7, "merged": 28, "unlisted": 5, "stops": False}
    words = render(result)
    assert "kept 35 (87.5 %) as 7 records, one per image\n  rejected 5 (12.5 %): unlisted" in words
    assert "ingest would pass: 100 % kept" in words
    params(here, {"own": source})
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    assert stage.record["records"] == {"train": 4, "val": 1, "test": 2}
    assert (stage.record["rejected"], stage.record["merged"]) == (5, 28)
    told = [tuple(f"dog 0 , and {n}" for n in range(5))]
    assert [row.captions for row in Shards(stage.layout.data("toy"), "train")][:1] == told


@pytest.mark.parametrize("kaggle", [False, True])
def test_flickr8k_without_lists_is_split_by_shares(here: Path, kaggle: bool) -> None:
    flickr8k(here, lists=False, kaggle=kaggle)
    result = check("flickr8k")
    assert (result["rows"], result["kept"], result["merged"]) == (40, 8, 32)
    assert set(result["suggested"]["flickr8k"]["split_off"]) == {"val", "test"}


def test_the_splits_of_all_rows_are_known(here: Path) -> None:
    folder = flickr8k(here, lists=False, kaggle=True)
    images = [
        {"filename": f"{i}_{i}ab.jpg", "sentences": [{"raw": f"dog {i}"}], "split": split}
        for i, split in enumerate(["train"] * 6 + ["val", "test"])
    ]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    result = check("flickr8k", 3)
    (source,) = result["suggested"]["flickr8k"]["sources"].values()
    assert (source["kind"], source["images"]) == ("karpathy", "flickr8k/Images")
    assert result["splits"] == ["test", "train", "val"]
    assert "split_off" not in result["suggested"]["flickr8k"]
    rows = (f"{one['filename']},dog,{one['split']}\n" for one in images)
    (folder / "rows.csv").write_text("image,caption,split\n" + "".join(rows))
    result = check("flickr8k/rows.csv", 3)
    assert "split_off" not in result["suggested"]["rows"]
