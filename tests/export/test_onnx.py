from pathlib import Path

import onnx
import pytest

import albef
from albef.runtime.manifest import GRAPHS, graph_file


@pytest.mark.parametrize("graph", GRAPHS)
def test_graph_bears_no_trace_of_its_making(tiny_export: Path, graph: str) -> None:
    path = tiny_export / graph_file(graph)
    model = onnx.load(path)
    notes = [model.metadata_props, model.graph.metadata_props]
    parts = (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output)
    notes += [part.metadata_props for part in parts]
    assert not any(notes)
    assert model.producer_version == ""
    content = path.read_bytes()
    for word in (b"site-packages", b".py", str(Path(albef.__file__).parent).encode()):
        assert word not in content


def test_batch_and_text_length_are_dynamic(tiny_export: Path) -> None:
    axes = {}
    for graph in GRAPHS:
        model = onnx.load(tiny_export / graph_file(graph))
        for value in (*model.graph.input, *model.graph.output):
            dims = value.type.tensor_type.shape.dim
            axes[graph, value.name] = [dim.dim_param or dim.dim_value for dim in dims]
    assert axes == {
        ("image_encoder", "image"): ["batch", 3, 16, 16],
        ("image_encoder", "image_states"): ["batch", 5, 24],
        ("image_encoder", "image_feat"): ["batch", 8],
        ("text_encoder", "ids"): ["batch", "length"],
        ("text_encoder", "text_mask"): ["batch", "length"],
        ("text_encoder", "text_states"): ["batch", "length", 16],
        ("text_encoder", "text_feat"): ["batch", 8],
        ("matcher", "text_states"): ["batch", "length", 16],
        ("matcher", "text_mask"): ["batch", "length"],
        ("matcher", "image_states"): ["batch", 5, 24],
        ("matcher", "logits"): ["batch", 2],
    }
