"""A checkpoint put to use in torch, with the calls that its export has in ONNX Runtime.

Shapes: see :mod:`albef.runtime.model`.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from albef.models.albef import ALBEF
from albef.models.weights import Checkpoint, CheckpointError, load_checkpoint, load_strict
from albef.runtime.model import Floats, Ints, Model
from albef.tasks.ranking import MAX_WORDS

_TRAINING_ONLY = ("model_m.", "mlm_head.", "mlm_head_m.", "queue.", "temperature")


class Matcher(nn.Module):
    """Of a checkpoint that matches images and texts, what is needed after training."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        if "itm_head.weight" not in checkpoint.tensors:
            raise CheckpointError(
                f"{checkpoint.folder} is of kind {checkpoint.kind}, which has no image-text "
                "matching; give a checkpoint of pre-training or of a retrieval run"
            )
        self.model = ALBEF(checkpoint.model, checkpoint.tokenizer.vocab_size)
        self.itm_head = nn.Linear(checkpoint.model.text.width, 2)
        load_strict(self, checkpoint.tensors, where=str(checkpoint.folder), dropped=_TRAINING_ONLY)
        self.eval()
        self.requires_grad_(False)

    def forward(self, text_states: Tensor, text_mask: Tensor, image_states: Tensor) -> Tensor:
        """ITM logits (B, 2) of aligned texts (B, L, D) and images (B, N, D)."""
        image = self.model.fusion_encoder.image_key_values(image_states)
        logits: Tensor = self.itm_head(self.model.fused_cls(text_states, text_mask, image))
        return logits


class TorchModel(Model):
    """A checkpoint, computed by torch in float32.

    Attributes:
        checkpoint: as it lies in its folder.
        matcher: the module.
    """

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        super().__init__(
            checkpoint.tokenizer,
            image_size=checkpoint.model.image.image_size,
            max_tokens=_max_tokens(checkpoint),
            max_words=MAX_WORDS,
            embed_dim=checkpoint.model.embed_dim,
        )
        self.checkpoint = checkpoint
        self.matcher = Matcher(checkpoint).to(device)
        self._device = torch.device(device)

    @torch.no_grad()
    def encode_image(self, pixels: Floats) -> tuple[Floats, Floats]:
        """See :meth:`Model.encode_image`."""
        states = self.matcher.model.encode_image(self._tensor(pixels))
        return _array(states), _array(self.matcher.model.image_feat(states))

    @torch.no_grad()
    def encode_text(self, ids: Ints, text_mask: Ints) -> tuple[Floats, Floats]:
        """See :meth:`Model.encode_text`."""
        states = self.matcher.model.encode_text(self._tensor(ids), self._tensor(text_mask))
        return _array(states), _array(self.matcher.model.text_feat(states))

    @torch.no_grad()
    def score(self, text_states: Floats, text_mask: Ints, image_states: Floats) -> Floats:
        """See :meth:`Model.score`."""
        return _array(
            self.matcher(
                self._tensor(text_states), self._tensor(text_mask), self._tensor(image_states)
            )
        )

    def _tensor(self, array: Floats | Ints) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def load(folder: str | os.PathLike[str], *, device: str = "cpu") -> TorchModel:
    """Load a checkpoint that matches images and texts: ``pretrained``, or a retrieval run.

    >>> model = albef.load("products/models/retrieval")
    >>> model.embed_image(["dog.png"]) @ model.embed_text(["a dog", "two apples"]).T

    Args:
        folder: of the checkpoint.
        device: torch's name of where to compute.

    Raises:
        CheckpointError: no checkpoint, a damaged one, or one of another kind.
    """
    return TorchModel(load_checkpoint(Path(folder)), device)


def _max_tokens(checkpoint: Checkpoint) -> int:
    """The longest text that the checkpoint was trained with."""
    value = checkpoint.config.get("values", {}).get("max_tokens")
    positions = checkpoint.model.text.max_positions
    if not isinstance(value, int) or not 0 < value <= positions:
        raise CheckpointError(
            f"{checkpoint.folder}: max_tokens is {value!r}, but the model has {positions} "
            "text positions"
        )
    return value


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array
