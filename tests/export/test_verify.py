import dataclasses
import math
from pathlib import Path

import pytest

import albef
from albef.export.verify import Difference, VerificationError, compare, shapes, verify
from albef.inference import TorchModel
from albef.models.weights import load_checkpoint


@pytest.mark.parametrize("max_tokens", [1, 2, 12, 30])
def test_shapes_cover_one_many_short_and_full(max_tokens: int) -> None:
    found = shapes(max_tokens)
    assert len(set(found)) >= 4
    assert {(1, max_tokens), (2, 1)} <= set(found)
    assert max(batch for batch, _ in found) >= 8
    assert all(1 <= length <= max_tokens for _, length in found)


def test_export_equals_torch(tiny_checkpoint: Path, tiny_export: Path) -> None:
    reference, exported = albef.load(tiny_checkpoint), albef.runtime.load(tiny_export)
    differences = list(compare(reference, exported, shapes(reference.max_tokens)))
    assert len(differences) == 3 * len(shapes(reference.max_tokens))
    assert max(difference.largest for difference in differences) < 1e-4


@pytest.mark.parametrize(
    ("tensor", "graph"),
    [
        ("model.image_proj.bias", "image_encoder"),
        ("model.text_encoder.layer.1.output.dense.bias", "text_encoder"),
        ("itm_head.bias", "matcher"),
    ],
)
def test_another_model_is_refused_by_name(
    tiny_checkpoint: Path, tiny_export: Path, tensor: str, graph: str
) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    changed = checkpoint.tensors[tensor].clone()
    changed[0] += 5
    other = dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, tensor: changed})
    differences = list(
        compare(TorchModel(other, "cpu"), albef.runtime.load(tiny_export), [(1, 3), (2, 4)])
    )
    above = [difference.graph for difference in differences if difference.largest > 1e-3]
    assert above[0] == graph
    with pytest.raises(VerificationError, match=r"differs from torch by .* batch \d and text"):
        verify(differences, 1e-3)


def test_no_number_is_refused() -> None:
    with pytest.raises(VerificationError, match="matcher differs from torch by inf at batch 3"):
        verify([Difference("matcher", 3, 7, math.inf)], 1.0)


def test_manifest_holds_a_bound_and_not_the_figure() -> None:
    differences = [
        Difference("matcher", 1, 7, 3.2e-6),
        Difference("matcher", 2, 1, 9.9e-7),
        Difference("text_encoder", 1, 7, 0.0),
    ]
    verified = verify(differences, 1e-3)
    assert verified.below == {"matcher": 1e-5, "text_encoder": 1e-8}
    assert verified.shapes == [(1, 7), (2, 1)]
