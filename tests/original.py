"""Numbers and checkpoints of the original code, as the tests read them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from torch import Tensor, nn

from albef.config import validate
from albef.models.albef import ModelConfig
from albef.models.original import original_name, to_ours
from albef.preprocessing.text import SPECIAL, TextTokenizer

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = {"rtol": 1e-4, "atol": 5e-5}
TEXT_LAYERS = 2
"""Layers of the text encoder in the fixtures' models."""


def tokens(size: int) -> list[str]:
    """Tokens of a vocabulary of a size; what they mean does not matter."""
    return [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), size))]


TOKENS = tokens(211)
"""As many as the fixtures' models embed."""


def vocabulary(size: int = len(TOKENS)) -> TextTokenizer:
    """A tokenizer of ``size`` tokens."""
    ids = {token: number for number, token in enumerate(tokens(size))}
    return TextTokenizer(Tokenizer(WordPiece(ids, unk_token="[UNK]")))


def fixture(name: str) -> dict[str, Tensor]:
    """Inputs, outputs and weights of a fixture."""
    return load_file(FIXTURES / f"{name}.safetensors")


def weights(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's weights in a fixture, by its names."""
    return {n.removeprefix("state/"): t for n, t in given.items() if n.startswith("state/")}


def load(module: nn.Module, kind: str, given: Mapping[str, Tensor]) -> None:
    """Give a task of ``kind`` the weights of a fixture, as the import of a checkpoint does."""
    ours = to_ours(weights(given), module.state_dict(), kind, TEXT_LAYERS, where="fixture")
    module.load_state_dict(ours)


def names(module: nn.Module, kind: str, text_layers: int = TEXT_LAYERS) -> dict[str, str]:
    """Our name of each original tensor that a task of ``kind`` has."""
    return {original_name(name, kind, text_layers): name for name in module.state_dict()}


def expect(given: Mapping[str, Tensor], name: str, actual: Tensor, **tolerance: float) -> None:
    """Compare a tensor with that of a name in a fixture."""
    expected = given[name].to(actual.dtype)
    torch.testing.assert_close(actual, expected, **(TOLERANCE | tolerance), msg=name)


def inputs(given: Mapping[str, Tensor], suffix: str = "", **more: str) -> dict[str, Tensor]:
    """A batch of the inputs in a fixture; ``more`` are further tensors, with their names there."""
    named = {"image": "image", "ids": "input_ids", "text_mask": "attention_mask", **more}
    return {name: given[f"inputs/{theirs}{suffix}"] for name, theirs in named.items()}


def compare_state(task: nn.Module, kind: str, given: Mapping[str, Tensor], prefix: str) -> None:
    """Tensors after a step, queue included, against those in a fixture under a prefix."""
    compared = 0
    for name, mine in task.state_dict().items():
        theirs = f"{prefix}state_after/{original_name(name, kind, TEXT_LAYERS)}"
        if theirs in given:
            is_feature = name in ("queue.image", "queue.text")
            expected = given[theirs].t() if is_feature else given[theirs].reshape(mine.shape)
            torch.testing.assert_close(mine, expected.to(mine.dtype), **TOLERANCE, msg=theirs)
            compared += 1
    assert compared > 1


def compare_gradients(task: nn.Module, kind: str, given: Mapping[str, Tensor], prefix: str) -> None:
    """Norms of the gradients, against those in a fixture under a prefix; keys' biases have none."""
    parameters, ours = dict(task.named_parameters()), names(task, kind)
    start, compared = f"{prefix}grad_norms/", 0
    for name, tensor in given.items():
        if name.startswith(start) and not name.endswith("key.bias"):  # zero but for rounding
            grad = parameters[ours[name.removeprefix(start)]].grad
            assert grad is not None, name
            torch.testing.assert_close(grad.norm(), tensor.float(), rtol=1e-3, atol=5e-5, msg=name)
            compared += 1
    assert compared > 120


def fine_tuned_sizes(**image: int) -> ModelConfig:
    """Sizes of the models behind the fixtures of fine-tuning; some have another ``image``."""
    common = {"image_size": 32, "patch_size": 16, "width": 48, "depth": 3, "heads": 3}
    values = {
        "image": {**common, **image},
        "text": {
            "width": 32, "depth": 4, "fusion_depth": 2, "heads": 4, "intermediate": 64,
            "max_positions": 40, "dropout": 0.0,
        },
        "embed_dim": 16,
    }  # fmt: skip
    return validate(ModelConfig, values, where="test")


def run_values(kind: str, **more: object) -> dict[str, object]:
    """Values that every run has, and ``more``."""
    return {
        "kind": kind, "dataset": "x", "init": "pretrained", "epochs": 1, "global_batch_size": 4,
        "micro_batch_size": 4, "precision": "float32", "lr": 1e-3, "min_lr": 0.0,
        "warmup_steps": 0, "weight_decay": 0.02, "schedule": "cosine", **more,
    }  # fmt: skip
