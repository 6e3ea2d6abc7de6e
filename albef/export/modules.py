"""Parts of a finished model, as modules with tensors as only inputs and outputs.

The batch is the first axis of everything, as servers need it. Shapes:

- B images (or questions), T texts of each, L text tokens, N image tokens, S image side
- n = sqrt(N - 1) patches per side, D width, E shared width, H heads
- F layers that read the image, W nodes of a tree of answers, V vocabulary, C classes
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from albef.models.albef import ALBEF
from albef.models.bert import BertLayer, attention_bias
from albef.models.decoder import AnswerDecoder
from albef.models.fusion import FusionEncoder, PairFusionEncoder
from albef.models.kernels import KeyValue
from albef.models.weights import Checkpoint, CheckpointError, load_strict

TRAINING_ONLY = ("model_m.", "mlm_head.", "mlm_head_m.", "queue.", "temperature", "itc_bias")
"""Prefixes of checkpoint tensors that only training needs."""


class Matcher(nn.Module):
    """Inference part of a checkpoint that matches images and texts."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        if "itm_head.weight" not in checkpoint.tensors:
            raise CheckpointError(
                f"{checkpoint.folder} is of kind {checkpoint.kind}, which has no image-text "
                "matching; use a checkpoint of pre-training or of a retrieval run"
            )
        self.model = ALBEF(checkpoint.model, checkpoint.tokenizer.vocab_size)
        self.itm_head = nn.Linear(checkpoint.model.fused.width, 2)
        load_strict(self, checkpoint.tensors, where=str(checkpoint.folder), dropped=TRAINING_ONLY)
        self.eval()
        self.requires_grad_(False)

    def forward(self, text_states: Tensor, text_mask: Tensor, image_states: Tensor) -> Tensor:
        """Return ITM logits (B, 2) of aligned texts (B, L, D) and images (B, N, D)."""
        image = self.model.fusion_encoder.image_key_values(image_states)
        logits: Tensor = self.itm_head(self.model.fused_cls(text_states, text_mask, image))
        return logits


class ImageEncoder(nn.Module):
    """Pixels (B, 3, S, S) to keys and values (B, F, H, N, D / H), and ``image_feat`` (B, E)."""

    def __init__(self, model: ALBEF, *, feat: bool) -> None:
        super().__init__()
        self.model = model
        self.feat = feat

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the input of the fusion layers from images, computed once for every text."""
        states, fusion = self.model.encode_image(image), self.model.fusion_encoder
        if isinstance(fusion, PairFusionEncoder):
            keys, values = _stack(fusion.shared_key_values(states))
        else:
            keys, values = _stack(fusion.image_key_values(states))
        return (keys, values, self.model.image_feat(states)) if self.feat else (keys, values)


class TextEncoder(nn.Module):
    """Ids and mask (B, L) to ``text_states`` (B, L, D) and ``text_feat`` (B, E)."""

    def __init__(self, model: ALBEF) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the text encoder's states and features of texts."""
        states = self.model.text_states(ids, _full_bias(text_mask))
        return states, self.model.text_feat(states)


class TextsMatcher(nn.Module):
    """ITM logits (B, T, 2) of T texts of each image.

    With ``layer``, their heat maps too.
    """

    def __init__(self, matcher: Matcher, layer: int | None) -> None:
        super().__init__()
        self.fusion = matcher.model.fusion_encoder
        self.itm_head = matcher.itm_head
        self.layer = layer

    def forward(
        self, text_states: Tensor, text_mask: Tensor, image_keys: Tensor, image_values: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the logits of each image with its texts."""
        states, mask = text_states.flatten(0, 1), text_mask.flatten(0, 1)
        image = _unstack(image_keys, image_values)
        fused = _fuse(self.fusion, states, mask, image, slice(0, 1))
        logits: Tensor = self.itm_head(fused[:, 0]).unflatten(0, text_mask.shape[:2])
        if self.layer is None:
            return (logits,)
        return logits, self._heat(states, text_mask, image)

    def _heat(self, states: Tensor, text_mask: Tensor, image: list[KeyValue]) -> Tensor:
        """Return the mean attention of each text's tokens to each patch: (B, T, n, n)."""
        assert self.layer is not None
        bias = _full_bias(text_mask.flatten(0, 1))
        for index in range(self.layer):
            states = self.fusion.layer[index](states, bias, image[index])
        layer = cast(BertLayer, self.fusion.layer[self.layer])
        _, weights = layer.cross_weights(states, bias, image[self.layer][0])  # (B, H, T * L, N)
        heat = weights.mean(1)[:, :, 1:].unflatten(1, text_mask.shape[1:])  # (B, T, L, n * n)
        side = round(heat.shape[-1] ** 0.5)
        # A mean over the padded length would depend on the batch.
        mean = (heat * text_mask[..., None]).sum(2) / text_mask.sum(2)[..., None]
        square: Tensor = mean.unflatten(2, (side, side))
        return square


class QuestionEncoder(nn.Module):
    """Questions about B images to the decoder's keys and values of each.

    Ids and mask are (B, T, L), keys and values (B, T, F, H, L, D / H).
    """

    def __init__(self, model: ALBEF, decoder: AnswerDecoder) -> None:
        super().__init__()
        self.model = model
        self.decoder = decoder

    def forward(
        self, ids: Tensor, text_mask: Tensor, image_keys: Tensor, image_values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the input of the decoder from questions, computed once for every answer."""
        mask = text_mask.flatten(0, 1)
        states = self.model.text_states(ids.flatten(0, 1), _full_bias(mask))
        image = _unstack(image_keys, image_values)
        fused = _fuse(self.model.fusion_encoder, states, mask, image, None)
        keys, values = _stack(self.decoder.question_key_values(fused))
        return keys.unflatten(0, ids.shape[:2]), values.unflatten(0, ids.shape[:2])


class TreeDecoder(nn.Module):
    """Logits (B, W, V) of the tokens after the nodes of a tree of answers to each question."""

    def __init__(self, decoder: AnswerDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        sees: Tensor,
        question_keys: Tensor,
        question_values: Tensor,
        question_mask: Tensor,
    ) -> Tensor:
        """Return the logits after each node."""
        question = _unstack(question_keys, question_values)
        states = self.decoder.tree_states(ids, positions, sees, question, question_mask)
        return self.decoder.logits(states)


class Classifier(nn.Module):
    """Logits (B, T, C) of T statements about each image, or each pair of images."""

    def __init__(self, model: ALBEF, head: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(
        self,
        ids: Tensor,
        text_mask: Tensor,
        image_keys: Tensor,
        image_values: Tensor,
        second_keys: Tensor | None = None,
        second_values: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of each statement."""
        mask = text_mask.flatten(0, 1)
        states = self.model.text_states(ids.flatten(0, 1), _full_bias(mask))
        image = _unstack(image_keys, image_values)
        # The fusion layers read the two images in turn.
        if second_keys is not None and second_values is not None:
            second = _unstack(second_keys, second_values)
            image = [layer for pair in zip(image, second, strict=True) for layer in pair]
        fused = _fuse(self.model.fusion_encoder, states, mask, image, slice(0, 1))
        logits: Tensor = self.head(fused[:, 0]).unflatten(0, ids.shape[:2])
        return logits


def _stack(layers: Sequence[KeyValue]) -> tuple[Tensor, Tensor]:
    """Stack one pair per layer into keys and values (B, F, H, N, D / H)."""
    keys, values = zip(*layers, strict=True)
    return torch.stack(keys, 1), torch.stack(values, 1)


def _unstack(keys: Tensor, values: Tensor) -> list[KeyValue]:
    return list(zip(keys.unbind(1), values.unbind(1), strict=True))


def _full_bias(text_mask: Tensor) -> Tensor:
    """Expand (B, L) to (B, 1, L, L), since ONNX Runtime's attention does not broadcast queries."""
    return attention_bias(text_mask).expand(-1, -1, text_mask.shape[1], -1)


def _fuse(
    fusion: FusionEncoder,
    states: Tensor,
    mask: Tensor,
    image: list[KeyValue],
    positions: slice | None,
) -> Tensor:
    """Return texts (B * T, L, D) after the fusion layers, at ``positions`` of the last one."""
    *layers, last = zip(fusion.layer, image, strict=True)
    bias = _full_bias(mask)
    for layer, key_value in layers:
        states = layer(states, bias, key_value)
    layer, key_value = last
    bias = attention_bias(mask) if positions else bias
    return cast(Tensor, layer(states, bias, key_value, positions))
