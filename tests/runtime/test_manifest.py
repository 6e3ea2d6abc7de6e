import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx.external_data_helper import set_external_data

import albef
from albef.io import file_digest
from albef.runtime import manifest
from albef.runtime.manifest import ExportError
from tests.data.toy import flip

GRAPHS = ("image_encoder", "text_encoder", "matcher")
FILES = [manifest.TOKENIZER, *(manifest.graph_file("float32", graph) for graph in GRAPHS)]


@pytest.fixture
def copy(tiny_export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_export, tmp_path / "retrieval"))


def test_says_what_the_export_is(tiny_export: Path, tiny_checkpoint: Path) -> None:
    found = manifest.read(tiny_export)
    model = found.model
    assert (model.kind, model.capability) == ("retrieval", "matching")
    assert (model.image_size, model.embed_dim) == (16, 8)
    assert (model.max_tokens, model.max_words) == (12, 30)
    assert (found.run, found.precisions) == ("retrieval", ("float32", "int8"))
    assert found.onnx.opset == 23
    assert found.verified.tolerance == 1e-3
    digest = file_digest(tiny_checkpoint / "model.safetensors")
    assert found.provenance == {
        "checkpoint": digest,
        "data": "0" * 64,
        "dataset": "scenes",
        "seed": 1,
    }


def change(folder: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the manifest of an export says."""
    values = json.loads((folder / manifest.NAME).read_text())
    how(values)
    (folder / manifest.NAME).write_text(json.dumps(values))


def test_a_changed_or_missing_file_is_named(copy: Path) -> None:
    for name in FILES:
        content = (copy / name).read_bytes()
        flip(copy / name)
        with pytest.raises(ExportError, match=f"{name} is not the file that was exported"):
            albef.runtime.load(copy)
        (copy / name).unlink()
        with pytest.raises(ExportError, match=f"{name} is missing"):
            albef.runtime.load(copy)
        (copy / name).write_bytes(content)


def test_no_export_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"holds no export .* run `albef run` first"):
        albef.runtime.load(tmp_path)


def test_a_wrong_manifest_is_refused(copy: Path) -> None:
    right = (copy / manifest.NAME).read_text()
    wrong: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda m: m.update(format=1), "has format 1"),
        (lambda m: m["model"].pop("image_size"), "image_size is missing"),
        (lambda m: m.update(image_sise=3), "image_sise is not a known key"),
        (lambda m: m["model"].update(image_size="16"), "image_size"),
        (
            lambda m: m["model"].update(surface="poetry"),
            "has a model for 'poetry'; this version",
        ),
        (lambda m: m["model"].update(temperature=0.0), "temperature"),
        (lambda m: m["preprocessing"].update(mean=[0.5, 0.5, 0.5]), "another preprocessing"),
        (lambda m: m["files"].pop("float32/matcher/1/model.onnx"), "lists no float32/matcher"),
    ]
    for how, sentence in wrong:
        change(copy, how)
        with pytest.raises(ExportError, match=sentence):
            albef.runtime.load(copy)
        (copy / manifest.NAME).write_text(right)
    for text in ("{", "[]", ""):
        (copy / manifest.NAME).write_text(text)
        with pytest.raises(ExportError, match=manifest.NAME):
            albef.runtime.load(copy)


def test_the_format_before_is_read_though_it_has_no_temperatures(copy: Path) -> None:
    change(copy, lambda m: m.update(format=3))
    change(copy, lambda m: [m["model"].pop(name) for name in ("temperature", "itc_temperature")])
    old = albef.runtime.load(copy)
    assert old.facts.temperature == 1
    assert old.calls == {"embed_image", "embed_text", "match"}
    with pytest.raises(ValueError, match="export the run again"):
        old.zero_shot([], ["a dog"])


def test_a_graph_whose_weights_lie_elsewhere_is_refused(copy: Path) -> None:
    graph = copy / manifest.graph_file("float32", "matcher")
    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        if tensor.name == "itm_head.weight":
            set_external_data(tensor, "../../../weights")
    graph.write_bytes(model.SerializeToString())
    change(copy, lambda m: m["files"].update({str(graph.relative_to(copy)): file_digest(graph)}))
    with pytest.raises(ExportError, match=r"matcher/1/model\.onnx has weights in another file"):
        albef.runtime.load(copy)


def test_a_folder_may_be_deployed_with_one_precision(copy: Path) -> None:
    shutil.rmtree(copy / "float32")
    assert albef.runtime.load(copy, precision="int8").embed_text(["a dog"]).shape == (1, 8)
    with pytest.raises(ExportError, match=r"float32/image_encoder/1/model\.onnx is missing"):
        albef.runtime.load(copy)
    with pytest.raises(ExportError, match="has no precision int4; did you mean int8"):
        albef.runtime.load(copy, precision="int4")
