"""Public benchmarks on small files in the exact formats of their authors."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albef.benchmarks import captions
from albef.commands import benchmark
from albef.config import ParamsError
from albef.export.torch_model import load
from albef.runtime.matching import Matching, as_matching
from tests.data import toy

TEXTS = ("a dog left of an apple", "an apple left of a dog", "only three frogs")


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Matching:
    return as_matching(load(tiny_checkpoint), "tiny")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two images, and one that is damaged."""
    (tmp_path / "images").mkdir()
    for i in range(2):
        (tmp_path / "images" / f"ex_{i}.png").write_bytes(toy.picture(200 * i))
    (tmp_path / "images" / "torn.png").write_bytes(toy.picture(0)[:60])
    return tmp_path


def run(model: Matching, name: str, data: Path) -> Any:
    return benchmark.RUNS[name](model, data, data / "images")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def similarity(model: Matching, image: str | Path, text: str) -> float:
    return (model.embed_image([str(image)]) @ model.embed_text([text]).T).item()


def preference(model: Matching, image: str | Path, text: str) -> float:
    no, yes = model.match_logits([str(image)], [text])[0]
    return float(yes - no)


@pytest.mark.parametrize(
    ("scores", "text", "image"),
    [
        ([[2, 1], [0, 3]], 1, 1),
        ([[2, 1], [3, 4]], 1, 0),  # the first caption prefers the second image
        ([[2, 3], [0, 4]], 0, 1),
        ([[1, 2], [2, 1]], 0, 0),
        ([[1, 1], [1, 1]], 0, 0),  # a tie is not a preference
    ],
)
def test_winoground_scores_by_its_definition(scores: Any, text: int, image: int) -> None:
    judged = captions.by_winoground(np.array(scores, np.float32))
    group = text and image
    assert judged == {"text_score": text, "image_score": image, "group_score": group}


def test_a_tie_is_wrong_but_for_shuffled_captions() -> None:
    tie = np.array([[1, 1, 0]], np.float32)
    assert captions.first_is_best(tie) == {"accuracy": 0}
    assert captions.first_of_best(tie) == {"accuracy": 1}


def test_winoground_compares_both_images_with_both_captions(model: Matching, data: Path) -> None:
    row = {
        "id": 0, "image_0": "ex_0", "image_1": "ex_1", "caption_0": TEXTS[0],
        "caption_1": TEXTS[1], "tag": "Noun", "collapsed_tag": "Object",
    }  # fmt: skip
    rows = [row, {**row, "image_1": "far"}, {**row, "image_0": "torn"}, {**row, "caption_1": ""}]
    lines = [*map(json.dumps, rows), "not JSON"]
    (data / "examples.jsonl").write_text("\n".join(lines))
    result = run(model, "winoground", data)
    assert (result.cases, list(result.groups)) == (1, ["Object"])
    assert [rejection.line for rejection in result.rejected] == [2, 3, 4, 5]
    assert "far.png" in result.rejected[0].detail
    images = [data / "images" / f"ex_{i}.png" for i in range(2)]
    for name, score in (("itc", similarity), ("itm", preference)):
        scores = np.array([[score(model, i, text) for text in TEXTS[:2]] for i in images])
        expected = {f"{name}_{key}": 100 * v for key, v in captions.by_winoground(scores).items()}
        assert {key: result.metrics[key] for key in expected} == expected


def aro(group: str, relation: object, **changed: object) -> dict[str, object]:
    box = {"bbox_x": 2, "bbox_y": 3, "bbox_w": 20, "bbox_h": 10}
    texts = {"true_caption": TEXTS[0], "false_caption": TEXTS[1]}
    return {"image_path": "ex_1.png", group: relation, **texts, **box, **changed}


def test_aro_crops_the_image_and_averages_over_relations(model: Matching, data: Path) -> None:
    rows = [
        aro("relation_name", "holding"),
        aro("relation_name", "to the left of", true_caption=TEXTS[1], false_caption=TEXTS[0]),
        *[aro("relation_name", "next to")] * 3,  # symmetric, so not in the macro accuracy
        aro("relation_name", "on", bbox_w=0),
        aro("relation_name", "on", bbox_h=10**6, bbox_w=10**6),
        aro("relation_name", "on", bbox_x=None),
    ]
    write(data / "visual_genome_relation.json", rows)
    result = run(model, "aro-relation", data)
    assert (result.cases, len(result.rejected)) == (5, 3)
    holding, left = result.groups["holding"], result.groups["to the left of"]
    assert holding["itc_accuracy"] + left["itc_accuracy"] == 100  # one is right, one is wrong
    assert result.metrics["itc_accuracy_macro"] == result.metrics["itm_accuracy_macro"] == 50
    crop = (2, 3, 22, 13)
    row = captions.Row(data / "a.json", 1, rows[0])
    case = captions._aro(row, data / "images", "", "relation_name")
    assert case.images[0].size == (crop[2] - crop[0], crop[3] - crop[1])  # type: ignore[union-attr]


def test_aro_averages_over_pairs_of_attributes_with_enough_cases(
    model: Matching, data: Path
) -> None:
    many = [aro("attributes", ["red", "small"])] * captions.FEWEST
    few = aro("attributes", ["wet", "old"], true_caption=TEXTS[1], false_caption=TEXTS[0])
    write(data / "visual_genome_attribution.json", [*many, few])
    result = run(model, "aro-attribution", data)
    large = result.groups["red_small"]
    assert large["cases"] == captions.FEWEST
    assert result.metrics["itc_accuracy_macro"] == large["itc_accuracy"]
    assert result.metrics["itc_accuracy"] != large["itc_accuracy"]


def test_the_order_of_words_is_one_of_five(model: Matching, data: Path) -> None:
    options = [TEXTS[0], TEXTS[1], TEXTS[2], "apple a dog an of left", "dog a left an apple of"]
    rows = [
        {"image": "ex_0.png", "caption_options": options},
        {"image": "ex_0.png", "caption_options": [TEXTS[0]] * 2},  # unchanged by the shuffle
        {"image": "ex_0.png", "caption_options": TEXTS[:1]},
    ]
    write(data / "coco_order.json", rows)
    result = run(model, "coco-order", data)
    assert (result.cases, len(result.rejected)) == (2, 1)
    scores = [similarity(model, data / "images/ex_0.png", text) for text in options]
    assert result.metrics["itc_accuracy"] == (100 if scores[0] == max(scores) else 50)


def test_sugarcrepe_has_seven_categories(model: Matching, data: Path) -> None:
    row = {"filename": "ex_0.png", "caption": TEXTS[0], "negative_caption": TEXTS[2]}
    for category in captions.CATEGORIES[1:]:
        write(data / f"{category}.json", {"0": row})
    with pytest.raises(ParamsError, match=r"add_att\.json"):
        run(model, "sugarcrepe", data)
    other = {**row, "caption": TEXTS[2], "negative_caption": TEXTS[0]}
    write(data / "add_att.json", {"0": other, "1": {**other, "filename": "torn.png"}, "7": row})
    result = run(model, "sugarcrepe", data)
    assert sorted(result.groups) == list(captions.CATEGORIES)
    assert result.groups["add_att"]["itm_accuracy"] == 50
    assert [rejection.key for rejection in result.rejected] == ["1"]


def test_vl_checklist_judges_pairs_and_by_a_threshold(model: Matching, data: Path) -> None:
    rows = [["ex_0.png", {"POS": [TEXTS[0], "x"], "NEG": [TEXTS[2]]}], ["ex_0.png", {"POS": []}]]
    write(data / "json/Attribute/vg/color.json", rows)
    result = benchmark.RUNS["vl-checklist"](model, data / "json", data / "images")
    assert (list(result.groups), len(result.rejected)) == (["Attribute/vg/color"], 1)
    right, wrong = (preference(model, data / "images/ex_0.png", TEXTS[i]) for i in (0, 2))
    assert result.metrics["itm_threshold"] == 50 * ((right > 0) + (wrong <= 0))
    assert "itc_threshold" not in result.metrics | result.groups["Attribute/vg/color"]


def shard(path: Path, samples: list[tuple[bytes | None, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for i, (image, label) in enumerate(samples):
            parts = {"png": image, "cls": str(label).encode()}
            for suffix, content in parts.items():
                if content is not None:
                    member = tarfile.TarInfo(f"s{i:07}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def test_zero_shot_classifies_the_shards_of_clip_benchmark(model: Matching, data: Path) -> None:
    names = ["frog", "key", "fox", "dog", "apple", "squid", "frog"]  # as ImageNet repeats names
    (data / "classnames.txt").write_text("\n".join(names))
    (data / "zeroshot_classification_templates.txt").write_text("a {c}\nonly {c}\n")
    pictures = [toy.picture(90 * i) for i in range(5)]
    chances = model.zero_shot([pictures[0]], names, ["a {}", "only {}"])[0]
    first = np.argsort(-chances, kind="stable")
    shard(data / "test/0.tar", [(pictures[0], first[0]), (pictures[0], first[4])])
    shard(
        data / "test/1.tar",
        [(pictures[0], first[6]), (None, 0), (pictures[1][:60], 0), (pictures[1], 7)],
    )
    (data / "test/nshards.txt").write_text("2\n")
    result = run(model, "zero-shot", data)
    assert (result.cases, len(result.rejected)) == (3, 3)
    assert result.metrics["itc_acc@1"] == pytest.approx(100 / 3)
    assert result.metrics["itc_acc@5"] == pytest.approx(200 / 3)
    assert result.metrics["itc_mean_per_class"] == pytest.approx(100 / 3)
    (data / "zeroshot_classification_templates.txt").unlink()
    assert run(model, "zero-shot", data).cases == 3  # with ImageNet's templates


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("dataset_type.txt", "retrieval\n", "retrieval"),
        ("classnames.txt", "", "no class names"),
        ("zeroshot_classification_templates.txt", "a photo\n", "'a photo' must contain {c} once"),
        ("test/nshards.txt", "many\n", "'many'"),
        ("test/nshards.txt", "3\n", "0.tar is missing"),
    ],
)
def test_a_set_that_is_not_as_published_is_refused(
    model: Matching, data: Path, file: str, content: str, said: str
) -> None:
    (data / "classnames.txt").write_text("frog\nkey\n")
    (data / "test").mkdir()
    (data / file).write_text(content)
    with pytest.raises(ParamsError, match=said):
        run(model, "zero-shot", data)


def test_a_row_of_each_model_is_collected(
    tiny_checkpoint: Path, tiny_export: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"filename": "ex_0.png", "caption": TEXTS[0], "negative_caption": TEXTS[2]}
    for category in captions.CATEGORIES:
        write(data / f"{category}.json", {"0": row, "1": {**row, "filename": "torn.png"}})
    out = data / "table.json"
    for weights in (tiny_checkpoint, tiny_export, tiny_export):
        benchmark.main("sugarcrepe", weights, data, data / "images", out, "cpu")
    rows = json.loads(out.read_text())
    assert [row["model"] for row in rows] == [str(tiny_checkpoint), str(tiny_export)]
    assert rows[0]["metrics"] == pytest.approx(rows[1]["metrics"])
    printed = capsys.readouterr().out
    assert "7 rows are rejected" in printed
    assert "torn.png" in printed or "(1)" in printed
    assert "swap_obj itc_accuracy" in printed


def test_errors_name_the_remedy(tiny_checkpoint: Path, data: Path) -> None:
    out = data / "table.json"
    with pytest.raises(ValueError, match="did you mean winoground"):
        benchmark.main("winogrond", tiny_checkpoint, data, data, out, "cpu")
    with pytest.raises(ValueError, match=r"examples.jsonl cannot be read"):
        benchmark.main("winoground", tiny_checkpoint, data, data, out, "cpu")
    (data / "examples.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"no case that can be scored with .*; the first: row 1"):
        benchmark.main("winoground", tiny_checkpoint, data, data, out, "cpu")
    out.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="--out"):
        benchmark.main("winoground", tiny_checkpoint, data, data, out, "cpu")
