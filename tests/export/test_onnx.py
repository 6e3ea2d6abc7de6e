import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import albef
from albef.export.graphs import parts
from albef.export.onnx import convert, example
from albef.models.weights import load_checkpoint
from albef.runtime.manifest import graph_file
from albef.runtime.sessions import CPU, Sessions


def test_graphs_bear_no_trace_of_their_making(tiny_export: Path) -> None:
    for path in tiny_export.rglob("*.onnx"):
        model = onnx.load(path)
        notes = [model.metadata_props, model.graph.metadata_props]
        values = (*model.graph.initializer, *model.graph.input, *model.graph.output)
        notes += [part.metadata_props for part in (*model.graph.node, *values)]
        assert not any(notes)
        assert model.producer_version == ""
        content = path.read_bytes()
        for word in (b"site-packages", b".py", str(Path(albef.__file__).parent).encode()):
            assert word not in content


GRAPHS = ("image_encoder", "text_encoder", "matcher")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_batch_texts_and_length_are_named_dynamic_axes(tiny_export: Path, precision: str) -> None:
    axes = {}
    for graph in GRAPHS:
        model = onnx.load(tiny_export / graph_file(precision, graph))
        for value in (*model.graph.input, *model.graph.output):
            dims = value.type.tensor_type.shape.dim
            axes[value.name] = [dim.dim_param or dim.dim_value for dim in dims]
    assert axes == {
        "image": ["batch", 3, 16, 16],
        "image_keys": ["batch", 2, 2, 5, 8],
        "image_values": ["batch", 2, 2, 5, 8],
        "image_feat": ["batch", 8],
        "ids": ["batch", "length"],
        "text_mask": ["batch", "texts", "length"],
        "text_states": ["batch", "texts", "length", 16],
        "text_feat": ["batch", 8],
        "logits": ["batch", "texts", 2],
    }


def test_half_precision_computes_about_the_same(
    tiny_checkpoint: Path, tiny_export: Path, tmp_path: Path
) -> None:
    graphs = parts(load_checkpoint(tiny_checkpoint)).graphs
    shutil.copytree(tiny_export / "float32", tmp_path / "float32")
    for graph in graphs:
        convert(tmp_path, graph, "float16")
        half, full = (tmp_path / graph_file(bits, graph) for bits in ("float16", "float32"))
        assert half.stat().st_size < full.stat().st_size
    sessions = [Sessions(tmp_path, bits, list(graphs), [CPU]) for bits in ("float32", "float16")]
    image = example(graphs["image_encoder"].inputs, {"batch": 3}, 80)[0]
    ids, mask = example(graphs["text_encoder"].inputs, {"batch": 3, "length": 9}, 80)
    logits = []
    for model in sessions:
        seen = model.run("image_encoder", {"image": image})
        read = model.run("text_encoder", {"ids": ids, "text_mask": mask})
        states = {"image_keys": seen["image_keys"], "image_values": seen["image_values"]}
        texts = {"text_states": read["text_states"][:, None], "text_mask": mask[:, None]}
        logits.append(model.run("matcher", {**texts, **states})["logits"])
    assert seen["image_keys"].dtype == read["text_states"].dtype == np.float16
    assert logits[1].dtype == seen["image_feat"].dtype == np.float32
    np.testing.assert_allclose(*logits, atol=0.1)
    assert np.ptp(logits[0]) > 1


def test_eight_bits_are_a_quarter_of_the_size_and_close(
    tiny_export: Path, pictures: list[bytes]
) -> None:
    full, small = (albef.runtime.load(tiny_export, precision=bits) for bits in ("float32", "int8"))
    cosine = (full.embed_image(pictures) * small.embed_image(pictures)).sum(axis=1)
    assert cosine.min() > 0.95
    assert not np.array_equal(full.embed_image(pictures), small.embed_image(pictures))
