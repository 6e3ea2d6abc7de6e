"""Inference with a checkpoint in torch, with the same calls as its export in ONNX Runtime."""

import os
from collections.abc import Mapping

import torch

from albef.export.graphs import Parts, parts
from albef.export.hub import checkpoint_folder
from albef.models.weights import Checkpoint, load_checkpoint
from albef.runtime.loading import CAPABILITIES
from albef.runtime.model import Array, Backend, Model


class TorchBackend:
    """Backend that computes the graphs of a checkpoint in float32 with torch, on a ``device``."""

    def __init__(self, model: Parts, device: str = "cpu") -> None:
        self._graphs = model.graphs
        self._device = torch.device(device)
        for graph in model.graphs.values():
            graph.module.to(self._device)

    @torch.no_grad()
    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See :meth:`albef.runtime.model.Backend.run`."""
        part = self._graphs[graph]
        tensors = (torch.from_numpy(inputs[name]).to(self._device) for name in part.inputs)
        out = part.module(*tensors)
        out = out if isinstance(out, tuple) else (out,)
        arrays = (tensor.float().cpu().numpy() for tensor in out)
        return dict(zip(part.outputs, arrays, strict=True))


def load(
    folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: str = "cpu",
    min_probability: float = 0.0,
) -> Model:
    """Load a checkpoint, of pre-training or of a run, on a torch ``device``.

    It gives the same probabilities as its export, within rounding.

    >>> model = albef.load("products/models/retrieval")
    >>> model.embed_image(["dog.png"]) @ model.embed_text(["a dog", "two apples"]).T

    Args:
        folder: checkpoint folder with ``config.json`` and ``model.safetensors``, or the name
            ``user/name`` of a repository with these files at the Hugging Face Hub.
        revision: commit, tag or branch at the Hub. Set a commit to load the same weights each time;
            the log has the commit of a branch.
        device: torch device that computes.
        min_probability: minimum probability of an answer or class; if none reaches it, the model
            gives no answer.

    Raises:
        CheckpointError: the folder has no checkpoint or a damaged one, its kind has no inference,
            or the Hub has no such repository or revision.
    """
    model = model_of(load_checkpoint(checkpoint_folder(folder, revision)), device)
    model.min_probability = min_probability
    return model


def model_of(checkpoint: Checkpoint, device: str = "cpu") -> Model:
    """Return the model of a checkpoint that has been read."""
    model = parts(checkpoint)
    return on_backend(TorchBackend(model, device), checkpoint, model)


def on_backend(backend: Backend, checkpoint: Checkpoint, model: Parts) -> Model:
    """Return the model of a checkpoint whose graphs a backend computes."""
    capability = CAPABILITIES[model.facts.capability]
    return capability(backend, checkpoint.tokenizer, model.facts, checkpoint.digest, model.answers)
