import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import albef
from albef.io import file_digest
from albef.models.weights import CheckpointError
from albef.preprocessing.transforms import STD
from albef.runtime import manifest
from albef.runtime.manifest import ExportError
from tests.data.toy import flip

GRAPHS = ("image_encoder", "text_encoder", "matcher")
FILES = [manifest.TOKENIZER, *(manifest.graph_file("float32", graph) for graph in GRAPHS)]


@pytest.fixture
def copy(tiny_export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_export, tmp_path / "retrieval"))


def change(folder: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the manifest of an export says."""
    values = json.loads((folder / manifest.NAME).read_text())
    how(values)
    (folder / manifest.NAME).write_text(json.dumps(values))


def test_a_changed_or_missing_file_is_named(copy: Path) -> None:
    for name in FILES:
        content = (copy / name).read_bytes()
        flip(copy / name)
        with pytest.raises(ExportError, match=f"{name} was changed"):
            albef.runtime.load(copy)
        (copy / name).unlink()
        with pytest.raises(ExportError, match=f"{name} is missing"):
            albef.runtime.load(copy)
        (copy / name).write_bytes(content)


def test_no_export_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"is not an export: it has no manifest\.json"):
        albef.runtime.load(tmp_path)
    with pytest.raises(ExportError, match="gone is not an export: it does not exist"):
        albef.runtime.load(tmp_path / "gone")


def test_a_checkpoint_and_an_export_name_the_call_that_loads_them(
    tiny_export: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"it is an export; load it with `albef\.runtime"):
        albef.load(tiny_export)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ExportError, match=r"It is a checkpoint; load it with `albef\.load`"):
        albef.runtime.load(tmp_path)


def test_a_wrong_manifest_is_refused(copy: Path) -> None:
    right = (copy / manifest.NAME).read_text()
    wrong: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda m: m.update(format=4), "format 4"),
        (lambda m: m["model"].pop("image_size"), "image_size is missing"),
        (lambda m: m.update(image_sise=3), "image_sise is not a known key"),
        (lambda m: m["model"].update(image_size="16"), "image_size"),
        (lambda m: m["model"].update(surface="poetry"), "capability .poetry."),
        (lambda m: m["model"].update(temperature=0.0), "temperature"),
        (lambda m: m["preprocessing"].update(mean=[0.5, 0.5, 0.5]), "preprocessing"),
        (lambda m: m["files"].pop("float32/matcher/1/model.onnx"), "is not listed in manifest.jso"),
    ]
    for how, sentence in wrong:
        change(copy, how)
        with pytest.raises(ExportError, match=sentence):
            albef.runtime.load(copy)
        (copy / manifest.NAME).write_text(right)
    for text in ("{", "[]", "", "[" * 10**5):
        (copy / manifest.NAME).write_text(text)
        with pytest.raises(ExportError, match=manifest.NAME):
            albef.runtime.load(copy)


def test_a_file_that_the_manifest_does_not_list_is_refused(copy: Path) -> None:
    (copy / ".DS_Store").touch()
    albef.runtime.load(copy)
    (copy / "float32/matcher/1/weights.bin").touch()
    with pytest.raises(ExportError, match=r"weights\.bin is not listed in manifest\.json; remove"):
        albef.runtime.load(copy)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes; its length takes five bytes, which is longer than needed."""
    size = [len(content) >> shift & 0x7F | 0x80 for shift in (0, 7, 14, 21)]
    return bytes([number << 3 | 2, *size, 0]) + content


def test_weights_elsewhere_are_found_however_they_are_encoded(copy: Path) -> None:
    path = copy / manifest.graph_file("float32", "matcher")
    entry = field(13, field(1, b"location") + field(2, b"../../../weights"))
    tensor = field(5, b"\x08\x01" + entry + b"\x70\x01")
    node = field(1, field(5, field(6, tensor)))
    whole = path.read_bytes()
    high_bits = field(7, tensor).replace(b"\x3a", b"\xba\x80\x80\x80\x10", 1)
    functions = field(7, field(15, field(1, entry)))
    for graph in (field(7, tensor), field(7, node), functions, high_bits):
        path.write_bytes(whole + graph)
        digests = {str(path.relative_to(copy)): file_digest(path)}
        change(copy, lambda m, digests=digests: m["files"].update(digests))
        with pytest.raises(ExportError, match=r"matcher/1/model\.onnx has weights in another file"):
            albef.runtime.load(copy)


def test_a_folder_may_be_deployed_with_one_precision(copy: Path) -> None:
    shutil.rmtree(copy / "float32")
    assert albef.runtime.load(copy, precision="int8").embed_text(["a dog"]).shape == (1, 8)
    with pytest.raises(ExportError, match=r"float32/image_encoder/1/model\.onnx is missing"):
        albef.runtime.load(copy)
    with pytest.raises(ExportError, match="has no precision float16; known: float32, int8"):
        albef.runtime.load(copy, precision="float16")


DESCRIBED = """
import { readFileSync } from "node:fs";
import sharp from "sharp";

const [folder, images] = INPUTS;
const { model, preprocessing } = JSON.parse(readFileSync(`${folder}/manifest.json`, "utf8"));
const { background, mean, std, rescale } = preprocessing;
const [r, g, b] = background;
const side = model.image_size;
const pixels = [];
for (const file of images) {
  let image = sharp(file);
  if (preprocessing.orientation === "exif") image = image.rotate();
  const bytes = await image
    .flatten({ background: { r, g, b } })
    .toColourspace("srgb")
    .resize(side, side, { fit: "fill", kernel: "cubic", fastShrinkOnLoad: false })
    .raw()
    .toBuffer();
  const area = side * side;
  const value = (i, c) => (bytes[3 * i + c] * rescale - mean[c]) / std[c];
  pixels.push([0, 1, 2].flatMap((c) => Array.from({ length: area }, (_, i) => value(i, c))));
}
console.log(JSON.stringify(pixels));
"""


@pytest.mark.slow
def test_the_manifest_suffices_to_prepare_images_in_another_language(
    tiny_export: Path, node: Callable[..., Any], tmp_path: Path
) -> None:
    gradient = np.linspace(0, 255, 40 * 24 * 4).reshape(40, 24, 4).astype(np.uint8)
    gradient[..., 1] = gradient[::-1, ::-1, 1]
    gradient[:, :9, 3] = 0
    Image.fromarray(gradient[..., :3]).save(tmp_path / "plain.png")
    Image.fromarray(gradient).save(tmp_path / "transparent.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = {"exif": exif, "quality": 95, "subsampling": 0}
    Image.fromarray(gradient[..., :3]).save(tmp_path / "turned.jpg", **turned)
    images = [str(path) for path in sorted(tmp_path.iterdir())]
    found = node(DESCRIBED.replace("INPUTS", json.dumps([str(tiny_export), images])))
    expected = albef.runtime.load(tiny_export).pixels(images).reshape(len(images), -1)
    differences = np.abs(np.array(found) - expected) * 255 * np.mean(STD)
    assert differences.mean(1).max() < 2, differences.mean(1)
