import dataclasses
import math
from pathlib import Path

import pytest

from albef.export.graphs import parts
from albef.export.torch_model import TorchBackend
from albef.export.verify import Difference, Shape, VerificationError, compare, shapes, verify
from albef.models.weights import load_checkpoint
from albef.runtime.sessions import CPU, Sessions
from tests.conftest import KINDS


def test_shapes_cover_one_many_short_and_full() -> None:
    for max_tokens in (1, 2, 12, 30):
        found = shapes(max_tokens)
        assert len(set(found)) >= 4
        assert {(1, 1, max_tokens), (2, 1, 1)} <= set(found)
        assert max(shape.texts for shape in found) >= 8
        assert all(1 <= shape.length <= max_tokens for shape in found)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_computes_what_torch_does(
    kind: str, tiny_checkpoints: dict[str, Path], tiny_exports: dict[str, Path]
) -> None:
    checkpoint = load_checkpoint(tiny_checkpoints[kind])
    own, words = parts(checkpoint), checkpoint.tokenizer.vocab_size
    exported = Sessions(tiny_exports[kind], "float32", [*own.graphs], [CPU])
    other = [Shape(1, 3, 2), Shape(4, 2, 11), Shape(7, 1, 6)]
    differences = list(compare(own.graphs, TorchBackend(own), exported, other, words))
    assert len(differences) == 3 * len([*own.graphs])
    assert 0 < max(difference.largest for difference in differences) < 1e-4


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


def test_no_number_is_refused() -> None:
    with pytest.raises(VerificationError, match="matcher differs from torch by inf"):
        verify([Difference("matcher", Shape(3, 1, 7), math.inf)], 1.0)


def test_manifest_holds_a_bound_and_not_the_figure() -> None:
    differences = [
        Difference("matcher", Shape(1, 1, 7), 3.2e-6),
        Difference("matcher", Shape(2, 1, 1), 9.9e-7),
        Difference("text_encoder", Shape(1, 1, 7), 0.0),
    ]
    verified = verify(differences, 1e-3)
    assert verified.below == {"matcher": 1e-5, "text_encoder": 1e-8}
    assert verified.shapes == [(1, 1, 7), (2, 1, 1)]
