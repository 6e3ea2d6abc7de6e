"""Graphs of encoders of timm and transformers compute what torch computes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from albef.export.graphs import parts
from albef.export.onnx import convert, example, write_graphs
from albef.export.torch_model import TorchBackend
from albef.export.verify import compare, shapes, verify
from albef.models.albef import ModelConfig
from albef.models.weights import load_checkpoint
from albef.preprocessing.text import TextTokenizer
from albef.runtime.sessions import CPU, Sessions
from albef.tasks.retrieval import Task
from tests.conftest import ANSWERS, CAPTIONS, save_task, tiny_config
from tests.models.encoders import IMAGES, TEXTS, image, sizes, text

pytestmark = pytest.mark.slow
MODELS = {
    **{name: ("image_encoder", sizes, {"image": image(name)}) for name in IMAGES},
    **{
        kind: ("text_encoder", sizes, {"text": text(kind), "fusion": {"depth": 1, "width": 24}})
        for kind in TEXTS
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_computes_what_torch_computes(name: str, tmp_path: Path) -> None:
    graph, build, values = MODELS[name]
    model: ModelConfig = build(**values)
    torch.manual_seed(0)
    config: Any = tiny_config(image_size=model.image.image_size)
    task = Task(config, model, TextTokenizer.train([*CAPTIONS, *ANSWERS], 80)).eval()
    made = parts(load_checkpoint(save_task(task, tmp_path / "model")))
    only = {graph: made.graphs[graph]}
    opset = 18 if name == "bert" else 23  # 18 takes attention apart
    write_graphs(only, tmp_path, opset, 80)
    backend = Sessions(tmp_path, "float32", [graph], [CPU], 1)
    differences = compare(only, TorchBackend(made), backend, shapes(12), 80)
    verify(differences, 1e-4)
    arrays = example(only[graph].inputs, {"batch": 4, "length": 9}, 80)
    convert(tmp_path, graph, "int8", [dict(zip(only[graph].inputs, arrays, strict=True))])
    Sessions(tmp_path, "int8", [graph], [CPU], 1)
