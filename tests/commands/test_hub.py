"""A folder for the Hub, read by what reads such folders."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

import albef
from albef.commands.hub import SUFFIXES, main
from albef.report.card import render
from albef.runtime.manifest import ExportError
from tests.conftest import CAPTIONS
from tests.report.test_card import CARD

TEXTS = [
    *CAPTIONS,
    'A DOG (left of) "an" apple-tree!',
    "two  apples\t#3",
    "<person>: zebra / fox",
    "ẞ ﬁ Å İ ΣΊΣΥΦΟΣ Ｆｕｌｌ 𠀀 ｶﾀｶﾅ 한국어 👩‍🚀 ½²",
    "a\u00a0b\u2003c\x85e\x1cf\u200bh\ufeffi\ufffdk — dash… ‽ 、。",
    "犬 and mask " * 20,
]


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cards") / "retrieval.md"
    path.write_text(render(CARD))
    return path


@pytest.fixture(scope="module")
def folder(tiny_export: Path, card: Path) -> Path:
    out = card.parent / "hub"
    main(tiny_export, card, out, "apache-2.0", ["nlphuji/flickr30k"])
    return out


def test_it_has_the_files_that_are_looked_for(folder: Path) -> None:
    names = ("model", "vision_model", "text_model", "matcher")
    graphs = {f"{name}{suffix}.onnx" for name in names for suffix in ("", "_quantized")}
    assert {path.name for path in (folder / "onnx").iterdir()} == graphs
    beside = {path.name for path in folder.iterdir()}
    configs = {"config.json", "preprocessor_config.json", "tokenizer_config.json"}
    assert beside == {"onnx", "README.md", "tokenizer.json", *configs}
    assert json.loads((folder / "config.json").read_text())["image_size"] == 16


def test_its_card_is_read_by_the_hubs_library(folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    data = card.data
    assert isinstance(data, ModelCardData)
    assert (data.license, data.datasets) == ("apache-2.0", ["nlphuji/flickr30k"])
    assert data.pipeline_tag == CARD.hub
    assert data.model_name == CARD.run
    (result,) = data.eval_results
    assert result.metric_type == CARD.evaluation.primary
    assert result.metric_value == pytest.approx(CARD.evaluation.metrics[result.metric_type], 1e-3)
    assert data.metrics == [result.metric_type]
    ours = render(CARD).split("---", 2)[2]
    assert card.text.strip().startswith(ours.split("```")[0].strip())
    assert card.text.strip().endswith(ours.split("```", 2)[2].strip())


def test_transformers_prepares_what_the_graphs_are_fed(
    folder: Path, tiny_export: Path, pictures: list[bytes]
) -> None:
    model = albef.runtime.load(tiny_export)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="np")
    ids, mask = model.ids(TEXTS)
    np.testing.assert_array_equal(given["input_ids"], ids)
    np.testing.assert_array_equal(given["attention_mask"], mask)
    session = ort.InferenceSession(folder / "onnx/text_model.onnx")
    fed = {name: given[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    (feats,) = session.run(["text_embeds"], fed)
    np.testing.assert_allclose(feats, model.embed_text(TEXTS), atol=1e-6)

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    opened = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    pixels = processor(opened, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(pixels, model.pixels(pictures), atol=1e-5)
    session = ort.InferenceSession(folder / "onnx/vision_model_quantized.onnx")
    (feats,) = session.run(["image_embeds"], {"pixel_values": pixels})
    eight = albef.runtime.load(tiny_export, precision="int8")
    np.testing.assert_allclose(feats, eight.embed_image(pictures), atol=1e-2)


def example(folder: Path, language: str) -> str:
    """The example of the card in a language."""
    return (folder / "README.md").read_text().split(f"```{language}\n")[1].split("```")[0]


def test_the_python_example_of_the_card_runs(
    folder: Path, tiny_export: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("a.png").write_bytes(pictures[1])
    found: dict[str, Any] = {}
    exec(example(folder, "python").replace("REPOSITORY", str(folder)), found)
    expected = albef.runtime.load(tiny_export).embed_image(pictures[1:2])
    np.testing.assert_allclose(found["outputs"][2], expected, atol=1e-5)
    Path("a.png").unlink()


@pytest.mark.slow
def test_transformers_js_runs_the_example_of_the_card(
    folder: Path, tiny_export: Path, node: Callable[..., Any], tmp_path: Path
) -> None:
    gradient = np.linspace(0, 255, 40 * 24 * 4).reshape(40, 24, 4).astype(np.uint8)
    gradient[..., 1] = gradient[::-1, ::-1, 1]
    gradient[:, :9, 3] = 0
    image, files = tmp_path / "a.png", [tmp_path / "RGBA.png", tmp_path / "CMYK.jpg"]
    Image.fromarray(gradient[..., :3]).save(image)
    Image.fromarray(gradient).save(files[0])
    Image.fromarray(gradient[..., :3]).convert("CMYK").save(files[1], quality=95, subsampling=0)
    for mode in ("L", "LA"):
        files.append(tmp_path / f"{mode}.png")
        Image.fromarray(gradient).convert(mode).save(files[-1])
    files = [str(file) for file in (image, *files)]
    code = example(folder, "js").replace("USER/REPOSITORY", folder.name)
    code = code.replace("a.png", str(image)).replace(
        "await classify", "const found = await classify"
    )
    program = f"""
        import {{ AutoModel, AutoProcessor, AutoTokenizer, env }}
          from "@huggingface/transformers";
        env.allowRemoteModels = false;
        env.localModelPath = {json.dumps(str(folder.parent))};
        {code}
        const tokenizer = await AutoTokenizer.from_pretrained("hub");
        const processor = await AutoProcessor.from_pretrained("hub");
        const model = await AutoModel.from_pretrained("hub", {{ dtype: "q8" }});
        const tokens = tokenizer({json.dumps(TEXTS)}, {{ padding: true, truncation: true }});
        const images = await Promise.all({json.dumps(files)}.map(read));
        const out = await model({{ ...tokens, ...(await processor(images)) }});
        console.log(JSON.stringify({{
          found, ids: tokens.input_ids.tolist().map((row) => row.map(Number)),
          logits: out.logits_per_image.tolist(), text: out.text_embeds.tolist(),
          image: out.image_embeds.tolist(),
        }}));
    """
    result = node(program)
    model = albef.runtime.load(tiny_export)
    shares = model.zero_shot([image], ["a dog", "two apples"])[0]
    found = {row["label"]: row["score"] for row in result["found"]}
    np.testing.assert_allclose([found["a dog"], found["two apples"]], shares, atol=1e-4)
    np.testing.assert_array_equal(result["ids"], model.ids(TEXTS)[0])
    eight = albef.runtime.load(tiny_export, precision="int8")
    texts = eight.embed_text(TEXTS)
    np.testing.assert_allclose(result["text"], texts, atol=0.05)
    images = eight.embed_image(files)
    cosines = np.sum(images * result["image"], axis=1).tolist()
    assert cosines.pop(2) > 0.9, "sharp converts CMYK by a color profile"
    assert min(cosines) > 0.999
    logits = images @ texts.T / model.facts.itc_temperature
    np.testing.assert_allclose(result["logits"][:2], logits[:2], atol=1)


def test_what_cannot_be_shared_is_a_sentence(
    tiny_export: Path, card: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="hub exists"):
        main(tiny_export, card, folder, "mit", [])
    with pytest.raises(ValueError, match=r"no\.md is not a model card .*/cards/retrieval"):
        main(tiny_export, tmp_path / "no.md", tmp_path / "out", "mit", [])
    with pytest.raises(ExportError, match="is not an export"):
        main(tmp_path, card, tmp_path / "out", "mit", [])
    assert list(tmp_path.iterdir()) == []
    assert set(SUFFIXES) == {"float32", "float16", "int8"}
