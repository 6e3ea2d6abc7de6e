"""Exports side by side: what is timed, in which order, and that equal ones come out equal."""

from dataclasses import replace
from pathlib import Path

import pytest

from albef.export.torch_model import model_of
from albef.models.weights import load_checkpoint
from albef.release.measuring import BATCHES, main_call, measure, medians, size
from albef.runtime.model import CALLS
from tests.conftest import KINDS, tiny_task
from tests.flows.shop import records


def test_an_export_beside_itself(tiny_export: Path) -> None:
    first, second = measure([tiny_export, tiny_export], tiny_task(), records(), threads=1)
    assert list(first) == list(second) == ["float32", "int8"]
    for name, own in first.items():
        assert own.metrics == second[name].metrics
        assert {"r_mean", "itc_r_mean", "tr@1"} < own.metrics.keys()
        assert own.bytes == second[name].bytes == size(tiny_export, name) > 50_000
        assert tuple(own.ms) == BATCHES
        assert min(own.ms.values()) > 0
    assert first.table == second.table
    assert first["int8"].bytes < first["float32"].bytes


def test_calls_take_turns_in_changing_order() -> None:
    order: list[str] = []
    found = medians([lambda: order.append("a"), lambda: order.append("b")])
    assert len(found) == 2
    assert order[:8] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert order.count("a") == order.count("b") > 20


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_call_to_be_timed(kind: str, tiny_checkpoints: dict[str, Path]) -> None:
    model = model_of(load_checkpoint(tiny_checkpoints[kind]))
    two = kind == "nlvr2"
    some = [replace(own, more=(own.image,) if two else ()) for own in records()[:3]]
    assert len(main_call(model, some)()) == 3  # type: ignore[arg-type]
    assert model.calls <= set(CALLS)
