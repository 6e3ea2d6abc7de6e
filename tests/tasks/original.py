"""The original code's parameter names, mapped to ours, for the parity fixtures."""

import re
from collections.abc import Mapping

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from torch import Tensor, nn

from albef.config import validate
from albef.data.text import SPECIAL, TextTokenizer
from albef.models.albef import ModelConfig

RENAMES = (
    (r"^temp$", "temperature"),
    (r"^visual_encoder(_m)?\.(.*)$", r"model\1.image_encoder.vit.\2"),
    (r"^vision_proj(_m)?\.(.*)$", r"model\1.image_proj.\2"),
    (r"^text_proj(_m)?\.(.*)$", r"model\1.text_proj.\2"),
    (r"^text_encoder(_m)?\.(?:bert\.)?embeddings\.(.*)$", r"model\1.text_encoder.embeddings.\2"),
    (r"^(?:cls|ta)_head(_m)?\.(.*)$", r"head\1.\2"),
    (r"^text_encoder(_m)?\.cls\.predictions\.bias$", r"mlm_head\1.bias"),
    (r"^text_encoder(_m)?\.cls\.predictions\.transform\.(.*)$", r"mlm_head\1.\2"),
)
LAYER = re.compile(r"^text_encoder(_m)?\.(?:bert\.)?encoder\.layer\.(\d+)\.(.*)$")
TIED = re.compile(r"position_ids|cls\.predictions\.decoder|_queue$|queue_ptr")


def rename(name: str, text_layers: int) -> str | None:
    """Our name of an original parameter; None for what is tied or kept elsewhere."""
    if TIED.search(name):
        return None
    if match := LAYER.match(name):
        twin, index, rest = match[1] or "", int(match[2]), match[3]
        half = "text_encoder" if index < text_layers else "fusion_encoder"
        name = f"model{twin}.{half}.layer.{index - text_layers * (half[0] == 'f')}.{rest}"
    for pattern, ours in RENAMES:
        name, count = re.subn(pattern, ours, name)
        if count:
            break
    return re.sub(r"^(model_m|head_m|mlm_head_m)\.", r"\1.model.", name)


def tokenizer() -> TextTokenizer:
    """One with the vocabulary's size of the fixtures; its words are never asked for."""
    vocabulary = {token: i for i, token in enumerate(SPECIAL)}
    vocabulary |= {f"w{i}": i for i in range(len(SPECIAL), 211)}
    return TextTokenizer(Tokenizer(WordPiece(vocabulary, unk_token="[UNK]")))


def fine_tuned_sizes() -> ModelConfig:
    """Sizes of the models behind the fixtures of fine-tuning; they have two text layers."""
    values = {
        "image": {"image_size": 32, "patch_size": 16, "width": 48, "depth": 3, "heads": 3},
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


def load_original(
    task: nn.Module, fixture: Mapping[str, Tensor], also: Mapping[str, Tensor]
) -> None:
    """Give ``task`` the fixture's weights, and ``also``; nothing may be missing or left over."""
    state = {n.removeprefix("state/"): t for n, t in fixture.items() if n.startswith("state/")}
    renamed = {rename(n, 2): t for n, t in state.items()}
    task.load_state_dict({n: t for n, t in renamed.items() if n} | dict(also), strict=True)
