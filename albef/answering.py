"""A VQA checkpoint put to use: questions about pictures, in torch."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from albef.config import validate
from albef.models.weights import CONFIG, CheckpointError, load_checkpoint
from albef.runtime.model import Picture, encoded, image_name
from albef.tasks.vqa import Answer, Config, Task


class Answerer:
    """Answers questions as its run was evaluated: from the run's list, or freely.

    Attributes:
        task: the model, restored.
    """

    def __init__(self, task: Task, device: str) -> None:
        self.task = task.to(device).eval().requires_grad_(False)
        self._device = torch.device(device)

    def ask(self, image: Picture, question: str) -> list[Answer]:
        """Answers to a question about a picture, the most probable first.

        Ranked answers have the probability among those that were scored in full, a written one
        that of its text.

        Raises:
            ImageError: the picture cannot be decoded.
            FileNotFoundError: there is no file at its path.
        """
        return self.ask_all(image, [question])[0]

    def ask_all(self, image: Picture, questions: Sequence[str]) -> list[list[Answer]]:
        """Answers to several questions about one picture, which is encoded once."""
        pixels = self.task.resize(encoded(image), image_name(image, 0))
        images = torch.from_numpy(np.stack([pixels])).to(self._device)
        which = torch.zeros(len(questions), dtype=torch.long, device=self._device)
        return self.task.ask(images, questions, which)


def load(folder: str | os.PathLike[str], *, device: str = "cpu") -> Answerer:
    """Load the checkpoint of a VQA run.

    >>> from albef.answering import load
    >>> load("products/models/vqa").ask("picture.png", "how many keys are there?")[0]

    Args:
        folder: of the checkpoint.
        device: torch's name of where to compute.

    Raises:
        CheckpointError: no checkpoint, a damaged one, or one of another kind.
    """
    checkpoint = load_checkpoint(Path(folder))
    if checkpoint.kind != "vqa":
        raise CheckpointError(
            f"{folder} is of kind {checkpoint.kind}, which answers no questions; give the "
            "checkpoint of a run of kind vqa"
        )
    values = checkpoint.config.get("values")
    config = validate(Config, values, where=str(Path(folder) / CONFIG), key="values")
    return Answerer(Task.restore(config, checkpoint), device)
