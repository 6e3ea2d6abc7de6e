"""The interface of encoders, and the values that choose one of a library.

Other code reads the states, and never asks for the class. The pooled state comes first:

- ``image_states`` (B, 1 + n * n, D) are the pooled state and a grid of n rows of n states.
- ``text_states`` (B, L, D) are a state for each token; the first token pools.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from albef.config import Count, CountOrZero, Section, Share, opt_in

PART = re.compile(r"(image_encoder|text_encoder)(?:\.(embeddings|blocks\.\d+(?:-\d+)?))?")
"""An encoder or a part of it: what comes before its blocks, or one or several blocks from 0."""
BLOCK = re.compile(r"(.*\b(?:blocks|layers?|stages)\.\d+)\.")
"""A parameter's name, from which the block that has it is taken."""


class TimmConfig(Section):
    """An image encoder of timm: a ViT of any kind, or a network with a map of features."""

    timm: str
    """Name of the model, such as ``vit_small_patch14_dinov2.lvd142m``."""
    pretrained: bool | str = True
    """Public weights: true for those that timm has under this name, false for random ones, or the
    path of a file with weights of this model."""
    image_size: CountOrZero = 0
    """Side of the square image in pixels; 0 is that of the public weights."""
    arguments: dict[str, Any] = opt_in({})
    """Further arguments of ``timm.create_model``, such as ``{depth: 6}``."""


class TransformersConfig(Section):
    """A text encoder of transformers, of the shape of BERT."""

    transformers: str
    """Name at Hugging Face, such as ``FacebookAI/xlm-roberta-base``, or a folder. Unless you set
    ``pretrain.tokenizer``, its tokenizer is used."""
    pretrained: bool | str = True
    """Public weights: true for those of the name or folder, false for random ones, or the path of
    a folder with weights."""
    max_positions: Count = 512
    """Maximum length of a text, in tokens."""
    pooling: Literal["cls", "mean"] | None = opt_in(None)
    """Pooled state of a text: that of its first token, or the mean over its tokens. If unset, it is
    what the files of the name say (``1_Pooling/config.json``), else ``cls``."""
    config: dict[str, Any] | None = opt_in(None)
    """Configuration of the architecture, as in ``config.json``; null reads that of the name."""


class FusionConfig(Section):
    """Sizes of the fusion encoder of a text encoder of transformers."""

    depth: Count = 6
    """Number of layers."""
    width: CountOrZero = 0
    """Width of the fused states; 0 is that of the text encoder."""
    heads: CountOrZero = 0
    """Number of attention heads of a layer; 0 is that of the text encoder."""
    intermediate: CountOrZero = 0
    """Hidden width of the feed-forward network; 0 is four times the width."""
    dropout: Share = 0.1
    """Dropout of states and attention."""
    start: Literal["random", "text"] = "random"
    """Initial layers: random ones, or, as in the paper, the last ``depth`` layers of the text
    encoder, which then lacks them. Cross-attention always starts at random."""


class Encoder(nn.Module):
    """An encoder of either kind."""

    width: int
    """Width of its states."""

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode; frozen parts stay in eval mode.

        Batch normalization does too. It uses fixed statistics, so the states of an image do not
        depend on the other images of a batch.
        """
        super().train(mode)
        _keep_in_eval(self)
        return self

    def depths(self) -> tuple[dict[str, int], int]:
        """Return the depth of each parameter by name, and the number of blocks.

        Parameters before the first block have 0, those of the blocks 1 and so on, and those after
        the last block the number of blocks plus 1.
        """
        blocks: dict[str, int] = {}
        result = {}
        for name, _ in self.named_parameters():
            if match := BLOCK.match(name):
                result[name] = blocks.setdefault(match[1], len(blocks) + 1)
            else:
                result[name] = len(blocks) + bool(blocks)
        return result, len(blocks)

    @property
    def blocks(self) -> list[nn.Module]:
        """Its blocks, in order."""
        found = (BLOCK.match(name) for name, _ in self.named_parameters())
        return [self.get_submodule(name) for name in dict.fromkeys(m[1] for m in found if m)]

    def part(self, name: str) -> list[nn.Parameter]:
        """Return the parameters of a part: ``""`` is all, others have the form :data:`PART`.

        Raises:
            ValueError: the encoder has no such block.
        """
        if not name:
            return [*self.parameters()]
        first, _, last = name.removeprefix("blocks.").partition("-")
        chosen = range(1) if name == "embeddings" else range(int(first) + 1, int(last or first) + 2)
        depths, count = self.depths()
        if chosen.stop > count + 1 or not chosen:
            raise ValueError(f"there is no {name}; choose from blocks 0 to {count - 1}")
        return [p for key, p in self.named_parameters() if depths[key] in chosen]


def _keep_in_eval(module: nn.Module) -> None:
    """Set batch normalization, and modules whose parameters are all frozen, to eval mode."""
    parameters = [*module.parameters()]
    is_frozen = bool(parameters) and not any(p.requires_grad for p in parameters)
    if is_frozen or isinstance(module, _BatchNorm):
        for part in module.modules():
            part.training = False
        return
    for child in module.children():
        _keep_in_eval(child)


def freeze(task: nn.Module, parts: Sequence[str]) -> None:
    """Exclude encoders of a task, or parts of them as in :data:`PART`, from its training.

    Raises:
        ValueError: the task has no such encoder in ``model``, or the encoder no such part.
    """
    for part in parts:
        name, _, inside = part.partition(".")
        encoder = getattr(getattr(task, "model", task), name, None)
        if not isinstance(encoder, Encoder):
            raise ValueError(f"freeze: the task has no {name} in `self.model`; remove it")
        try:
            parameters = encoder.part(inside)
        except ValueError as error:
            raise ValueError(f"freeze: {part}: {error}") from None
        for parameter in parameters:
            parameter.requires_grad_(False)


class ImageEncoder(Encoder):
    """An interface of image encoders.

    A subclass sets ``width``, ``grid`` and ``image_size``, and defines ``forward``. Its states
    (B, 1 + n * n, D) are the pooled state and a grid of n rows of n states.
    """

    grid: int
    """n: rows and columns of the grid of states."""
    image_size: int
    """S: side of its square images, in pixels."""
    cached_block: int | None = None
    """Number of the block, from 0, whose input a cache holds; None if it holds the states."""
    positions: ClassVar[str] = ""
    """Name of its position embeddings (1, P + n * n, D), which a checkpoint of another image size
    has in another number; "" if it has none."""

    def attentions(self) -> list[Any]:
        """Return the blocks' attention; none if no token pools, as in a convolutional network.

        They have the form of timm: if ``fused_attn`` is false, the weights (B, H, T, T) pass
        through the module ``attn_drop``. Their first row is that of the pooled state.
        """
        return []

    def drop_patches(self, share: float) -> None:
        """Drop a random share of the patches, only in train mode."""
        raise ValueError("patch_dropout needs a Vision Transformer as image encoder; set it to 0")

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, S, S), normalized by CLIP's mean and deviation, to states."""
        raise NotImplementedError

    def first_learning(self) -> int | None:
        """Return the number of the first block that learns, or of the last one if only layers
        after it learn; None if nothing learns. All layers below it are frozen.
        """
        order: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            if match := BLOCK.match(name):
                order.setdefault(match[1], len(order))
            if parameter.requires_grad:
                return order[match[1]] if match else max(len(order) - 1, 0)
        return None

    def frozen_part(self, images: Tensor) -> Tensor:
        """Return what a cache holds of images (B, 3, S, S): the input of :attr:`cached_block`."""
        if self.cached_block is None:
            states: Tensor = self(images)
            return states

        def stop(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            raise _Reached(inputs[0])

        hook = self.blocks[self.cached_block].register_forward_pre_hook(stop)
        try:
            self(images)
        except _Reached as reached:
            return reached.states
        finally:
            hook.remove()
        raise AssertionError("the block was not called")

    def learning_part(self, cached: Tensor) -> Tensor:
        """Return the states (B, 1 + n * n, D) of images from what a cache holds of them."""
        cached = cached.float()
        if self.cached_block is None:
            return cached

        def replace(block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (cached, *inputs[1:])

        hook = self.blocks[self.cached_block].register_forward_pre_hook(replace)
        try:
            # The layers below compute one blank image, whose states are replaced.
            states: Tensor = self(cached.new_zeros(1, 3, self.image_size, self.image_size))
            return states
        finally:
            hook.remove()


class _Reached(Exception):
    """The input of a block, which ends the computation there."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


class TextEncoder(Encoder):
    """An interface of text encoders.

    A subclass sets ``width``, and defines ``forward`` and the property ``words``, its word
    embeddings (V, W). Its states (B, L, D) are one for each token; the first token pools.
    """

    @property
    def words(self) -> Tensor:
        """Return the word embeddings (V, W), which the MLM head shares."""
        raise NotImplementedError

    def forward(self, ids: Tensor, bias: Tensor) -> Tensor:
        """Encode token ids (B, L) and additive bias (B, 1, 1 or L, L) to states (B, L, D)."""
        raise NotImplementedError
