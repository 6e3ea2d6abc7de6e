"""VQA against numbers of the original code, on its weights; and where its weights start."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from albef.config import validate
from albef.models.albef import ALBEF, ModelConfig
from albef.models.decoder import rank
from albef.models.weights import Checkpoint
from albef.preprocessing.text import TextTokenizer
from albef.tasks import pretraining
from albef.tasks.vqa import Config, Task, fuse
from tests import original
from tests.original import FIXTURES, vocabulary
from tests.tasks.test_pretraining_parity import config as pretraining_config

FIXTURE = original.fixture("vqa")
OUTPUTS = {name.removeprefix("outputs/"): tensor for name, tensor in FIXTURE.items()}
expect = partial(original.expect, OUTPUTS)
START: dict[str, str] = json.loads((FIXTURES / "vqa_start.json").read_text())


def vqa_config(**changed: Any) -> Config:
    values = original.run_values(
        "vqa", alpha=0.4, momentum=0.995, image_size=32, max_tokens=25, answer_list="train",
        max_answers=100, answering="rank", answer_k=6, beams=1,
    )  # fmt: skip
    return validate(Config, values | changed, where="test")


def original_task(alpha: float = 0.4) -> Task:
    sizes = original.fine_tuned_sizes(width=32, heads=2)
    task = Task(vqa_config(alpha=alpha), sizes, vocabulary())
    original.load(task, "vqa", FIXTURE)
    return task.train()


def batch() -> dict[str, Tensor]:
    answers = {"answer_ids": "answer_input_ids", "answer_mask": "answer_attention_mask"}
    count = FIXTURE["inputs/k"]
    owner = torch.arange(len(count)).repeat_interleave(count)
    given = original.inputs(FIXTURE, answer_weights="weights", **answers)
    return given | {"answer_owner": owner}


def fused_by(model: ALBEF) -> Tensor:
    """The fused states of the fixture's questions."""
    given = batch()
    return fuse(model, model.encode_image(given["image"]), given["ids"], given["text_mask"])


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_loss_gradients_and_momentum_model_equal_the_original(alpha: float) -> None:
    task, key = original_task(alpha), f"distill_alpha{alpha:g}"
    task.begin_step()
    output = task(batch(), epoch=1.0)
    output["loss"].backward()
    expect(f"{key}/loss", output["loss"])
    original.compare_state(task, "vqa", FIXTURE, f"outputs/{key}/")
    original.compare_gradients(task, "vqa", FIXTURE, f"outputs/{key}/")


def test_the_ranking_equals_the_original() -> None:
    task, given = original_task().eval(), batch()
    candidates = FIXTURE["inputs/candidate_input_ids"]
    mask = FIXTURE["inputs/candidate_attention_mask"]
    with torch.no_grad():
        fused = fused_by(task.model)
        question = task.answer_decoder.question_key_values(fused)
        start = candidates[:1, :1].expand(3, 1)
        first = task.answer_decoder(start, torch.ones_like(start), question, given["text_mask"])
    expect("rank/first_token_logits", first[:, 0])
    places, shares = rank(task.answer_decoder, fused, given["text_mask"], candidates, mask, 6)
    expected = FIXTURE["outputs/rank/topk_ids"], FIXTURE["outputs/rank/topk_probs"]
    assert torch.equal(places, expected[0])
    torch.testing.assert_close(shares, expected[1], rtol=1e-3, atol=1e-12)


def test_answers_end_with_their_mark_and_questions_do_not() -> None:
    """``yes[SEP]`` of the original."""
    made = TextTokenizer.train(["ab cd ef", "ab cd"], 60)
    a, c, e = (made.tokenizer.token_to_id(text) for text in ("ab", "cd", "ef"))
    ids, mask = made.encode(["ab", "cd ef ab cd"], 4, end=True)
    assert ids.tolist() == [[2, a, 3, 0], [2, c, e, 3]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert made.encode(["ab"], 4)[0].tolist() == [[2, a]]
    assert made.decode([2, c, e, 3, 0]) == "cd ef"


def test_every_weight_starts_where_the_originals_does() -> None:
    """Twelve layers of text, as in the original, so that its map of names applies as it is."""
    sizes = original.fine_tuned_sizes(width=32, heads=2).model_dump()
    sizes["text"] |= {"depth": 12, "fusion_depth": 6}
    values = pretraining_config(0.4).model_dump() | {"model": sizes}
    model = validate(ModelConfig, sizes, where="test")
    torch.manual_seed(1)
    before = pretraining.Task(validate(pretraining.Config, values, where="test"), vocabulary())
    with torch.no_grad():
        # Make all tensors differ, also those of the model and the momentum model.
        for parameter in before.parameters():
            parameter.normal_()
    init = Checkpoint(Path("x"), "pretraining", model, {}, before.state_dict(), vocabulary())
    task = Task.start(vqa_config(image_size=48), init)
    mine, checked = task.state_dict(), set()
    ours = original.names(task, "vqa", 6)
    theirs = original.names(before, "pretraining", 6)
    for target, source in START.items():
        for suffix in ("", "_m"):
            to, origin = (re.sub(r"^(\w+?)\.", rf"\1{suffix}.", name) for name in (target, source))
            if "pos_embed" not in to:  # resized, which has a test of its own
                tensor = init.tensors[theirs[origin]]
                assert torch.equal(mine[ours[to]], tensor), f"{to} is not {origin}"
            checked.add(ours[to])
    unused = {n for n in mine if "image_proj" in n or "text_proj" in n}
    assert set(mine) - checked == unused
