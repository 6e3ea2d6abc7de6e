"""The example computes the losses of the pipeline's task."""

import math

import numpy as np
import pytest
import torch

from albef.config import validate
from albef.losses.mlm import IGNORED
from albef.preprocessing.text import TextTokenizer, mask_tokens
from albef.tasks.pretraining import Config, Task
from examples import pretrain_step
from tests.conftest import CAPTIONS, tiny_model

SIZE = len(CAPTIONS)


def task(tokenizer: TextTokenizer) -> Task:
    values = {
        "epochs": 1, "global_batch_size": 4, "precision": "float32", "lr": 1e-3, "min_lr": 0.0,
        "warmup_steps": 0, "dataset": "x", "queue_size": 16, "model": tiny_model().model_dump(),
        "tokenizer": {"source": "corpus", "vocab_size": 80},
    }  # fmt: skip
    return Task(validate(Config, values, where="test"), tokenizer)


def test_its_losses_and_gradients_equal_those_of_the_task() -> None:
    torch.manual_seed(0)
    tokenizer = TextTokenizer.train(CAPTIONS, 80)
    ours, rng = task(tokenizer), np.random.default_rng(0)
    example = pretrain_step.Pretraining(tiny_model(), tokenizer.vocab_size, queue_size=16)
    with torch.no_grad():
        for parameter in ours.model_m.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    example.load_state_dict(ours.state_dict())
    ids, mask = tokenizer.encode(CAPTIONS, 12)
    masked, chosen = (torch.from_numpy(it) for it in mask_tokens(ids, mask, tokenizer, 0.4, rng))
    batch = {
        "image": torch.randn(SIZE, 3, 16, 16), "ids": torch.from_numpy(ids),
        "text_mask": torch.from_numpy(mask), "masked_ids": masked,
    }  # fmt: skip
    everywhere = torch.arange(ids.shape[1]).repeat(SIZE, 1)
    labels = torch.where(chosen, batch["ids"], IGNORED)
    torch.manual_seed(1)
    expected = ours(batch | {"mlm_positions": everywhere, "mlm_labels": labels}, 1.0)
    torch.manual_seed(1)
    losses, feats_m = example(batch | {"chosen": chosen})
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=0, atol=1e-6, msg=name)
    torch.testing.assert_close(feats_m, (expected["image_feat_m"], expected["text_feat_m"]))
    expected["loss"].backward()
    sum(losses.values()).backward()
    theirs = dict(ours.named_parameters())
    for name, parameter in example.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6)


def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    pretrain_step.main(30)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    sums = [sum(map(float, line[2::2])) for line in lines]
    assert len(sums) == 30
    assert all(map(math.isfinite, sums))
    assert sums[-1] < sums[0]
