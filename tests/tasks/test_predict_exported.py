"""A model as it is put to use predicts what the task does that was evaluated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import albef
from albef.data.record import Record
from albef.export.torch_model import model_of
from albef.models.weights import load_checkpoint
from albef.tasks import ranking
from tests.conftest import ANSWERS, CAPTIONS, save_task, tiny_task
from tests.data.toy import picture


def records_of(kind: str, pictures: list[bytes]) -> list[Record]:
    """Forty records that a kind of run can be asked about."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(40):
        meta: dict[str, Any] = {}
        if kind.startswith("vqa"):
            meta = {"answers": {ANSWERS[i % 5]: 1.0}, "type": "what"}
        elif kind == "entailment":
            meta = {"label": ("contradiction", "neutral", "entailment")[i % 3]}
        elif kind == "nlvr2":
            meta = {"label": ("False", "True")[i % 2]}
        elif kind == "grounding":
            meta = {"box": [1, 1, 9, 9], "proposals": [[0, 0, 8, 8], [2, 2, 12, 12]]}
        # Equal captions would have equal scores, whose order rounding decides.
        words = " ".join(rng.permutation([*CAPTIONS[i % 4].split(), ANSWERS[i % 5]]))
        own = i if kind == "retrieval" else i % 5  # else several records of a picture
        image = picture(i, (16, 16)) if kind == "retrieval" else pictures[own]
        more = (pictures[i % 3],) if kind == "nlvr2" else ()
        records.append(Record(f"k{i}", image, (words,), own, "test", "made", meta, more))
    return records


@pytest.mark.parametrize("kind", ["retrieval", "vqa", "vqa written", "nlvr2"])
def test_the_same_table_as_the_task(
    kind: str, tiny_exports: dict[str, Path], pictures: list[bytes], tmp_path: Path
) -> None:
    own = {"answering": "generate", "beams": 3} if kind == "vqa written" else {}
    task, records = tiny_task(kind.split()[0], **own), records_of(kind, pictures)
    if own:
        model: Any = model_of(load_checkpoint(save_task(task, tmp_path)))
    else:
        model = albef.runtime.load(tiny_exports[kind])
    expected, found = task.predict(records, 7), task.predict(records, 32, model)
    assert found.keys() == expected.keys()
    for column, values in expected.items():
        if column in ("probability", "probabilities"):
            np.testing.assert_allclose(found[column], values, rtol=1e-4, atol=1e-6)
        else:
            assert found[column] == values, column
    assert len({str(row) for row in zip(*expected.values(), strict=True)}) > 5


def test_states_of_a_large_split_are_computed_again(
    tiny_exports: dict[str, Path], pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, records = tiny_task(), records_of("retrieval", pictures)
    model = albef.runtime.load(tiny_exports["retrieval"])
    kept = task.predict(records, 7), task.predict(records, 7, model)
    monkeypatch.setattr(ranking, "KEPT", 0)
    assert kept == (task.predict(records, 7), task.predict(records, 7, model))


def test_it_judges_texts_as_the_task_does(pictures: list[bytes], tmp_path: Path) -> None:
    task, records = tiny_task(), records_of("retrieval", pictures)
    model = model_of(load_checkpoint(save_task(task, tmp_path)))
    pairs = [(i // 2, f"{CAPTIONS[i % 4]} {'a dog' * (i % 3)}") for i in range(37)]
    found = task.agreement(records, pairs, 32, model)
    np.testing.assert_allclose(found, task.agreement(records, pairs, 7), rtol=1e-4, atol=1e-6)
    assert len(set(found)) > 20


def test_without_gradcam_torch_and_export_read_the_same_attention(
    pictures: list[bytes], tmp_path: Path
) -> None:
    task, records = tiny_task("grounding", gradcam=None), records_of("grounding", pictures)
    model = model_of(load_checkpoint(save_task(task, tmp_path)))
    exported, table = task.predict(records, 32, model), task.predict(records, 8)
    assert exported["box"] == table["box"]
    boxes = [record.meta["proposals"] for record in records]
    found = model.ground([r.image for r in records], [r.captions[0] for r in records], boxes)
    assert [boxes[i][one.best or 0] for i, one in enumerate(found)] == table["box"]
    heats = [
        [np.frombuffer(heat, np.uint8).astype(int) for heat in t["heat"]] for t in (exported, table)
    ]
    np.testing.assert_allclose(*heats, atol=1)
    assert table["heat"] != tiny_task("grounding").predict(records, 8)["heat"]
    assert task.gradient == ""


def test_an_exported_model_never_writes_a_mark(pictures: list[bytes], tmp_path: Path) -> None:
    """With logits that would write [CLS] and [PAD] at every step."""
    task, records = tiny_task("vqa", answering="generate"), records_of("vqa", pictures)[:6]
    marks = [task.tokenizer.cls_id, task.tokenizer.pad_id]
    with torch.no_grad():
        task.answer_decoder.head.bias[marks] += 20
    model: Any = model_of(load_checkpoint(save_task(task, tmp_path)))
    expected, found = task.predict(records, 6), task.predict(records, 6, model)
    assert found["answer"] == expected["answer"]
    assert len(set(found["answer"])) > 1
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-4)
    assert max(found["probability"]) < 1e-6  # the marks have the rest
