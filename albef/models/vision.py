"""The image encoder: a Vision Transformer with timm's parameter names, so that its weights load."""

import math
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from albef.config import Count, CountOrZero, Section, opt_in
from albef.models import encoders
from albef.models.bert import width_scale
from albef.models.kernels import Layer, narrowed, on_cpu_in_16_bits, rows

_STEM_SCALE = 0.45  # States of convolutions then start as large as those of a linear map.


class ImageConfig(Section):
    """Sizes of the image encoder; ViT-B/16 is 16, 768, 12, 12."""

    image_size: Count
    """Side of the square image, in pixels."""
    patch_size: Count
    """Side of a patch, in pixels."""
    width: Count
    """Width of the image states."""
    depth: Count
    """Number of blocks."""
    heads: Count
    """Number of attention heads of a block."""
    intermediate: CountOrZero = opt_in(0)
    """Hidden width of the feed-forward network; 0 is four times the width, as in ViT."""
    stem: Literal["linear", "convolutions"] = opt_in("linear")
    """Map from pixels to patches. ``linear`` is ViT's: one linear map of each patch.
    ``convolutions`` are 3 x 3 and halve the side until a patch is one state (Xiao et al., 2021,
    arXiv:2106.14881). From random weights, they learn from fewer images. ``patch_size`` must then
    be a power of two, and ``width`` a multiple of half of it. Public weights of a ViT do not fit.
    """

    @model_validator(mode="after")
    def _check_stem(self) -> Self:
        size = self.patch_size
        if self.stem == "convolutions" and (
            size < 2 or size & (size - 1) or self.width % (size // 2)
        ):
            raise ValueError(
                f"stem: convolutions needs a patch_size that is a power of two, and a width that "
                f"is a multiple of half of it; got patch_size {size} and width {self.width}"
            )
        return self


class ImageEncoder(encoders.ImageEncoder):
    """A ViT with [CLS] and final norm (LayerNorm eps 1e-6, exact GELU)."""

    positions = "vit.pos_embed"

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        if config.image_size % config.patch_size:
            raise ValueError(
                f"image_size {config.image_size} is not a multiple of patch_size "
                f"{config.patch_size}"
            )
        self.vit = ViT(config)
        self.width = config.width
        self.image_size = config.image_size
        self.grid = grid = config.image_size // config.patch_size
        with torch.no_grad():
            for submodule in self.vit.blocks.modules():
                if isinstance(submodule, nn.Linear):
                    submodule.weight.mul_(width_scale(config.width))
            # Queries and keys start equal, and positions start four times as large as embedded
            # patches. A patch then first attends to near and similar patches, and its state holds
            # content and position. Otherwise a state describes the whole image, any patch matches
            # a word (losses/wpa), and no word order is learned. [CLS] starts as a feature that
            # queries and keys ignore, with the length of a position. It therefore attends
            # everywhere in each block, instead of to itself from the second block on.
            alike = 2 * torch.eye(config.width)
            alike[0, 0] = 0
            for block in self.vit.blocks:
                block.attn.qkv.weight[: 2 * config.width] = alike.repeat(2, 1)  # type: ignore[union-attr, operator]
            self.vit.pos_embed[0, 0] = 0
            self.vit.pos_embed[0, 0, 0] = 4 * math.ceil(math.sqrt(config.width / 2))
            self.vit.pos_embed[0, 1:] = 4 * sine_positions(grid, config.width)

    def attentions(self) -> list[Any]:
        """Return the blocks' attention."""
        return [block.attn for block in self.vit.blocks]

    def drop_patches(self, share: float) -> None:
        """Drop a random share of the patches, only in train mode."""
        self.vit.dropped_patches = share

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, S, S) to ``image_states`` (B, N, D), [CLS] first.

        In training N is reduced by the patches of :meth:`drop_patches`.
        """
        states: Tensor = self.vit(images)
        return states


class ViT(nn.Module):
    """Vision Transformer without a head, pre-norm (Dosovitskiy et al., 2021), as timm builds it.

    It is not imported from timm because that import takes longer than all others of a training.
    """

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        width, tokens = config.width, 1 + (config.image_size // config.patch_size) ** 2
        self.patch_embed = _PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, width))
        sizes = width, config.heads, config.intermediate or 4 * width
        self.blocks = nn.Sequential(*(_Block(*sizes) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropped_patches = 0.0
        _draw_normal(self.pos_embed)
        nn.init.normal_(self.cls_token, std=1e-6)
        for submodule in self.blocks.modules():
            if isinstance(submodule, nn.Linear):
                _draw_normal(submodule.weight)
                nn.init.zeros_(submodule.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) to states (B, N, D)."""
        patches = self.patch_embed(images)
        cls = self.cls_token.expand(patches.shape[0], -1, -1)  # len() would fix B in an export
        states = torch.cat([cls, patches], dim=1) + self.pos_embed
        if self.training and self.dropped_patches:
            states = self._drop_patches(states)
        result: Tensor = self.norm(self.blocks(narrowed(states)))
        return result

    def _drop_patches(self, states: Tensor) -> Tensor:
        count, patches = len(states), states.shape[1] - 1
        kept = max(1, int(patches * (1 - self.dropped_patches)))
        order = torch.randn(count, patches, device=states.device).argsort(dim=1)
        return torch.cat([states[:, :1], rows(states[:, 1:], order[:, :kept])], dim=1)


class _PatchEmbed(nn.Module):
    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.proj: nn.Module
        if config.stem == "convolutions":
            self.proj = _convolutions(config)
        else:
            self.proj = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.proj(images)
        return patches.flatten(2).transpose(1, 2)


def _convolutions(config: ImageConfig) -> nn.Sequential:
    """Return convolutions that halve the side and double the channels, up to the width."""
    layers: list[nn.Module] = []
    inputs, outputs = 3, 2 * config.width // config.patch_size
    while outputs <= config.width:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        layers += [convolution, nn.GELU()]
        inputs, outputs = outputs, 2 * outputs
    convolution.weight.data *= _STEM_SCALE
    return nn.Sequential(*layers[:-1])


class _Block(Layer):
    def __init__(self, width: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _FeedForward(width, intermediate)

    def compute(self, states: Tensor) -> Tensor:
        """Compute the block: (B, N, D) to (B, N, D)."""
        states = states + self.attn(self.norm1(states))
        result: Tensor = states + self.mlp(self.norm2(states))
        return result


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values in one matrix.

    ``fused_attn`` selects torch's fused kernel, unless products are faster. Without it, the weights
    (B, H, N, N) pass through the module ``attn_drop``, for hooks; the names are timm's.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.fused_attn = heads, True
        self.qkv = nn.Linear(width, 3 * width)
        self.attn_drop = nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        """Mix states (B, N, D)."""
        by_head = self.qkv(states).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = by_head.unbind(0)
        if self.fused_attn and not on_cpu_in_16_bits(states):
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
            mixed = self.attn_drop(scores.softmax(dim=-1)) @ value
        result: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


class _FeedForward(nn.Module):
    def __init__(self, width: int, intermediate: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, intermediate)
        self.fc2 = nn.Linear(intermediate, width)

    def forward(self, states: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(states)))
        return result


@torch.no_grad()
def _draw_normal(tensor: Tensor) -> None:
    """Fill with normal values of deviation 0.02, drawn as in timm with any version of torch."""
    tensor.uniform_(-1, 1).erfinv_().mul_(0.02 * math.sqrt(2)).clamp_(-2, 2)


def sine_positions(grid: int, width: int) -> Tensor:
    """Return initial position embeddings (grid^2, D) of a model without pre-trained weights.

    They are sine and cosine of row and column, at wavelengths from 2 pi to 200 pi patches. Each has
    a quarter of the width; the remainder is zero. They are as large as the embedded patches. The
    usual start is noise of deviation 0.02. The patches then dominate, and a small model that is
    trained for minutes does not learn to distinguish left from above.
    """
    quarter = width // 4
    wave = torch.arange(grid)[:, None] / 100 ** (torch.arange(quarter) / quarter)
    axis = torch.cat([wave.sin(), wave.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, grid, -1), axis[None].expand(grid, -1, -1)
    positions = torch.zeros(grid * grid, width)
    positions[:, : 4 * quarter] = torch.cat([rows, columns], dim=2).flatten(0, 1)
    return positions
