"""What the kinds that classify promise: starts, predictions, errors."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from albef.config import validate
from albef.data.record import Record
from albef.models.original import original_name
from albef.models.weights import Checkpoint, CheckpointError
from albef.preprocessing.text import TextTokenizer
from albef.preprocessing.transforms import AugmentConfig, Transform
from albef.tasks import entailment, nlvr2, pretraining, text_assignment
from albef.tasks.classification import RecordError
from tests import original
from tests.conftest import CAPTIONS, tiny_model
from tests.data import toy
from tests.tasks.test_pretraining_parity import config as pretraining_config

SURGERY = json.loads((Path(__file__).parents[1] / "fixtures" / "surgery.json").read_text())


def name_of(kind: ModuleType) -> str:
    return kind.__name__.rpartition(".")[2]


def config_of(kind: ModuleType, image_size: int = 16) -> Any:
    distilled = {} if kind is text_assignment else {"alpha": 0.4, "momentum": 0.9}
    values = original.run_values(name_of(kind), image_size=image_size, max_tokens=12, **distilled)
    return validate(kind.Config, values, where="test")


def task_of(kind: ModuleType) -> Any:
    torch.manual_seed(0)
    return kind.Task(config_of(kind), tiny_model(), TextTokenizer.train(CAPTIONS, 80)).eval()


def records(kind: ModuleType, count: int = 6) -> list[Record]:
    labels, text = kind.Task.classes, ("two apples above a squid",)
    more = (toy.picture(90),) if kind is nlvr2 else ()
    return [
        toy.record(i, captions=text, meta={"label": labels[i % len(labels)]}, more=more)
        for i in range(count)
    ]


def checkpoint_of(kind: str, task: Any, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
    return Checkpoint(Path("models/x"), kind, task.sizes, {}, dict(tensors), task.tokenizer)


def pretrained(depth: int = 4, fusion_depth: int = 2) -> Checkpoint:
    """A pre-training checkpoint in which no two tensors are alike."""
    sizes = tiny_model()
    text = sizes.text.model_copy(update={"depth": depth, "fusion_depth": fusion_depth})
    sizes = sizes.model_copy(update={"text": text})
    config = pretraining_config(0.4).model_copy(update={"model": sizes})
    task = pretraining.Task(config, TextTokenizer.train(CAPTIONS, 80))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in task.state_dict().items()
    }
    return Checkpoint(Path("models/pretrained"), "pretraining", sizes, {}, tensors, task.tokenizer)


@pytest.mark.parametrize("kind", [entailment, text_assignment, nlvr2])
def test_a_start_takes_what_the_original_takes_from_where_it_takes_it(kind: ModuleType) -> None:
    init = pretrained(depth=12, fusion_depth=6)
    task = kind.Task.start(config_of(kind), init)
    state, names = task.state_dict(), original.names(task, name_of(kind), 6)
    sources = {original_name(name, "pretraining", 6): name for name in init.tensors}
    # The original goes to NLVR2 by way of text assignment, and ours may go straight.
    loaded = SURGERY["entailment" if kind is entailment else "text_assignment"]["loaded"]
    layers = {target: source for target, source in loaded.items() if ".layer." in target}
    student = [n for n, ours in names.items() if ours.startswith("model.")]
    momentum_model = [n for n, ours in names.items() if ours.startswith("model_m.")]
    for name in student + (momentum_model if kind is entailment else []):
        plain = name.replace("text_encoder_m.", "text_encoder.")
        prefix = next((p for p in layers if plain.startswith(p)), "")
        source = layers[prefix] + plain.removeprefix(prefix) if prefix else plain
        source = re.sub(r"^text_encoder\.(?!bert)", "text_encoder.bert.", source)
        if plain != name:
            source = source.replace("text_encoder.", "text_encoder_m.")
        assert torch.equal(state[names[name]], init.tensors[sources[source]]), name
    fresh = {names[name] for name in SURGERY[name_of(kind)]["fresh"]}
    assert {name for name in state if name.startswith("head")} == fresh


def test_nlvr2_starts_from_text_assignment_with_its_own_head() -> None:
    assigned = text_assignment.Task.start(config_of(text_assignment), pretrained())
    init = checkpoint_of("text_assignment", assigned, assigned.state_dict())
    task = nlvr2.Task.start(config_of(nlvr2), init)
    state = task.state_dict()
    for name, tensor in assigned.state_dict().items():
        assert name.startswith("head.") or torch.equal(state[name], tensor), name
    assert task.head[-1].out_features == 2
    # A departure: the original copies the model to the momentum model before it loads the weights.
    for mine, theirs in zip(task.model.parameters(), task.model_m.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_doubled_model_does_not_fit_entailment() -> None:
    assigned = task_of(text_assignment)
    init = checkpoint_of("text_assignment", assigned, assigned.state_dict())
    with pytest.raises(CheckpointError, match="models/x does not fit"):
        entailment.Task.start(config_of(entailment), init)


def test_predictions_and_their_score() -> None:
    task, asked = task_of(entailment), records(entailment)
    table, classes = task.predict(asked, 4), task.classes
    assert table["answer"] == [record.meta["label"] for record in asked]
    best = np.argmax(table["probabilities"], axis=1)
    assert table["predicted"] == [classes[i] for i in best]
    known = {**table, "answer": [classes[0], classes[0], classes[1]]}
    known["predicted"] = [classes[0], classes[1], classes[1]]
    rates = {"accuracy": 200 / 3, f"accuracy_{classes[0]}": 50, f"accuracy_{classes[1]}": 100}
    metrics, chance = task.validate(known)
    assert metrics == pytest.approx(rates)
    assert chance == pytest.approx(100 / 3)


def test_each_image_is_augmented_on_its_own() -> None:
    asked, rng = records(nlvr2), np.random.default_rng(0)
    transform = Transform(AugmentConfig(flip=True, crop=(0.3, 0.6), randaugment=7), 16)
    batch = task_of(nlvr2).collate(transform)(asked, np.random.default_rng(0))
    assert batch["image"].shape == (6, 2, 3, 16, 16)
    assert batch["label"].tolist() == [0, 1] * 3
    for record, images in zip(asked, batch["image"], strict=True):
        for one, tensor in zip(record.images, images, strict=True):
            assert np.array_equal(transform(one, rng, record.key), tensor.numpy())


def test_a_record_without_a_class_is_named() -> None:
    for meta, what in (({"label": True}, "True"), ({}, "None")):
        bad = toy.record(7, meta=meta)
        said = f"toy-0007: label in meta must be 'False' or 'True', got {what}"
        with pytest.raises(RecordError, match=said):
            nlvr2.Task.answer(bad)


def test_a_record_of_another_shape_is_named() -> None:
    single, pair = records(entailment)[0], records(nlvr2)[0]
    with pytest.raises(RecordError, match="toy-0000 has 2 images, but this kind needs 1"):
        task_of(entailment).predict([pair], 4)
    with pytest.raises(RecordError, match="toy-0000 has 1 images, but this kind needs 2"):
        task_of(nlvr2).predict([single], 4)
    two = toy.record(3, captions=("a", "b"), meta=single.meta)
    with pytest.raises(RecordError, match="toy-0003 has 2 captions"):
        task_of(entailment).predict([two], 4)
