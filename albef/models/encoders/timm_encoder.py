"""Image encoders of timm: networks with tokens or with a map of features."""

import sys
import warnings
from typing import Any

import timm
import torch
from timm.layers import PatchDropout
from timm.models import VisionTransformer
from timm.models._manipulate import group_with_matcher
from torch import Tensor
from torch.nn import functional as F

from albef.config import TYPO, did_you_mean
from albef.io import first_line
from albef.models.encoders import ImageEncoder, TimmConfig
from albef.preprocessing.transforms import MEAN, STD

COUNTER = "num_batches_tracked"
"""End of the name of a counter of batch normalization."""
CLASSIFIER = "classifier.weight"
"""Name of a parameter after all blocks of any network. ALBEF itself has its place."""
TESTED = ("convnext", "eva", "swin_transformer", "vision_transformer")
"""Modules of timm whose networks are tested, from a step to a graph."""


def settled_image(config: TimmConfig) -> TimmConfig:
    """Return the values with the image size of the public weights, if they have none.

    Raises:
        ValueError: timm has no such model.
    """
    side = config.image_size or _weights_config(config.timm)["input_size"][1]
    return config.model_copy(update={"image_size": side})


def _weights_config(name: str) -> dict[str, Any]:
    """Return what timm knows of the public weights of a name, without a network."""
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        hint = did_you_mean(base, timm.list_models(), cutoff=TYPO)
        raise ValueError(f"model.image.timm: timm has no model {base}{hint}")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(base)]
    if tag and tag not in tags:
        hint = did_you_mean(tag, tags, cutoff=TYPO)
        raise ValueError(f"model.image.timm: {base} has no weights {tag}{hint}")
    weights = timm.get_pretrained_cfg(name)
    assert weights is not None
    values: dict[str, Any] = weights.to_dict()
    return values


def _create(config: TimmConfig, pretrained: bool = False) -> Any:
    """Return the network without a classifier, built for the image size."""
    has_size = _weights_config(config.timm).get("fixed_input_size")
    size = {"img_size": config.image_size} if has_size else {}
    options = {"num_classes": 0, **size, **config.arguments}
    return timm.create_model(config.timm, pretrained=pretrained, **options)


def is_tested(config: TimmConfig) -> bool:
    """Return whether the network is one of those in :data:`TESTED`."""
    module = timm.models.model_entrypoint(config.timm.partition(".")[0]).__module__
    return module.rpartition(".")[2] in TESTED


def check_network(config: TimmConfig) -> None:
    """Check that a network can be trained and exported, unless it is a tested one.

    The check takes a step with two images and random weights, and exports the graph of the states.
    It takes seconds, for some networks minutes.

    Raises:
        ValueError: the network fails at one of them.
    """
    if is_tested(config) and not config.arguments:
        return
    encoder = TimmEncoder(config)
    images = torch.randn(2, 3, config.image_size, config.image_size)
    goal = "trained"
    try:
        encoder.train()(images).sum().backward()
        goal = "exported to ONNX"
        # The exporter warns about its internals.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            axes = ({0: "batch"},)
            torch.onnx.export(
                encoder.eval(), (images,), dynamo=True, dynamic_shapes=axes, opset_version=23,
                verbose=False,
            )  # fmt: skip
    except Exception as error:  # networks and the exporter raise many types
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ValueError(
            f"model.image.timm: {config.timm} cannot be {goal} with image_size "
            f"{config.image_size} ({type(cause).__name__}: {first_line(cause)}); choose a network "
            f"of timm.models.{', '.join(TESTED)}, which are tested"
        ) from None


def image_weights(config: TimmConfig, own: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the weights of the name, or ``own`` ones, with positions of the image size.

    The classifier is left out.
    """
    if own is None:
        tensors: dict[str, Tensor] = _create(config, pretrained=True).state_dict()
        return tensors
    network = _create(config)
    module = sys.modules[type(network).__module__]
    convert = getattr(module, "checkpoint_filter_fn", lambda tensors, network: tensors)
    names = _weights_config(config.timm).get("classifier") or ()
    heads = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    weights = {k: v for k, v in convert(own, network).items() if not k.startswith(heads)}
    # Nothing reads the counters of batch normalization, and many files lack them.
    counters = {k: v for k, v in network.state_dict().items() if k.endswith(COUNTER)}
    return counters | weights


class TimmEncoder(ImageEncoder):
    """A network of timm with random weights, whose pooled state is put before its grid of states.

    Class and register tokens are not part of the states, except for a class token that pools.
    Images are converted from CLIP's normalization to that of the weights, so that all encoders
    have the same input.
    """

    positions = "model.pos_embed"
    scale: Tensor
    shift: Tensor

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        weights = _weights_config(config.timm)
        try:
            self.model = _create(config)
        except (AssertionError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"model.image.timm: {config.timm} cannot be built for image_size "
                f"{config.image_size} and arguments {config.arguments}: {first_line(error)}"
            ) from None
        # MobileNetV3 has a layer after pooling, so its pooled state is wider than its map.
        self.width = getattr(self.model, "head_hidden_size", None) or self.model.num_features
        self.image_size = config.image_size
        reduction = self.model.feature_info[-1]["reduction"]
        # Other networks may pad; their first step shows whether the size fits.
        if config.image_size % reduction and is_tested(config):
            raise ValueError(
                f"image_size {config.image_size} is not a multiple of {reduction}, the size of a "
                f"patch of {config.timm}"
            )
        self.grid = -(-config.image_size // reduction)
        self._prefix = getattr(self.model, "num_prefix_tokens", 0)
        mean, std = (_by_channel(weights[key]) for key in ("mean", "std"))
        self.register_buffer("scale", _by_channel(STD) / std, persistent=False)
        self.register_buffer("shift", (_by_channel(MEAN) - mean) / std, persistent=False)

    def depths(self) -> tuple[dict[str, int], int]:
        """Return timm's group of each parameter, and the number of groups of blocks.

        A downsampling layer is in the group of the block after it, and a norm after the last block
        in that of the last block. Networks without such groups are read by the names of blocks.
        """
        if not hasattr(self.model, "group_matcher"):
            return super().depths()
        named = [*self.model.named_parameters(), (CLASSIFIER, None)]
        matcher = self.model.group_matcher(coarse=False)
        groups: dict[str, int] = group_with_matcher(named, matcher, reverse=True)
        blocks = groups.pop(CLASSIFIER) - 1
        return {f"model.{name}": group for name, group in groups.items()}, blocks

    def attentions(self) -> list[Any]:
        """Return the blocks' attention if the network is a ViT whose class token pools."""
        has_token = getattr(self.model, "global_pool", "") == "token" and self._prefix
        return [block.attn for block in self.model.blocks] if has_token else []

    def drop_patches(self, share: float) -> None:
        """Drop a random share of the patches, only in train mode."""
        if not isinstance(self.model, VisionTransformer):
            super().drop_patches(share)
        dropout = PatchDropout(share, num_prefix_tokens=self._prefix)
        self.model.patch_drop = dropout.train(self.training)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, S, S), normalized by CLIP's mean and deviation, to states."""
        features: Tensor = self.model.forward_features(images * self.scale + self.shift)
        if not isinstance(features, Tensor):
            raise ValueError("its features are a list, not one map or one sequence of tokens")
        pooled: Tensor = self.model.forward_head(features, pre_logits=True)
        if features.ndim == 4:
            if getattr(self.model, "output_fmt", "NCHW") == "NCHW":
                features = features.permute(0, 2, 3, 1)
            # A map is read before the norm of its head, so its scale is arbitrary.
            states = F.layer_norm(features.flatten(1, 2), features.shape[3:])
            states = F.pad(states, (0, self.width - states.shape[2]))
        else:
            states = features[:, self._prefix :]
        # A ViT drops patches in training, and refuses images of another size itself.
        if states.shape[1] != self.grid**2 and not isinstance(self.model, VisionTransformer):
            raise ValueError(
                f"image_size {self.image_size}: the image encoder has {states.shape[1]} states, "
                f"not {self.grid} rows of {self.grid}; set another size"
            )
        return torch.cat([pooled[:, None], states], dim=1)


def _by_channel(values: Any) -> Tensor:
    """Return a value per channel as (3, 1, 1)."""
    return torch.tensor(values)[:, None, None]
