"""Retrieval without one of its parts, as the rungs of an ablation have it."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import albef
from albef.data.record import Record
from albef.export.graphs import parts
from albef.losses import itm
from albef.metrics import ranking
from albef.models.weights import CheckpointError, load_checkpoint
from albef.preprocessing.text import text_id
from albef.preprocessing.transforms import AugmentConfig, Transform
from albef.tasks import matching
from albef.tasks.matching import START_BIAS
from albef.tasks.ranking import ranked
from albef.training.optim import adamw
from tests.builtin.drawn import draw
from tests.conftest import CAPTIONS, NEEDS_CUDA, save_task, tiny_config, tiny_task
from tests.tasks import results


def batch(task: object) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids, mask = task.texts(CAPTIONS)  # type: ignore[attr-defined]
    image = torch.randn(len(CAPTIONS), 3, 16, 16, generator=generator)
    own = torch.arange(len(CAPTIONS))
    return {"image": image, "ids": ids, "text_mask": mask, "image_id": own}


def test_without_itc_the_loss_is_that_of_matching_and_features_learn_nothing() -> None:
    task = tiny_task(itc=False).train()
    out = task(batch(task), 0.0)
    torch.testing.assert_close(out["loss"].detach(), out["itm"])
    out["loss"].backward()
    assert task.model.image_proj.weight.grad is None
    assert task.temperature.grad is None
    assert task.itm_head.weight.grad is not None


def test_a_run_of_either_contrast_starts_from_the_other_and_the_bias_learns(tmp_path: Path) -> None:
    softmax = load_checkpoint(save_task(tiny_task(), tmp_path / "softmax"))
    config = tiny_config(contrast="sigmoid")
    task = type(tiny_task()).start(config, softmax).train()
    assert task.itc_bias.item() == START_BIAS
    optimizer = adamw(task, 1e-3, 0.02)
    assert any(p is task.itc_bias for p in optimizer.param_groups[1]["params"])  # no decay
    out = task(batch(task), 0.0)
    out["loss"].backward()
    assert task.itc_bias.grad != 0
    optimizer.step()
    sigmoid = load_checkpoint(save_task(task, tmp_path / "sigmoid"))
    assert torch.equal(type(task).start(config, sigmoid).itc_bias, task.itc_bias)
    assert type(task).start(tiny_config(), sigmoid).itc_bias is None
    vqa = type(tiny_task("vqa"))
    vqa.start(tiny_config("vqa"), sigmoid)
    facts = parts(sigmoid).facts  # Probabilities of classes are a softmax, which a bias leaves.
    assert facts.itc_temperature == task.temperature.item()
    frozen = tiny_task(contrast="sigmoid", itc=False)
    assert not frozen.itc_bias.requires_grad


def test_a_model_of_another_kind_does_not_fit(tmp_path: Path) -> None:
    vqa = load_checkpoint(save_task(tiny_task("vqa"), tmp_path / "vqa"))
    with pytest.raises(CheckpointError, match=r"vqa does not fit.*itm_head"):
        type(tiny_task()).start(tiny_config(), vqa)


def test_word_patch_alignment_counts_by_its_weight_and_equal_images_as_one() -> None:
    task = tiny_task(wpa=0.5).train()
    given = batch(task)
    out = task(given, 0.0)
    torch.testing.assert_close(out["loss"].detach(), out["itm"] + out["itc"] + 0.5 * out["wpa"])
    task.zero_grad()
    out["loss"].backward()
    assert task.model.fusion_encoder.layer[0].crossattention.self.query.weight.grad.abs().sum() > 0
    one = task(given | {"image_id": torch.zeros_like(given["image_id"])}, 0.0)
    assert one["wpa"] >= math.log(len(CAPTIONS)) - 1e-6  # the least that even targets leave
    assert one["wpa"] != out["wpa"]


def test_without_hard_negatives_all_are_as_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    draw = itm.draw
    monkeypatch.setattr(itm, "draw", lambda *given: drawn.append(given[0]) or draw(*given))
    for hard in (True, False):
        task = tiny_task(hard_negatives=hard).train()
        task(batch(task), 0.0)
        free = drawn[-1][drawn[-1] > 0]
        assert bool(torch.allclose(free, free[0].expand(len(free)))) is not hard


def test_a_text_with_words_exchanged_is_the_negative_of_half_of_those_that_have_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = tiny_task(exchanged=[["a", "two", "three"], ["dog", "squid"]]).train()
    made, encoded, shares = batch(task), [], []
    own = task.model.encode_text

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        encoded.append(ids)
        return own(ids, mask)

    monkeypatch.setattr(task.model, "encode_text", encode)
    drawn = results(monkeypatch, matching, "hard_negative_indices")
    torch.manual_seed(0)
    for _ in range(80):
        shares.append(task(made, 0.0)["exchanged"])
    decode = task.tokenizer.tokenizer.decode
    counts = [0] * len(CAPTIONS)
    for others, negatives, share in zip(encoded[1::2], drawn, shares, strict=True):
        assert len(others) == len(CAPTIONS) / 2  # no other text is encoded twice
        is_false = negatives.text >= len(CAPTIONS)
        assert share == is_false.float().mean()
        for row in is_false.nonzero().flatten().tolist():
            counts[row] += 1
            false = others[int(negatives.text[row]) - len(CAPTIONS)]
            ways = task.exchanges[:, made["ids"][row]]
            assert (ways == false).all(dim=1).any()
            assert (false != made["ids"][row]).any()
    assert {decode(ids[0, 1:3].tolist()) for ids in encoded[1::2]} >= {"two dog", "three dog"}
    has_word = task.exchange(made["ids"])[1].tolist()
    for count, has in zip(counts, has_word, strict=True):
        assert 20 < count < 60 if has else count == 0
    assert "exchanges" not in task.state_dict()

    task.config = task.config.model_copy(update={"exchanged_ranking": 2.0})
    matches = results(monkeypatch, matching, "match_pairs")
    with torch.no_grad():
        losses = task(made, 0.0)
    true, _, false = matches[-1].logits.diff(dim=1).split(4)
    gaps = (true - false)[drawn[-1].text >= 4]
    ranking = -torch.nn.functional.logsigmoid(gaps).mean()
    assert torch.isclose(losses["ranking"], ranking)
    assert torch.isclose(losses["loss"], losses["itc"] + losses["itm"] + 2 * ranking)
    with pytest.raises(ValueError, match="'behind' is not a token of the vocabulary"):
        tiny_task(exchanged=[["a", "behind"]])
    with pytest.raises(ValueError, match="exchanged"):  # one word has no other
        tiny_task(exchanged=[["a"]])
    with pytest.raises(ValueError, match="exchanged_ranking needs exchanged"):
        tiny_task(exchanged_ranking=1.0)


def test_a_text_that_another_image_has_is_not_a_negative_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = tiny_task(equal_texts=True).train()
    ignored: list[tuple[Tensor, Tensor]] = []
    barred: list[Tensor] = []
    contrast, mine = matching.itc_loss, matching.hard_negative_indices

    def mined(*given: Tensor) -> itm.Negatives:
        barred.append(given[2])
        return mine(*given)

    monkeypatch.setattr(matching, "itc_loss", lambda *a: ignored.append(a[9]) or contrast(*a))
    monkeypatch.setattr(matching, "hard_negative_indices", mined)
    made = batch(task)
    size = len(CAPTIONS)
    ids = torch.arange(1000, 1000 + size)[:, None].repeat(1, 1 + matching.KNOWN_TEXTS)
    ids[0, 2] = 1001  # the first image also has the text of the second
    expected = torch.eye(size, dtype=torch.bool)
    expected[0, 1] = True
    task.end_step([task(made | {"text_ids": ids}, 0.0)])
    task(made | {"text_ids": ids, "image_id": made["image_id"] + 100}, 0.0)
    other = expected & ~torch.eye(size, dtype=torch.bool)
    for (of_images, of_texts), own_barred in zip(ignored, barred, strict=True):
        assert torch.equal(own_barred, expected)
        assert torch.equal(of_images[:, :size], other)
        assert torch.equal(of_texts[:, :size], other.t())
    for queued, wanted in zip(ignored[1], (expected, expected.t()), strict=True):
        assert torch.equal(queued[:, size : 2 * size], wanted)


def test_the_texts_of_a_record_are_known_to_its_batch() -> None:
    task = tiny_task(equal_texts=True)
    record = Record("a", draw("pictures")[0].image, ("A frog!", "two frogs"), 0, "train", "s", {})
    made = task.collate(Transform(AugmentConfig(), 32))([record], np.random.default_rng(0))
    own, *known = made["text_ids"][0].tolist()
    assert known[:2] == [text_id("a frog"), text_id("two frogs")]
    assert own in known
    assert set(known[2:]) == {own}


def test_captions_of_itm_are_read_by_itm_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanges = {"exchanged": [["a", "two"]], "exchanged_itm": 0.8}
    task = tiny_task(equal_texts=True, itm_captions=0.5, **exchanges).train()
    image, more = draw("pictures")[0].image, {"itm_captions": ["two frogs", "a squid"]}
    records = [
        Record(str(i), image, ("a dog left of an apple",), i, "train", "s", more if i % 4 else {})
        for i in range(40)
    ]
    collate = task.collate(Transform(AugmentConfig(), 16))
    draws = [collate(records, np.random.default_rng(i))["itm_text_id"].tolist() for i in range(9)]
    # Texts of a batch have the same relative rank by length, for little padding.
    assert {tuple({*draw}) for draw in draws} == {(text_id("two frogs"),), (text_id("a squid"),)}
    made = collate(records, np.random.default_rng(0))
    made["image"] = made["image"].float()
    assert len(made["itm_ids"]) == 15  # half of the 30 records that have any
    assert len({*made["itm_rows"].tolist()}) == 15
    assert all(row % 4 for row in made["itm_rows"].tolist())
    assert {*made["text_ids"][:, 0].tolist()} == {text_id("a dog left of an apple")}

    negatives = results(monkeypatch, matching, "hard_negative_indices")
    matches = results(monkeypatch, matching, "match_pairs")
    out = task(made, 0.0)
    alone = task({n: t for n, t in made.items() if not n.startswith("itm_")}, 0.0)
    assert out["itc"] == alone["itc"]
    assert out["itm"] != alone["itm"]
    own, further = (match.logits[match.valid] for match in matches[:2])
    labels = torch.cat([match.labels[match.valid] for match in matches[:2]])
    loss = torch.nn.functional.cross_entropy(torch.cat([own, further]), labels)
    torch.testing.assert_close(out["itm"], loss.detach())
    assert negatives[1].has_image.tolist() == [False] * 8  # the texts are true of all images
    is_false = negatives[1].text >= 15  # but not with "a" instead of "two", or the other way round
    assert torch.equal(is_false, negatives[1].has_text)
    assert is_false.sum() == 0.8 * 15

    plain = [Record("a", image, ("a dog",), 0, "train", "s", {})]
    assert "itm_ids" not in task.collate(Transform(AugmentConfig(), 16))(
        plain, np.random.default_rng(0)
    )
    with pytest.raises(ValueError, match="itm_captions needs equal_texts"):
        tiny_task(itm_captions=0.5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_a_step_in_bfloat16_is_near_the_one_in_float32(device: str) -> None:
    steps = []
    for enabled in (False, True):
        task = tiny_task(hard_negatives=False).train().to(device)
        made = {name: tensor.to(device) for name, tensor in batch(task).items()}
        torch.manual_seed(0)
        with torch.autocast(device, torch.bfloat16, enabled=enabled):
            out = task(made, 0.5)
        out["loss"].backward()
        gradient = torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None])
        steps.append((float(out["itc"]), float(out["itm"]), gradient))
    (itc, itm, gradient), (near_itc, near_itm, near) = steps
    assert near_itc == pytest.approx(itc, rel=0.02)
    assert near_itm == pytest.approx(itm, rel=0.05)
    assert torch.cosine_similarity(gradient, near, dim=0) > 0.99


def record(number: int, pair: int | None = None) -> Record:
    meta = {} if pair is None else {"pair": pair, "change": "count"}
    return Record(f"r{number}", b"", (f"text {number}",), number, "test", "x", meta)


def test_null_re_ranks_all_and_leaves_nothing_to_the_features() -> None:
    generator = torch.Generator().manual_seed(1)
    sim, scores = torch.randn(2, 7, 7, generator=generator)
    asked: list[Tensor] = []

    def match(pairs: Tensor) -> Tensor:
        asked.append(pairs)
        return scores

    rows = [record(i) for i in range(7)]
    table = ranked(rows, sim, None, match)
    assert bool(asked[0].all())
    ranks = [int((scores[i] >= scores[i, i]).sum()) - 1 for i in range(7)]
    assert table["rank"][:7] == ranks
    assert ranked(rows, -sim, None, match)["rank"] == table["rank"]

    def within_pairs(pairs: Tensor) -> Tensor:
        assert int(pairs.sum()) == 12
        return scores[:6, :6]

    # In a paired split all are the two of a pair.
    paired = ranked([record(i, i // 2) for i in range(6)], sim[:6, :6], None, within_pairs)
    assert set(paired["rank"]) <= {0, 1}


@pytest.fixture
def shown(pictures: list[bytes]) -> list[Record]:
    names = ("a dog", "an apple", "a dog", "three frogs", "an apple", "a dog")
    return [
        Record(f"r{i}", picture, ("a caption",), i, "shown", "", {"thing": name})
        for i, (picture, name) in enumerate(zip(pictures, names, strict=True))
    ]


def test_a_split_is_classified_by_the_names_of_its_classes(
    shown: list[Record], tiny_export: Path, pictures: list[bytes]
) -> None:
    templates = ["{}", "only {}"]
    task = tiny_task(zero_shot={"shown": {"label": "thing", "templates": templates}})
    table = task.predict(shown, 4)
    exported = albef.runtime.load(tiny_export)
    classes = ["a dog", "an apple", "three frogs"]
    chances = exported.zero_shot(pictures, classes, templates)
    assert table["label"] == [record.meta["thing"] for record in shown]
    assert table["predicted"] == [classes[i] for i in chances.argmax(axis=1)]
    assert table["probability"] == pytest.approx(chances.max(axis=1).tolist(), abs=1e-4)
    for column, values in task.predict(shown, 4, exported).items():
        near = pytest.approx(table[column], abs=1e-4)
        assert values == (near if column == "probability" else table[column])

    table["predicted"] = ["a dog", "an apple", "a dog", "a dog", "a dog", "an apple"]
    assert ranking.score(table) == pytest.approx(
        {"zero_shot_accuracy": 50, "zero_shot_balanced_accuracy": 100 * (2 / 3 + 1 / 2) / 3}
    )
    assert list(ranking.chance(table).values()) == pytest.approx([100 / 3] * 2)
    examples = ranking.examples(table)
    mean = pd.Series(examples.scores).groupby(table[examples.strata]).mean().mean()
    assert ranking.score(table)[examples.metric] == pytest.approx(100 * mean)


def test_a_record_without_its_label_is_named(shown: list[Record]) -> None:
    task = tiny_task(zero_shot={"shown": {"label": "class"}})
    with pytest.raises(ValueError, match=r"record r0 has no 'class' in its meta.*zero_shot\.shown"):
        task.predict(shown, 4)


def test_the_order_of_classified_splits_does_not_follow_the_keys() -> None:
    """It is the order of rows in the predictions, and params.yaml and JSON order keys freely."""
    for names in ("ab", "ba"):
        task = tiny_task(zero_shot={name: {"label": "thing"} for name in names})
        assert task.further_splits == ("a", "b")
