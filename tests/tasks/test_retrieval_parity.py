"""Our retrieval step and re-ranking against numbers of the original code, on its weights."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from albef.config import validate
from albef.losses.itc import same_image_targets
from albef.models.matching import NOT_RANKED, best, encode_texts, first_rank, match_scores
from albef.models.original import sizes_of
from albef.models.weights import Checkpoint, resize_position_embedding
from albef.tasks import matching
from albef.tasks.rates import recalls
from albef.tasks.retrieval import Config, Task
from tests import original
from tests.conftest import tiny_config
from tests.original import vocabulary
from tests.tasks import argmax_draws as argmax_draws
from tests.tasks import results

FIXTURE = original.fixture("retrieval")
expect = partial(original.expect, FIXTURE)
pytestmark = pytest.mark.usefixtures("argmax_draws")
ORIGINAL = original.weights(FIXTURE)


def original_task(alpha: float) -> Task:
    changed = {"alpha": alpha, "queue_size": 16, "momentum": 0.995, "image_size": 32}
    config = validate(Config, tiny_config().model_dump() | changed, where="test")
    sizes = sizes_of(ORIGINAL, "retrieval", where="fixture", heads=(3, 4))
    text = sizes.text.model_copy(update={"dropout": 0.0})
    sizes = sizes.model_copy(update={"text": text})
    task = Task(config, sizes, vocabulary())
    original.load(task, "retrieval", FIXTURE)
    return task.train()


def batch(ids: str) -> dict[str, Tensor]:
    return original.inputs(FIXTURE, image_id=f"idx_{ids}")


@pytest.mark.parametrize(
    ("key", "alpha", "ids"),
    [
        ("distill_alpha0.4_repeated", 0.4, "repeated"),
        ("distill_alpha0.4_unique", 0.4, "unique"),
        ("nodistill_repeated", 0.0, "repeated"),
    ],
)
def test_losses_gradients_queue_and_momentum_model_equal_the_original(
    key: str, alpha: float, ids: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("itc_loss", "hard_negative_indices", "match_pairs")
    contrasts, mined, matches = (results(monkeypatch, matching, name) for name in names)
    task = original_task(alpha)
    queue_ids = task.queue.ids.clone()
    task.begin_step()
    output = task(batch(ids), epoch=1.0)
    output["loss"].backward()
    task.end_step([output])

    expect(f"{key}/loss_ita", output["itc"])
    expect(f"{key}/loss_itm", output["itm"])
    expect(f"{key}/image_feat_m", output["image_feat_m"])
    expect(f"{key}/text_feat_m", output["text_feat_m"])
    hard = same_image_targets(batch(ids)["image_id"], queue_ids)
    expect(f"{key}/sim_targets_hard", hard)
    (contrast,), (negatives,), (pairs,) = contrasts, mined, matches
    expect(f"{key}/sim_i2t", contrast.sim_i2t)
    expect(f"{key}/sim_t2i", contrast.sim_t2i)
    expect(f"{key}/itm_logits", pairs.logits)
    expect(f"{key}/neg_image_idx_for_text", negatives.image)
    expect(f"{key}/neg_text_idx_for_image", negatives.text)

    original.compare_state(task, "retrieval", FIXTURE, f"{key}/")
    original.compare_gradients(task, "retrieval", FIXTURE, f"{key}/")


def test_the_temperature_is_not_clamped() -> None:
    task = original_task(0.4)
    with torch.no_grad():
        task.temperature.fill_(0.9)
    task.begin_step()
    output = task(batch("unique"), epoch=1.0)
    expect("temp_0.9_not_clamped/loss_ita", output["itc"])
    expect("temp_0.9_not_clamped/loss_itm", output["itm"])
    expect("temp_0.9_not_clamped/temp", task.temperature.detach())


def test_position_embeddings_are_resized_as_in_the_original() -> None:
    for name in ("32to48", "224to256", "256to384", "same_48"):
        expected = FIXTURE[f"pos_embed/outputs/{name}"]
        resized = resize_position_embedding(FIXTURE[f"pos_embed/inputs/{name}"], expected.shape[1])
        torch.testing.assert_close(resized, expected, rtol=1e-5, atol=1e-6)


def test_re_ranking_and_recall_equal_the_original() -> None:
    task = original_task(0.4).eval()
    images, ids = FIXTURE["inputs/eval_image"], FIXTURE["inputs/eval_input_ids"]
    mask = FIXTURE["inputs/eval_attention_mask"]
    image_states = [task.model.encode_image(part) for part in images.split(2)]
    image_feat = torch.cat([task.model.image_feat(part) for part in image_states]).detach()
    text_feat, states = encode_texts(task.model, ids, mask, 3)
    sim = image_feat @ text_feat.t()
    expect("eval/image_feat", image_feat)
    expect("eval/text_feat", text_feat)
    expect("eval/sims", sim)

    chosen = {"i2t": best(sim, 3), "t2i": best(sim.t(), 3)}
    pairs = chosen["i2t"] | chosen["t2i"].t()
    scores = match_scores(task.model, task.itm_head, image_states, states, mask, pairs)
    final = {
        "i2t": scores.masked_fill(~chosen["i2t"], NOT_RANKED),
        "t2i": scores.t().masked_fill(~chosen["t2i"], NOT_RANKED),
    }
    expect("eval/score_i2t", final["i2t"])
    expect("eval/score_t2i", final["t2i"])

    owner = torch.tensor([int(FIXTURE[f"inputs/eval_txt2img/{i}"]) for i in range(7)])
    relevant = owner[None, :] == torch.arange(5)[:, None]
    # Ranks among the re-ranked alone: the original orders the rest as its sort happens to.
    ranks = {
        name: first_rank(final[name], right).tolist()
        for name, right in (("i2t", relevant), ("t2i", relevant.t()))
    }
    ours = recalls(ranks["i2t"], ranks["t2i"])
    for ours_name, theirs in (("tr@1", "txt_r1"), ("ir@1", "img_r1")):
        assert ours[ours_name] == pytest.approx(float(FIXTURE[f"eval/metrics/{theirs}"]))


def test_a_start_from_the_original_takes_all_but_the_queues_ids() -> None:
    task = original_task(0.4)
    tensors = task.state_dict()
    init = Checkpoint(Path("x"), "retrieval", task.sizes, {}, tensors, vocabulary())
    config = task.config.model_copy(update={"image_size": 48})
    started = Task.start(config, init).state_dict()
    assert set(started["queue.ids"].tolist()) == {-100}
    for name in ("model.image_encoder.vit.pos_embed", "model_m.model.image_encoder.vit.pos_embed"):
        expected = FIXTURE["pos_embed/outputs/32to48"]
        assert started.pop(name).shape == expected.shape
    for name, tensor in started.items():
        if name != "queue.ids":
            assert torch.equal(tensor, tensors[name]), name
