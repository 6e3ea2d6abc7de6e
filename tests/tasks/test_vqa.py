"""Question answering on a tiny real model: its list of answers, batches, predictions, scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from albef.config import ParamsError
from albef.data.record import Record
from albef.data.shards import Shards
from albef.loading.reading import to_device
from albef.losses.answers import answer_losses
from albef.models.decoder import generate
from albef.models.weights import CheckpointError, load_checkpoint
from albef.preprocessing.transforms import AugmentConfig, Transform
from albef.tasks.vqa import Task
from tests.conftest import save_task, tiny_config, tiny_task
from tests.data.toy import picture, record, write


def task(**changed: Any) -> Task:
    """A task with random weights, large enough that its answers differ."""
    made = tiny_task("vqa", **changed)
    made.answers = ["yes", "no", "one", "two", "fox", "dog", "a dog"]
    return made


def question(number: int, text: str, answers: dict[str, float], **meta: Any) -> Record:
    return record(
        number, captions=(text,), image=picture(number // 2, (16, 16)), image_id=number // 2,
        meta={"answers": answers, **meta},
    )  # fmt: skip


QUESTIONS = [
    question(0, "Is there a dog?", {"yes": 1.0}, type="yes/no", question_id=7),
    question(1, "how many apples are there?", {"two": 0.4, "one": 0.6}, type="count"),
    question(2, "is there an apple?", {"no": 1.0}, type="yes/no", question_id=9),
    question(3, "what is left of the apple?", {"fox": 0.5, "dog": 0.5}),
    question(4, "only three frogs?", {"no": 1.0}, type="yes/no"),
]


def shards(folder: Path, records: list[Record]) -> Shards:
    write(folder / "questions", records)
    return Shards(folder / "questions", "train")


def test_the_list_holds_the_answers_of_most_weight_first(tmp_path: Path) -> None:
    made = task(max_answers=5)
    made.prepare(shards(tmp_path, QUESTIONS))
    # no 2, yes 1, one 0.6, then by letter dog and fox 0.5; two has no place left
    assert made.answers == ["no", "yes", "one", "dog", "fox"]
    assert made.facts() == {"answers": made.answers}


def test_answers_of_equal_tokens_are_one(tmp_path: Path) -> None:
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(["no", "Yes", "yes", "a dog", "yes "]))
    made = task(answer_list=str(file))
    made.prepare(shards(tmp_path, QUESTIONS))
    assert made.answers == ["no", "Yes", "a dog"]


def test_answers_that_the_vocabulary_cannot_spell_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task().prepare(shards(tmp_path, [*QUESTIONS, question(6, "how many?", {"17": 2.0})]))
    assert "1 of 7 answers contain tokens that the vocabulary lacks, such as '17'" in caplog.text


def test_a_wrong_list_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, records = tmp_path / "answers.json", shards(tmp_path, QUESTIONS)
    for content, message in (
        (None, "cannot be read: No such file"),
        ("[", "must be a list of texts, in JSON"),
        ('{"yes": 1}', "must be a list"),
        ("[]", "must be a list"),
        ('["yes", 2]', "must be a list"),
        ('["a", "b"]', "has no answer of the train split"),
    ):
        if content is not None:
            file.write_text(content)
        with pytest.raises(ParamsError, match=rf"answer_list .*answers.json {message}"):
            task(answer_list=str(file)).prepare(records)
    file.write_text('["Yes", "no", "one", "dog"]')
    made = task(answer_list=str(file))
    made.prepare(records)
    assert "lacks 2 of 6 answers of the train split, such as 'two'" in caplog.text
    made.prepare(None)
    assert made.answers == ["Yes", "no", "one", "dog"]


def test_answers_of_a_split_without_any_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split train, has no answers"):
        task().prepare(shards(tmp_path, [record(0)]))
    with pytest.raises(ParamsError, match="needs a train split"):
        task().prepare(None)


def collated(made: Task, records: list[Record]) -> dict[str, torch.Tensor]:
    augment = AugmentConfig(flip=False, crop=(1.0, 1.0), randaugment=0)
    batch = made.collate(Transform(augment, 16))(records, np.random.default_rng(0))
    return to_device(batch, torch.device("cpu"))


def test_a_batch_holds_the_answers_one_after_the_other() -> None:
    batch = collated(task(), QUESTIONS)
    assert batch["answer_owner"].tolist() == [0, 1, 1, 2, 3, 3, 4]
    assert batch["answer_weights"].tolist() == pytest.approx([1.0, 0.6, 0.4, 1.0, 0.5, 0.5, 1.0])
    assert batch["answer_ids"].shape == batch["answer_mask"].shape == (7, 5)
    assert int(batch["text_mask"].sum(1).max()) <= 12


def test_a_training_question_without_answers_is_named() -> None:
    with pytest.raises(ValueError, match="toy-0009 has no answers"):
        collated(task(), [*QUESTIONS, question(9, "what?", {})])


def test_neither_micro_batches_nor_padding_of_answers_change_the_loss() -> None:
    made = task()
    whole = made(collated(made, QUESTIONS[:4]), 1.0)["loss"]
    halves = (QUESTIONS[:2], QUESTIONS[2:4])
    parts = [made(collated(made, half), 1.0)["loss"] for half in halves]
    torch.testing.assert_close(sum(parts) / 2, whole)
    batch = collated(made, QUESTIONS)
    wider = dict(batch)
    for name in ("answer_ids", "answer_mask"):
        wider[name] = torch.cat([batch[name], torch.zeros_like(batch[name])], dim=1)
    torch.testing.assert_close(made(wider, 1.0)["loss"], made(batch, 1.0)["loss"])


def test_predictions_have_a_row_a_question_in_order() -> None:
    made = task()
    table = made.predict(QUESTIONS, 3)
    assert table["key"] == [row.key for row in QUESTIONS]
    assert table["truths"][1] == ["one", "two"]
    assert table["type"] == ["yes/no", "count", "yes/no", None, "yes/no"]
    assert table["question_id"] == [7, None, 9, None, None]
    assert "annotators" not in table
    for answer, top, probability in zip(
        table["answer"], table["top"], table["probability"], strict=True
    ):
        assert answer == top[0]
        assert set(top) <= set(made.answers)
        assert 0 < probability <= 1
    assert len(set(table["probability"])) == len(QUESTIONS)
    alone = [made.predict([row], 1)["answer"][0] for row in QUESTIONS]  # nothing is mixed up
    assert table["answer"] == alone


def test_a_written_answer_is_the_most_probable_token_each_time() -> None:
    made = task(answering="generate")
    tokenizer, row = made.tokenizer, QUESTIONS[0]
    images = torch.from_numpy(made.resize(row.image)[None])
    ids, mask = map(torch.from_numpy, tokenizer.encode(["is there a dog"], 16))
    with torch.no_grad():
        states = made.model.encode_image(images)
        image = made.model.fusion_encoder.image_key_values(states)
        fused = made.model.fuse(made.model.encode_text(ids, mask), mask, image)
        greedy, score = generate(made.answer_decoder, fused, mask, tokenizer, beams=1, max_tokens=6)
        question = made.answer_decoder.question_key_values(fused)
        told = [tokenizer.cls_id]
        while len(told) < 6 and told[-1] != tokenizer.sep_id:
            given = torch.tensor([told])
            logits = made.answer_decoder(given, torch.ones_like(given), question, mask)[0, -1]
            logits[[tokenizer.cls_id, tokenizer.pad_id]] = -torch.inf
            told.append(int(logits.argmax()))
        assert greedy[0].tolist() == told
        logits = made.answer_decoder(greedy, torch.ones_like(greedy), question, mask)
        loss = answer_losses(logits, greedy, torch.ones_like(greedy), None, 0.0)
        torch.testing.assert_close(score, -loss, rtol=1e-2, atol=1e-2)  # marks are left out
        _, wider = generate(made.answer_decoder, fused, mask, tokenizer, beams=8, max_tokens=6)
    assert float(wider) >= float(score) - 1e-4
    (best,) = made.ask(images, ["Is there a dog?"], torch.tensor([0]))[0]
    assert best.text == tokenizer.decode(greedy[0].tolist()) or len(told) == 6


def test_an_answer_that_has_ended_is_followed_no_further() -> None:
    made = task()
    with torch.no_grad():  # every token but the end mark is out of reach
        made.answer_decoder.head.bias.fill_(-1e4)
        made.answer_decoder.head.bias[made.tokenizer.sep_id] = 0
        fused = torch.randn(2, 3, 16)
        ids, score = generate(
            made.answer_decoder, fused, torch.ones(2, 3), made.tokenizer, beams=2, max_tokens=8
        )
    assert ids[:, :2].tolist() == [[made.tokenizer.cls_id, made.tokenizer.sep_id]] * 2
    assert not ids[:, 2:].any()
    torch.testing.assert_close(score, torch.zeros(2))


def test_a_checkpoint_without_a_list_is_reported(tmp_path: Path) -> None:
    made = task()
    made.answers = []
    checkpoint = load_checkpoint(save_task(made, tmp_path / "vqa"))
    with pytest.raises(CheckpointError, match="has no list of answers"):
        Task.restore(made.config, checkpoint)


def test_after_retrieval_what_is_missing_is_fresh_and_the_momentum_model_is_equal(
    tiny_checkpoint: Path,
) -> None:
    """It has no masked-language head, and images of another width than the text."""
    init = load_checkpoint(tiny_checkpoint)
    made = Task.start(tiny_config("vqa"), init)
    layer = "layer.0.attention.self.query.weight"
    taken = init.tensors[f"model.fusion_encoder.{layer}"]
    assert torch.equal(made.answer_decoder.state_dict()[layer], taken)
    for name, tensor in made.answer_decoder.state_dict().items():
        assert torch.equal(made.answer_decoder_m.model.state_dict()[name], tensor), name


def test_distillation_rises_to_its_weight_over_the_first_epoch() -> None:
    def loss(alpha: float, epoch: float) -> float:
        made = task(alpha=alpha)
        with torch.no_grad():  # else the momentum model agrees with the student
            made.answer_decoder_m.model.head.bias += torch.arange(made.tokenizer.vocab_size) / 10
        return float(made(collated(made, QUESTIONS), epoch)["loss"].detach())

    assert loss(0.4, 0.0) == loss(0.0, 1.0)
    assert loss(0.4, 0.5) == pytest.approx(loss(0.2, 1.0), rel=1e-6)
    assert loss(0.4, 3.0) == loss(0.4, 1.0) != pytest.approx(loss(0.2, 1.0), rel=1e-4)
