"""Checkpoints: a folder of safetensors, config and tokenizer, loaded strictly."""

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from albef.config import validate
from albef.io import file_digest, printable
from albef.models.albef import ModelConfig
from albef.models.encoders import ImageEncoder
from albef.preprocessing.text import TextTokenizer

FORMAT = 1
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
_INTEGERS = ("idx_queue", "queue_ptr", "position_ids", "num_batches_tracked")
"""Tensors of the original code, of BERT and of batch normalization that hold integers."""


class CheckpointError(ValueError):
    """A folder that is not a checkpoint, or a checkpoint that does not fit."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint folder.

    Attributes:
        folder: its path.
        kind: ``pretraining`` or the kind of a run.
        model: sizes of the model.
        config: all of config.json, including the provenance.
        tensors: weights by name.
        tokenizer: tokenizer of the model.
    """

    folder: Path
    kind: str
    model: ModelConfig
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    tokenizer: TextTokenizer

    @property
    def digest(self) -> str:
        """SHA-256 of the weights file."""
        return file_digest(self.folder / WEIGHTS)

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one part, such as ``model``, by their names in that part."""
        start = f"{name}."
        return {n.removeprefix(start): t for n, t in self.tensors.items() if n.startswith(start)}


def save_checkpoint(
    folder: str | os.PathLike[str],
    *,
    kind: str,
    model: ModelConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: TextTokenizer,
    values: Mapping[str, Any],
    provenance: Mapping[str, Any] = MappingProxyType({}),
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint; its bytes depend only on the arguments. Files in the folder are replaced.

    Args:
        folder: folder, which may exist.
        kind: ``pretraining``, or the kind of a run, such as ``retrieval``.
        model: sizes of the model; see :attr:`ALBEF.sizes`.
        tensors: weights by name. A model that matches images and texts has its parts ``model`` and
            ``itm_head``, and the scalar ``temperature``.
        tokenizer: tokenizer of the model.
        values: values of the training; inference needs ``max_tokens``.
        provenance: digests of data and parent; no time or machine.
        facts: what the kind also needs to be restored.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / WEIGHTS)
    tokenizer.save(folder / TOKENIZER)
    config = {
        "format": FORMAT,
        "kind": kind,
        "model": model.model_dump(),
        "text": {"sep": tokenizer.public},
        "values": dict(values),
        "provenance": dict(provenance),
    }
    if facts:
        config["facts"] = dict(facts)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``.

    Raises:
        CheckpointError: a file is missing or damaged, or has another format.
        ParamsError: the sizes of the model are wrong.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS, TOKENIZER):
        if not (folder / name).is_file():
            remedy = "run `dvc pull`, or train it"
            if (folder / "manifest.json").is_file():
                remedy = "it is an export; load it with `albef.runtime.load`"
            raise CheckpointError(f"{folder} is not a checkpoint: {name} is missing; {remedy}")
    config = json.loads((folder / CONFIG).read_text())
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{folder / CONFIG}: format {config.get('format')} is not {FORMAT}")
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS} is damaged: {error}") from None
    sizes = validate(ModelConfig, config["model"], where=str(folder / CONFIG), key="model")
    public = bool(config.get("text", {}).get("sep"))
    tokenizer = TextTokenizer.load(folder / TOKENIZER, public=public)
    return Checkpoint(folder, config["kind"], sizes, config, tensors, tokenizer)


def load_strict(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    fresh: Collection[str] = (),
    dropped: Collection[str] = (),
) -> None:
    """Load every tensor; position embeddings of another image size are resized.

    ``where`` names the checkpoint in errors. Names that start with ``fresh`` may keep their initial
    values, and those that start with ``dropped`` may be unused.

    Raises:
        CheckpointError: lists tensors that are missing, unused or of another shape.
    """
    state = module.state_dict()
    missing = [n for n in state if n not in tensors and not n.startswith(tuple(fresh))]
    extra = [n for n in tensors if n not in state and not n.startswith(tuple(dropped))]
    grids = {
        f"{name}.{part.positions}": part.grid
        for name, part in module.named_modules()
        if isinstance(part, ImageEncoder) and part.positions
    }
    fitted = {n: _fit(t, state[n], grids.get(n)) for n, t in tensors.items() if n in state}
    shapes = [
        f"{n} {tuple(t.shape)}, expected {tuple(state[n].shape)}"
        for n, t in fitted.items()
        if t.shape != state[n].shape
    ]
    for fault, names in (("missing", missing), ("left over", extra), ("of another shape", shapes)):
        if names:
            raise CheckpointError(
                f"{where} does not fit: {len(names)} tensors {fault}: {listed(names)}; it was "
                "trained with other values or code, or is of another kind"
            )
    module.load_state_dict(fitted, strict=False)


def check_weights(tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Check that tensors from outside are dense, real and finite.

    Raises:
        CheckpointError: names the file and the first tensor that is not.
    """
    for name, tensor in tensors.items():
        if problem := _problem_of(name, tensor):
            raise CheckpointError(f"{where}: tensor {printable(name[:200])} {problem}")


def _problem_of(name: str, tensor: Tensor) -> str:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        return "is sparse, quantized or without values; save it as a dense float tensor"
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        # Converting an expanded tensor would take memory for each repetition.
        return f"stores fewer values than its shape {tuple(tensor.shape)} has; save a copy of it"
    if tensor.is_floating_point():
        return "" if tensor.isfinite().all() else "contains NaN or Inf; use another checkpoint"
    if tensor.is_complex() or not name.endswith(_INTEGERS):
        return f"has type {tensor.dtype}; save it as a float tensor"
    return ""


def listed(names: Sequence[str]) -> str:
    """Return the first few names, and the number of the others."""
    rest = f" and {len(names) - 5} more" if names[5:] else ""
    return ", ".join(printable(name[:200]) for name in names[:5]) + rest


def _fit(tensor: Tensor, target: Tensor, grid: int | None) -> Tensor:
    """Resize a tensor of position embeddings, whose ``grid`` is not None, to its target."""
    if grid is None or tensor.dim() != 3 or tensor.shape[::2] != target.shape[::2]:
        return tensor
    prefix = target.shape[1] - grid * grid
    fits = grid_side(tensor.shape[1], prefix)
    return resize_position_embedding(tensor, target.shape[1], prefix) if fits else tensor


def grid_side(tokens: int, prefix: int = 1) -> int:
    """Return n for P + n*n tokens, a prefix and a square grid; 0 for any other number."""
    side = math.isqrt(max(tokens - prefix, 0))
    return side if prefix + side * side == tokens else 0


def resize_position_embedding(embedding: Tensor, tokens: int, prefix: int = 1) -> Tensor:
    """Resize position embeddings (1, P + n*n, D) to another square grid: (1, tokens, D).

    Bicubic, corners not aligned, the prefix kept separate, as in the original, where it is [CLS].
    """
    old, new = grid_side(embedding.shape[1], prefix), grid_side(tokens, prefix)
    if old == new:
        return embedding
    cls, grid = embedding[:, :prefix], embedding[:, prefix:]
    grid = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([cls, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
