"""Exports side by side: the order of timed calls, and answers that depend on their batch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization import quantize_dynamic

from albef.release.gate import ReleaseConfig
from albef.release.measuring import batch_effect, main_call, medians, numbers
from albef.runtime.loading import load
from albef.runtime.manifest import graph_file
from albef.runtime.sessions import Sessions
from albef.serving.routes.calls import CALLS
from tests.conftest import KINDS, tiny_records


def test_calls_take_turns_in_changing_order() -> None:
    order: list[str] = []
    found = medians([lambda: order.append("a"), lambda: order.append("b")])
    assert len(found) == 2
    assert order[:8] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert order.count("a") == order.count("b") > 20


BOUND = ReleaseConfig.model_fields["max_batch_effect"].default


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_does_not_depend_on_its_batch(
    kind: str, tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    rng = np.random.default_rng(0)
    for precision in ("float32", "int8"):
        model = load(tiny_exports[kind], precision=precision, threads=1)
        some = [
            replace(record, captions=(" ".join(record.captions[0].split()[: 1 + i]),))
            for i, record in enumerate(tiny_records(kind, pictures, "test", 7))
        ]
        assert len(main_call(model, some)()) == 7
        assert model.calls <= CALLS.keys()
        alone = [numbers(model, [record])[0] for record in some]
        for count in (1, 5, 40):
            chosen = rng.integers(len(some), size=count)
            for place, row in zip(chosen, numbers(model, [some[i] for i in chosen]), strict=True):
                np.testing.assert_allclose(row, alone[place], rtol=0, atol=BOUND)
        assert np.ptp(alone[0]) > 0.01
        assert batch_effect(model, some) <= BOUND


def test_ranges_of_a_batch_are_noticed(
    tiny_export: Path, pictures: list[bytes], tmp_path: Path
) -> None:
    for graph in ("image_encoder", "text_encoder", "matcher"):
        made = tmp_path / graph_file("int8", graph)
        made.parent.mkdir(parents=True)
        source, products = tiny_export / graph_file("float32", graph), ["MatMul", "Gemm"]
        quantize_dynamic(source, made, op_types_to_quantize=products)
    model = load(tiny_export)
    model.backend = Sessions(tmp_path, "int8", ("image_encoder", "text_encoder", "matcher"))
    assert batch_effect(model, tiny_records("retrieval", pictures, "test", 7)) > BOUND
