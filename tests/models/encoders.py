"""Small encoders of timm and transformers, with random weights and without a network."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders
from tokenizers.models import Unigram
from tokenizers.normalizers import NFKC, Replace, Sequence
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.trainers import UnigramTrainer

from albef.config import validate
from albef.models.albef import ModelConfig, settled

_VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
IMAGES: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": _VIT,
    "vit_medium_patch16_gap_240": _VIT,  # no [CLS]
    "vit_small_patch14_reg4_dinov2": _VIT,
    "vit_base_patch16_siglip_224": _VIT,  # attention pooling
    "vit_small_patch16_dinov3": _VIT,
    "eva02_tiny_patch14_224": _VIT,
    "swin_tiny_patch4_window7_224": {
        "window_size": 2, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]
    },
    "convnext_atto": {"dims": [8, 8, 16, 24], "depths": [1, 1, 1, 1]},
}  # fmt: skip
"""Image encoders and what makes them small."""
_BERT = {
    "vocab_size": 80, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": 1,
}  # fmt: skip
TEXTS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT | {"embedding_size": 16},
    "distilbert": {
        "vocab_size": 80, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32,
        "max_position_embeddings": 40,
    },
    "modernbert": _BERT
    | {"local_attention": 8, "global_attn_every_n_layers": 2}
    | {f"{name}_token_id": 2 for name in ("bos", "eos", "cls", "sep")},
}  # fmt: skip
"""Text encoders, by type, and what makes them small."""
OWN_IMAGE = {"image_size": 16, "patch_size": 8, "width": 24, "depth": 2, "heads": 2}
OWN_TEXT = {
    "width": 16, "depth": 4, "fusion_depth": 2, "heads": 2, "intermediate": 32,
    "max_positions": 16, "dropout": 0.0,
}  # fmt: skip


def image(name: str, size: int = 32) -> dict[str, Any]:
    """The section of an image encoder."""
    return {"timm": name, "pretrained": False, "image_size": size, "arguments": IMAGES[name]}


def text(kind: str, **changed: object) -> dict[str, Any]:
    """The section of a text encoder."""
    config = {"model_type": kind, **TEXTS[kind]} | changed
    return {"transformers": kind, "pretrained": False, "max_positions": 16, "config": config}


def sizes(image: object = OWN_IMAGE, text: object = OWN_TEXT, **more: object) -> ModelConfig:
    """A model of two encoders."""
    values = {"image": image, "text": text, "embed_dim": 8, **more}
    return settled(validate(ModelConfig, values, where="tests"))


def write_xlm_roberta(folder: Path, captions: list[str], **changed: object) -> Path:
    """A folder with the tokenizer and the configuration of a small XLM-R, without weights."""
    folder.mkdir(parents=True)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = Sequence([NFKC(), Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer, tokenizer.decoder = Metaspace(), decoders.Metaspace()
    trainer = UnigramTrainer(
        vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(sorted(captions), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"model_type": "xlm-roberta", **_BERT, **changed, "vocab_size": 80}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
