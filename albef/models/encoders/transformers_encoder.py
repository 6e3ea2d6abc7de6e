"""Text encoders of transformers: BERT and its descendants."""

import inspect
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel
from transformers.utils import cached_file

from albef.config import TYPO, nearest
from albef.io import first_line, read_json
from albef.models.encoders import FusionConfig, TextEncoder, TransformersConfig
from albef.preprocessing.hub import REMEDY, prepare_hub

TYPES = ("bert", "camembert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
"""Types of models that are tested, as ``model_type`` in config.json."""
_POOLING = "1_Pooling/config.json"
"""File of a sentence encoder that says how its states are pooled."""
_LAYERED = ("bert", "camembert", "roberta", "xlm-roberta")
"""Types whose layers are those of the fusion encoder."""
_UNUSED = {"transformers_version", "architectures", "dtype", "_name_or_path"} | {
    *("id2label", "label2id", "return_dict", "output_hidden_states", "output_attentions"),
    "problem_type",
}


def settled_text(config: TransformersConfig, fusion: FusionConfig) -> dict[str, Any]:
    """Return the sections ``text``, with its architecture, and ``fusion``, with its sizes.

    Raises:
        ValueError: the text encoder is unavailable or of another type, or ``fusion.start: text``
            does not fit it.
    """
    settings, source = _architecture(config), config.transformers
    width, heads = settings.hidden_size, settings.num_attention_heads
    inner = settings.intermediate_size if settings.model_type in _LAYERED else 0
    sizes = {"width": width, "heads": heads, "intermediate": inner or 4 * width}
    chosen = {name: getattr(fusion, name) or size for name, size in sizes.items()}
    if fusion.start == "text":
        if settings.model_type not in _LAYERED:
            raise ValueError(
                f"fusion.start: text needs layers of BERT ({', '.join(_LAYERED)}), but {source} is "
                f"of type {settings.model_type}; set fusion.start to random"
            )
        if chosen != sizes or fusion.depth >= settings.num_hidden_layers:
            raise ValueError(
                f"fusion.start: text takes the last layers of {source}, of {sizes}; "
                f"remove these sizes, and set fusion.depth below {settings.num_hidden_layers}"
            )
    kept = {k: v for k, v in settings.to_dict().items() if k not in _UNUSED and v is not None}
    pooling = config.pooling or _pooling(source)
    text = config.model_copy(update={"config": kept, "pooling": pooling})
    return {"text": text, "fusion": fusion.model_copy(update=chosen)}


def _architecture(config: TransformersConfig) -> Any:
    """Return the architecture of a text encoder, as the class of its type."""
    source, values = config.transformers, config.config
    if values is None:
        if not Path(source).is_dir():
            prepare_hub()
        try:
            values = AutoConfig.from_pretrained(source).to_dict()
        except Exception as error:  # hub, network and registry raise many types
            raise ValueError(
                f"model.text.transformers: {source} is neither a folder with config.json nor "
                f"available at Hugging Face ({first_line(error)}); {REMEDY}"
            ) from None
    kind = str(values.get("model_type"))
    if kind not in TYPES:
        typo = None if kind in CONFIG_MAPPING else nearest(kind, TYPES, TYPO)
        raise ValueError(
            f"model.text.transformers: {source} is of type {kind}; accepted types are "
            f"{', '.join(TYPES)}" + (f"; did you mean {typo}?" if typo else "")
        )
    return AutoConfig.for_model(**values)


def _pooling(source: str) -> Literal["cls", "mean"]:
    """Return the pooling that sentence-transformers recorded for a name or folder, else ``cls``.

    Raises:
        ValueError: it is another one.
    """
    path: str | None = str(Path(source, _POOLING))
    if not Path(source).is_dir():
        prepare_hub()
        path = cached_file(source, _POOLING, _raise_exceptions_for_missing_entries=False)
    values = read_json(Path(path)) if path else None
    modes = [k for k, v in (values or {}).items() if k.startswith("pooling_mode_") and v is True]
    if modes in ([], ["pooling_mode_cls_token"]):
        return "cls"
    if modes == ["pooling_mode_mean_tokens"]:
        return "mean"
    raise ValueError(
        f"model.text.transformers: {source} pools by {', '.join(modes)}; set model.text.pooling "
        "to cls or mean"
    )


def text_weights(config: TransformersConfig) -> dict[str, Tensor]:
    """Return the public weights of all layers, without the pooler.

    Raises:
        ValueError: weights are missing.
    """
    source = config.pretrained if isinstance(config.pretrained, str) else config.transformers
    loaded, about = AutoModel.from_pretrained(
        source, config=_architecture(config), output_loading_info=True
    )
    loaded.pooler = None
    if missing := about["missing_keys"] & loaded.state_dict().keys():
        raise ValueError(f"they lack {len(missing)} tensors, such as {min(missing)}")
    tensors: dict[str, Tensor] = loaded.state_dict()
    return tensors


class TransformersEncoder(TextEncoder):
    """A text encoder of transformers with random weights, without its pooler.

    If the fusion encoder starts from its last layers, it lacks these. With ``pooling: mean``, the
    mean over the tokens takes the place of the first token's state.
    """

    def __init__(self, config: TransformersConfig, fusion: FusionConfig, vocab_size: int) -> None:
        super().__init__()
        settings = _architecture(config)
        if fusion.start == "text":
            settings.num_hidden_layers -= fusion.depth
        self.model: Any = AutoModel.from_config(settings, attn_implementation="sdpa")
        self.model.pooler = None
        self.width = settings.hidden_size
        embeddings = self.model.embeddings
        # These types number positions after the id of padding.
        is_shifted = hasattr(embeddings, "create_position_ids_from_input_ids")
        self._first = settings.pad_token_id + 1 if is_shifted else 0
        self._has_mean = config.pooling == "mean"
        self._window = getattr(settings, "local_attention", None)
        accepted = inspect.signature(self.model.forward).parameters
        self._has_types = "token_type_ids" in accepted
        if vocab_size > settings.vocab_size:
            raise ValueError(
                f"model.text.transformers: {config.transformers} embeds {settings.vocab_size} "
                f"tokens, but the tokenizer has {vocab_size}; remove pretrain.tokenizer"
            )
        longest = settings.max_position_embeddings - self._first
        if config.max_positions > longest:
            raise ValueError(
                f"model.text.max_positions is {config.max_positions}, but {config.transformers} "
                f"has {longest} positions; set it to at most {longest}"
            )

    @property
    def words(self) -> Tensor:
        """Return the word embeddings (V, W)."""
        table: Tensor = self.model.get_input_embeddings().weight
        return table

    def forward(self, ids: Tensor, bias: Tensor) -> Tensor:
        """Encode token ids (B, L) and additive bias (B, 1, 1 or L, L) to states (B, L, D)."""
        count, length = ids.shape
        positions = torch.arange(self._first, self._first + length, device=ids.device)
        # A mask of four dimensions is used as it is. It is expanded because some kernels need it.
        mask: Any = bias.expand(-1, -1, length, -1).to(self.words.dtype)
        if self._window:
            token = torch.arange(length, device=ids.device)
            is_far = (token[:, None] - token).abs() > self._window // 2
            mask = {"full_attention": mask, "sliding_attention": mask - 1e4 * is_far}
        types = {"token_type_ids": torch.zeros_like(ids)} if self._has_types else {}
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions.expand(count, -1), **types
        )
        states: Tensor = output.last_hidden_state
        if self._has_mean:
            weights = (bias[:, 0, 0] > -1).to(states.dtype)[..., None]  # (B, L, 1), 1 = a token
            mean = (states * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
            states = torch.cat([mean, states[:, 1:]], dim=1)
        return states
