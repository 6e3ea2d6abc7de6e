import dataclasses
import math
from pathlib import Path

import pytest

from albef.export.graphs import parts
from albef.export.torch_model import TorchBackend
from albef.export.verify import Difference, Shape, VerificationError, compare, verify
from albef.models.weights import load_checkpoint
from albef.runtime.sessions import CPU, Sessions


def test_another_model_is_refused_by_name(tiny_checkpoint: Path, tiny_export: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    for tensor, graph in (
        ("model.image_proj.bias", "image_encoder"),
        ("model.text_encoder.layer.1.output.dense.bias", "text_encoder"),
        ("itm_head.bias", "matcher"),
    ):
        changed = checkpoint.tensors[tensor].clone()
        changed[0] += 5
        other = dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, tensor: changed})
        own = parts(other)
        exported = Sessions(tiny_export, "float32", [*own.graphs], [CPU])
        of = [Shape(1, 1, 3), Shape(2, 2, 4)]
        differences = list(compare(own.graphs, TorchBackend(own), exported, of, 80))
        above = {difference.graph for difference in differences if difference.largest > 1e-3}
        assert above == {graph}
        with pytest.raises(VerificationError, match=f"{graph} differs from torch"):
            verify(differences, 1e-3)


def test_manifest_holds_a_bound_and_not_the_figure() -> None:
    with pytest.raises(VerificationError, match="matcher differs from torch by inf"):
        verify([Difference("matcher", Shape(3, 1, 7), math.inf)], 1.0)
    differences = [
        Difference("matcher", Shape(1, 1, 7), 3.2e-6),
        Difference("matcher", Shape(2, 1, 1), 9.9e-7),
        Difference("text_encoder", Shape(1, 1, 7), 0.0),
    ]
    verified = verify(differences, 1e-3)
    assert verified.below == {"matcher": 1e-5, "text_encoder": 1e-8}
    assert verified.shapes == [(1, 1, 7), (2, 1, 1)]
