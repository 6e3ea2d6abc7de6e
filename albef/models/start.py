"""Start weights of pre-training: a ViT of timm and a BERT of Hugging Face (ALBEF, section 3.1).

BERT's first layers become the text encoder, the others the fusion encoder, whose cross-attention is
new. Every tensor is used or known to be unneeded; any other missing or unused tensor is an error.
Encoders that are of timm or transformers themselves take the weights of their name.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file
from torch import Tensor, nn

from albef.config import Section, validate
from albef.io import first_line
from albef.models.albef import ALBEF, ModelConfig, settled
from albef.models.encoders import TimmConfig, TransformersConfig
from albef.models.original import original_name, read_original
from albef.models.text import MLMHead, TextEncoder
from albef.models.weights import CheckpointError, check_weights, load_strict
from albef.preprocessing.hub import REMEDY, prepare_hub

TEXT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Possible names of the weights file in a BERT's folder."""
_BERT_UNUSED = re.compile(
    r"bert\.pooler\.|cls\.seq_relationship\.|cls\.predictions\.decoder\.|.+\.position_ids$"
)
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
T = TypeVar("T")
log = logging.getLogger(__name__)


class StartConfig(Section):
    """Public weights that the encoders start from. A null encoder starts from random weights."""

    image: str | None
    """Weights of the image encoder, a ViT: a file, or a model name in timm. The paper uses
    DeiT-B."""
    text: str | None
    """Weights of the text and fusion encoder, a BERT: a folder, or a name at Hugging Face. The
    paper uses bert-base-uncased."""


def create_model(
    config: ModelConfig | Mapping[str, Any], vocab_size: int, *, pretrained: bool = True
) -> ALBEF:
    """Return a model: two encoders, fusion and projections (ALBEF, section 3.1), in train mode.

    >>> checkpoint = albef.load_checkpoint("products/models/retrieval")
    >>> vocab_size = checkpoint.tokenizer.vocab_size
    >>> model = albef.create_model(checkpoint.model, vocab_size, pretrained=False)
    >>> model.load_state_dict(checkpoint.part("model"))

    Args:
        config: values as in ``pretrain.model``; the attribute ``sizes`` of the result has them too.
        vocab_size: number of tokens; ``vocab_size`` of the tokenizer.
        pretrained: if true, load the public weights of encoders of timm and transformers that the
            values ask for. All other weights start at random. If false, all do.

    Raises:
        ParamsError: a value is unknown, missing or out of range.
        ValueError: an encoder has an unknown name.
        CheckpointError: public weights are missing or do not fit.
    """
    if not isinstance(config, ModelConfig):
        config = validate(ModelConfig, dict(config), where="create_model")
    sizes = settled(config)
    model = ALBEF(sizes, vocab_size)
    if pretrained:
        start_encoders(model, sizes)
    return model


def start_image(model: ALBEF, source: str) -> str:
    """Load a ViT into the image encoder, from a file or by a name in timm; return its digest.

    Position embeddings are resized.

    Raises:
        CheckpointError: the weights are missing or do not fit.
    """
    tensors = {
        f"image_encoder.vit.{name}": tensor
        for name, tensor in _vit(source).items()
        if not name.startswith("head.")  # a classifier
    }
    load_strict(nn.ModuleDict({"image_encoder": model.image_encoder}), tensors, where=source)
    log.info("image encoder: %d tensors of %s", len(tensors), source)
    return _digest(tensors)


def start_encoders(model: ALBEF, config: ModelConfig) -> dict[str, str]:
    """Load the public weights of encoders of timm and transformers, if the values ask for them.

    ``config`` is settled. Return the digests of the loaded tensors, by encoder.

    Raises:
        CheckpointError: the weights are missing or do not fit.
    """
    digests, image, text = {}, config.image, config.text
    if isinstance(image, TimmConfig) and image.pretrained:
        from albef.models.encoders.timm_encoder import image_weights

        own = _read(Path(image.pretrained)) if isinstance(image.pretrained, str) else None
        tensors = _available(image.timm, lambda: image_weights(image, own))
        where = image.timm if own is None else f"{image.pretrained}"
        load_strict(model.image_encoder.get_submodule("model"), tensors, where=where)
        digests["image"] = _digest(tensors)
    if isinstance(text, TransformersConfig) and text.pretrained:
        from albef.models.encoders.transformers_encoder import text_weights

        name = text.pretrained if isinstance(text.pretrained, str) else text.transformers
        encoder = model.text_encoder.get_submodule("model")
        tensors = _available(name, lambda: text_weights(text))
        digests["text"] = _digest(tensors)
        if config.fusion and config.fusion.start == "text":
            layers = {key: match for key in tensors if (match := _LAYER.fullmatch(key))}
            first = 1 + max(int(match[1]) for match in layers.values()) - config.fusion.depth
            fused = {
                f"layer.{int(match[1]) - first}.{match[2]}": tensors.pop(key)
                for key, match in layers.items()
                if int(match[1]) >= first
            }
            fresh = [key for key in model.fusion_encoder.state_dict() if ".crossattention." in key]
            load_strict(model.fusion_encoder, fused, where=name, fresh=fresh)
        load_strict(encoder, tensors, where=name)
    return digests


def _available(name: str, read: Callable[[], T]) -> T:
    """Return what ``read`` returns; raise CheckpointError if the weights are not available."""
    prepare_hub()
    try:
        return read()
    except Exception as error:  # hub, network and registry raise many types
        raise CheckpointError(
            f"weights of {name} are not available ({first_line(error)}); {REMEDY}"
        ) from None


def start_text(model: ALBEF, mlm_head: MLMHead, source: str) -> str:
    """Load a BERT into text encoder, fusion encoder and MLM head; return its digest.

    ``source`` is a folder, or a name at Hugging Face. Cross-attention keeps its initial weights. So
    does the head if the BERT has none.

    Raises:
        CheckpointError: the weights are missing or do not fit.
    """
    encoder = model.text_encoder
    assert isinstance(encoder, TextEncoder)  # pre-training checks it
    weights, layers = _bert(source), len(encoder.layer)
    parts = nn.ModuleDict(
        {"text_encoder": encoder, "fusion_encoder": model.fusion_encoder, "mlm_head": mlm_head}
    )
    ours = {_bert_name(name, layers): name for name in parts.state_dict()}
    tensors = {ours.get(n, n): t for n, t in weights.items() if not _BERT_UNUSED.match(n)}
    words = tensors.get("text_encoder.embeddings.word_embeddings.weight")
    vocab_size = len(encoder.words)
    if words is not None and len(words) != vocab_size:
        raise CheckpointError(
            f"{source} embeds {len(words)} tokens, but the tokenizer has {vocab_size}; set "
            f"pretrain.tokenizer.source to {source}"
        )
    fresh = {name for name in parts.state_dict() if ".crossattention." in name}
    if not any(name.startswith("mlm_head.") for name in tensors):
        fresh.add("mlm_head.")
    load_strict(parts, tensors, where=source, fresh=fresh)
    log.info("text and fusion encoder: %d of %d tensors of %s", len(tensors), len(weights), source)
    return _digest(tensors)


def _bert_name(name: str, text_layers: int) -> str:
    """Return BERT's name of one of our tensors: the original's without its text encoder prefix."""
    inside = name if name.startswith("mlm_head.") else f"model.{name}"
    return original_name(inside, "pretraining", text_layers).removeprefix("text_encoder.")


def _vit(source: str) -> dict[str, Tensor]:
    path = Path(source)
    if path.is_file():
        return _read(path)
    import timm  # takes seconds, and most trainings need none of it

    if not timm.is_model(source.partition(".")[0]):
        raise CheckpointError(
            f"{source} is neither a file nor a model of timm; timm.list_models('*vit*') lists them"
        )
    return _available(
        source, lambda: timm.create_model(source, pretrained=True, num_classes=0).state_dict()
    )


def _bert(source: str) -> dict[str, Tensor]:
    folder = Path(source)
    if folder.is_dir():
        path = next((folder / name for name in TEXT_FILES if (folder / name).is_file()), None)
        if path is None:
            raise CheckpointError(f"folder {source} has neither {' nor '.join(TEXT_FILES)}")
    else:
        path = _available(source, lambda: _fetched(source))
    weights = {}
    for name, tensor in _read(path).items():
        full = name if name.startswith(("bert.", "cls.")) else f"bert.{name}"
        weights[full.replace(".gamma", ".weight").replace(".beta", ".bias")] = tensor
    return weights


def _fetched(source: str) -> Path:
    from transformers.utils import cached_file

    reason = OSError()
    for name in TEXT_FILES:
        try:
            return Path(cached_file(source, name))
        except OSError as error:
            reason = error
    raise reason


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"weights file {path} does not exist")
    if path.suffix != ".safetensors":
        return read_original(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:  # safetensors raises several types
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from None
    check_weights(tensors, where=f"{path}")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + bytes(tensor.contiguous().numpy()))
    return digest.hexdigest()
