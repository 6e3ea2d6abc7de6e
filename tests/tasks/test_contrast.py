"""Training by contrast alone, and final scores that add the similarity to ITM's margin."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from albef.commands.find import find
from albef.config import ParamsError, validate
from albef.data.shards import Shards
from albef.export.graphs import parts
from albef.export.torch_model import model_of
from albef.metrics import ranking
from albef.models.weights import load_checkpoint
from albef.preprocessing.text import TextTokenizer
from albef.runtime.matching import as_matching
from albef.tasks import pretraining
from albef.tasks.ranking import WEIGHTS, ranked
from albef.tasks.retrieval import Task
from tests.conftest import ANSWERS, CAPTIONS, save_task, tiny_config, tiny_model, tiny_task
from tests.data import toy
from tests.tasks.test_predict_exported import records_of
from tests.tasks.test_ranking import ROWS, expected_ranks
from tests.tasks.test_retrieval import batch


def scores_of(seed: int) -> tuple[Tensor, Tensor]:
    sim, itm = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(seed))
    return sim, itm


@pytest.mark.parametrize("weight", [0.0, 0.5, 8.0, None])
def test_a_weight_adds_the_similarity_to_the_margin(weight: float | None) -> None:
    sim, itm = scores_of(0)
    calls: list[Tensor] = []

    def match(pairs: Tensor) -> Tensor:
        calls.append(pairs)
        return itm

    table = ranked(ROWS, sim, None, match, weight)
    final = sim if weight is None else itm + weight * sim
    assert table["rank"] == expected_ranks(final)
    assert table["rank_itc"] == expected_ranks(sim)
    assert len(calls) == 1
    if weight != 0:
        assert table["rank_itm"] == expected_ranks(itm)
    else:
        assert "rank_itm" not in table


def test_candidates_that_are_not_ranked_again_stay_below_the_others() -> None:
    sim, itm = scores_of(1)
    table = ranked(ROWS, sim, 2, lambda pairs: itm.masked_fill(~pairs, -100.0), 1.0)
    assert max(map(len, table["top"])) == 2
    queries = [sim[i] for i in range(5)] + [sim[:, t] for t in range(8)]
    for own, top in zip(queries, table["top_itc"], strict=True):
        assert len(top) == len(own)
    assert table["rank_itc"] == expected_ranks(sim)


def records(count: int, pictures: list[bytes]) -> list[Any]:
    return records_of("retrieval", pictures)[:count]


def test_the_weight_that_ranks_a_split_best_is_chosen(
    pictures: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rows = records(12, pictures)
    task = tiny_task(itc_weight="auto", rerank_k=None)
    chosen = task.choose_weight(rows, 8)
    means = {}
    for weight in (None, *WEIGHTS):
        task.itc_weight = weight or (weight if weight is None else 1e-9)  # ITM's margin alone
        means[weight] = ranking.score(table := task.predict(rows, 8))["r_mean"]
        if weight is None:
            assert table["rank"] == table["rank_itc"]
        else:
            assert ranking.score(table)["itc_r_mean"] == means[None]
    assert chosen == max(means, key=lambda weight: means[weight]), means
    for weight, mean in means.items():
        name = f"{weight:g} x similarity" if weight else "contrast" if weight is None else "ITM"
        assert re.search(rf"{name}[a-z ]* {mean:.2f}", caplog.text)


@pytest.mark.parametrize(("helps", "expected"), [(True, 0.0), (False, None)])
def test_itm_is_used_only_where_it_helps(
    helps: bool, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ITM that is always right and contrast that is always wrong, and the other way round."""
    task = tiny_task(itc_weight="auto", rerank_k=None)
    right = torch.tensor([[float(row.image_id == other.image_id) for other in ROWS
                           for _ in other.captions] for row in ROWS])  # fmt: skip
    good, bad = 100 * right, -100 * right
    sim, itm = (bad, good) if helps else (good, bad)
    monkeypatch.setattr(task, "embed_images", lambda *given: (ROWS, sim, []))
    monkeypatch.setattr(task, "_compared", lambda *given: (sim, lambda pairs: itm))
    monkeypatch.setattr(task, "judge", lambda records: None)  # The records have no images.
    task.choose(ROWS, 4)
    assert task.itc_weight == expected
    assert task.facts() == ({} if helps else {"itc_weight": None})


def test_the_chosen_weight_is_kept_restored_and_exported(
    pictures: list[bytes], tmp_path: Path
) -> None:
    rows = records(20, pictures)
    for weight in (2.0, None):
        task = tiny_task(itc_weight="auto", rerank_k=4)
        task.itc_weight = weight
        folder = save_task(task, tmp_path / str(weight))
        assert json.loads((folder / "config.json").read_text())["facts"] == {"itc_weight": weight}
        checkpoint = load_checkpoint(folder)
        again = Task.restore(tiny_config(itc_weight="auto", rerank_k=4), checkpoint).eval()
        assert again.itc_weight == weight
        assert Task.blank(task.config, checkpoint).itc_weight == weight
        facts = parts(checkpoint).facts
        assert (facts.itc_weight, facts.itm) == (weight, True)
        expected, model = task.predict(rows, 7), model_of(checkpoint)
        assert again.predict(rows, 7) == expected
        assert again.predict(rows, 32, model) == expected
        fresh = Task.start(tiny_config(itc_weight="auto"), checkpoint)
        assert fresh.itc_weight == 0.0, "another run chooses its own"


@pytest.mark.parametrize("weight", [0.5, 4.0, None])
def test_the_runtime_ranks_as_torch_does(
    weight: float | None, pictures: list[bytes], tmp_path: Path
) -> None:
    rows = records(12, pictures)
    task = tiny_task(itc_weight=0.5, rerank_k=None)
    task.itc_weight = weight
    model = as_matching(model_of(load_checkpoint(save_task(task, tmp_path))), "it")
    table = task.predict(rows, 6)
    images, texts = [row.image for row in rows], [row.captions[0] for row in rows]
    similarities = model.embed_image(images) @ model.embed_text(texts).T
    for i, image in enumerate(images):
        logits = model.match_logits([image] * len(texts), texts)
        scores = model.rank_scores(logits[:, 1] - logits[:, 0], similarities[i])
        order = [texts[j] for j in np.argsort(-scores)[:10]]
        assert table["top"][i] == order


CONTRAST: dict[str, Any] = {"itm": False, "momentum": 0.0, "queue_size": 0}


def test_without_itm_fusion_learns_nothing_and_contrast_ranks(pictures: list[bytes]) -> None:
    task = tiny_task(**CONTRAST).train()
    out = task(batch(task), 0.0)
    torch.testing.assert_close(out["loss"].detach(), out["itc"])
    assert "itm" not in out
    out["loss"].backward()
    learned = {name for name, p in task.named_parameters() if p.grad is not None}
    assert not any("fusion" in name or "itm_head" in name for name in learned)
    assert {name for name, p in task.named_parameters() if p.requires_grad} == learned
    table = task.eval().predict(records(8, pictures), 4)
    assert table["rank"] == table["rank_itc"]
    task.choose(records(8, pictures), 4)
    assert (task.judges, task.facts()) == (False, {})


@pytest.mark.parametrize("weight", ["auto", 0.0, 2.0])
def test_a_model_of_contrast_alone_refuses_to_match_and_finds(
    weight: object, pictures: list[bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "toy"
    images = records(6, pictures)
    toy.write(folder, [replace(row, split="test") for row in images])
    task = tiny_task(**CONTRAST, itc_weight=weight)
    model = as_matching(model_of(load_checkpoint(save_task(task, tmp_path / "model"))), "it")
    assert not model.facts.itm
    assert not model.reranks
    assert "match" not in model.calls
    with pytest.raises(ValueError, match=r"itm: false.*embed_image"):
        model.match([images[0].image], ["a dog"])
    hits = find(model, Shards(folder, "test"), "two apples", 4, tmp_path)
    assert [hit.probability for hit in hits] == [None] * 4
    similarities = [hit.similarity for hit in hits]
    assert similarities == sorted(similarities, reverse=True)
    table = task.predict(images, 4)
    assert task.predict(images, 4, model)["rank"] == table["rank"]


def test_a_training_needs_a_loss() -> None:
    with pytest.raises(ParamsError, match=r"itc.*itm"):
        tiny_config(itm=False, itc=False)
    with pytest.raises(ParamsError, match="itm"):
        pretraining_config(itm=False, itc=False, mlm=False)
    with pytest.raises(ParamsError, match="itm"):
        tiny_config("grounding", itm=False)
    further: dict[str, Any] = {"wpa": 1.0, "exchanged": [["a", "two"]]}
    for name, value in further.items():
        with pytest.raises(ParamsError, match=f"{name} needs itm"):
            tiny_config("retrieval", itm=False, **{name: value})


def gradients(task: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    task.train()
    task.zero_grad()
    task(given, 1.0)["loss"].backward()
    return {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


def test_without_momentum_both_towers_learn_from_the_features_of_the_batch() -> None:
    task = tiny_task(**CONTRAST)
    given = batch(task)
    grads = gradients(task, given)
    assert grads["model.image_proj.weight"].abs().sum() > 0
    assert grads["model.text_proj.weight"].abs().sum() > 0
    model = task.model
    image = model.image_feat(model.encode_image(given["image"]))
    text = model.text_feat(model.encode_text(given["ids"], given["text_mask"]))
    sim = image @ text.T / task.temperature
    labels = torch.arange(len(sim))
    cross_entropy = torch.nn.functional.cross_entropy
    loss = (cross_entropy(sim, labels) + cross_entropy(sim.T, labels)) / 2
    torch.testing.assert_close(task(given, 1.0)["itc"], loss.detach())
    task.zero_grad()
    loss.backward()
    for name, parameter in task.named_parameters():
        if parameter.grad is not None and name in grads:
            torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_dropout_of_projections_is_on_in_training_only() -> None:
    task = tiny_task(projection_dropout=0.5)
    states = torch.randn(4, 5, 24)
    assert torch.equal(task.model.image_feat(states), task.model.image_feat(states))
    assert torch.equal(task.model.image_feat(states), tiny_task().model.image_feat(states))
    task.train()
    assert not torch.equal(task.model.image_feat(states), task.model.image_feat(states))
    momentum = task.model_m.model
    assert torch.equal(momentum.image_feat(states), momentum.image_feat(states))


def pretraining_config(**changed: object) -> pretraining.Config:
    values = {
        "dataset": "x", "epochs": 1, "global_batch_size": 4, "precision": "float32", "lr": 1e-3,
        "warmup_steps": 0, "max_tokens": 8, "queue_size": 8, "model": tiny_model().model_dump(),
        **changed,
    }  # fmt: skip
    return validate(pretraining.Config, values, where="tests")


@pytest.mark.parametrize("itm", [True, False])
def test_pretraining_without_mlm_has_no_loss_of_it(itm: bool, pictures: list[bytes]) -> None:
    torch.manual_seed(0)
    tokenizer = TextTokenizer.train([*CAPTIONS, *ANSWERS], 80)
    task = pretraining.Task(pretraining_config(mlm=False, itm=itm), tokenizer).train()
    resize: Callable[..., Any] = task.resize.pixels
    collate = task.collate(lambda image, rng, key="": resize(image, key))
    given = collate(records(4, pictures), np.random.default_rng(0))
    out = task(given | {"image": task.pixels(given["image"])}, 1.0)
    assert "mlm" not in out
    total = out["itc"] + (out["itm"] if itm else 0)
    torch.testing.assert_close(out["loss"].detach(), total)
    out["loss"].backward()
    for name, parameter in task.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert all(p.requires_grad is itm for p in task.model.fusion_encoder.parameters())
