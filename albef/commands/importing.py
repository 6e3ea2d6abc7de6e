"""``albef import``: convert a checkpoint of the original code to a folder of ours, or back.

The conversion is strict: every tensor must map to the task of its kind, and none may be missing or
left over.
"""

import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from albef.config import did_you_mean
from albef.export.graphs import config_of
from albef.io import atomic, dying_with_parent, file_digest
from albef.models.albef import resized
from albef.models.encoders import TimmConfig, TransformersConfig
from albef.models.original import kind_of, read_original, sizes_of, to_original, to_ours
from albef.models.weights import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_strict,
    save_checkpoint,
)
from albef.preprocessing.text import TextTokenizer
from albef.tasks.answer_list import answer_list

TOKENIZER = "bert-base-uncased"
"""Tokenizer of the original code."""
MAX_IMAGE_SIZE = 4096
"""Largest image side in pixels: a larger one has position embeddings of many gigabytes."""
KINDS = {
    "pretraining": 25,
    "retrieval": 30,
    "grounding": 30,
    "vqa": 25,
    "entailment": 30,
    "text_assignment": 25,
    "nlvr2": 30,
}
"""Kinds of the original code, with the length in tokens at which each cuts a text."""


def import_original(
    path: str | os.PathLike[str],
    *,
    tokenizer: str | Path = TOKENIZER,
    kind: str | None = None,
    image_size: int | None = None,
    heads: tuple[int, int] | None = None,
    answers: Path | None = None,
) -> Checkpoint:
    """Convert a checkpoint of the original code to a checkpoint of ours.

    >>> checkpoint = import_original("ALBEF.pth", tokenizer="vocab.txt")

    Args:
        path: file saved by torch; it becomes the ``folder`` of the result.
        tokenizer: vocabulary file, folder with one, or name on the Hugging Face Hub.
        kind: kind of the run; None infers it from the names of the tensors.
        image_size: image side to which position embeddings are resized; None keeps the original
            size.
        heads: attention heads of the image and of the text encoder; None takes one for each 64 of
            width, and accepts only 12 layers of images and 12 of texts.
        answers: JSON list of the answers that a VQA model ranks; the checkpoint does not hold them.

    Raises:
        CheckpointError: the checkpoint is damaged, of another kind or size, or does not fit.
        ValueError: the tokenizer or list is missing or of no use, or has another vocabulary.
    """
    path, where = Path(path), str(path)
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder, and checkpoints of the original code are files; to write a "
            "checkpoint of ours for the original code, add --back"
        )
    if not path.is_file():
        raise CheckpointError(f"checkpoint file {path} does not exist")
    original = read_original(path)
    kind = kind or kind_of(original, where=where)
    if kind not in KINDS:
        raise CheckpointError(f"the original code has no kind {kind!r}{did_you_mean(kind, KINDS)}")
    if answers and kind != "vqa":
        raise ValueError(f"--answers is for vqa, but {path} is of kind {kind}; remove it")
    sizes = sizes_of(original, kind, where=where, heads=heads)
    image_size = sizes.image.image_size if image_size is None else image_size
    if not 0 < image_size <= MAX_IMAGE_SIZE:
        raise ValueError(f"--image-size is {image_size}; it must be 1 to {MAX_IMAGE_SIZE} pixels")
    if "temp" in original and not original["temp"].gt(0).all():
        raise CheckpointError(f"{path}: temp is {original['temp'].item()}; it must be above 0")
    vocab = TextTokenizer.load(tokenizer)
    for name, tensor in original.items():
        if name.endswith("word_embeddings.weight") and len(tensor) != vocab.vocab_size:
            raise CheckpointError(
                f"{path} embeds {len(tensor)} tokens, but {tokenizer} has {vocab.vocab_size}; set "
                "--tokenizer to the vocabulary that it was trained with"
            )
    values = {"image_size": image_size, "max_tokens": KINDS[kind]}
    if "image_queue" in original:
        values["queue_size"] = original["image_queue"].shape[-1]
    if kind == "grounding":  # The third of six fusion layers.
        values["layer"] = (sizes.fused.fusion_depth - 1) // 2
    facts = {"answers": answer_list(f"{answers}", "", None)} if answers else {}
    draft = Checkpoint(path, kind, sizes, {"values": values, "facts": facts}, {}, vocab)
    expected = _build_meta_task(draft).state_dict()
    text_layers = sizes.fused.depth - sizes.fused.fusion_depth
    tensors = to_ours(original, expected, kind, text_layers, where=where)
    draft = dataclasses.replace(draft, model=resized(sizes, image_size))
    task = _build_meta_task(draft).to_empty(device="cpu")
    load_strict(task, tensors, where=where)
    return dataclasses.replace(draft, tensors=task.state_dict())


def _build_meta_task(checkpoint: Checkpoint) -> torch.nn.Module:
    """Build the task of a checkpoint on the meta device, which has shapes but no memory."""
    task_class = importlib.import_module(f"albef.tasks.{checkpoint.kind}").Task
    sizes = () if checkpoint.kind == "pretraining" else (checkpoint.model,)
    with torch.device("meta"):
        task: torch.nn.Module = task_class(config_of(checkpoint), *sizes, checkpoint.tokenizer)
    return task


def export_original(folder: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Write a checkpoint folder of ours to a file that the original code loads.

    Raises:
        CheckpointError: the folder has no checkpoint, or one with parts that the original lacks.
    """
    checkpoint = load_checkpoint(folder)
    text, image = checkpoint.model.text, checkpoint.model.image
    if isinstance(text, TransformersConfig) or isinstance(image, TimmConfig):
        raise CheckpointError(f"{folder} has an encoder that the original code lacks")
    if image.stem != "linear":
        raise CheckpointError(f"{folder} has a stem that the original code lacks: {image.stem}")
    state = to_original(checkpoint.tensors, checkpoint.kind, text.depth - text.fusion_depth)
    with atomic(Path(target)) as part:
        torch.save({"model": {name: t.clone() for name, t in state.items()}}, part)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write an imported checkpoint atomically to a new folder."""
    with atomic(folder) as part:
        save_checkpoint(
            part,
            kind=checkpoint.kind,
            model=checkpoint.model,
            tensors=checkpoint.tensors,
            tokenizer=checkpoint.tokenizer,
            values=checkpoint.config["values"],
            facts=checkpoint.config["facts"],
            provenance={"imported": checkpoint.folder.name, "file": file_digest(checkpoint.folder)},
        )


def track(folder: Path) -> str:
    """Add a folder to DVC if it is in a DVC project; return the outcome as text."""
    root = next((up for up in folder.resolve().parents if (up / ".dvc").is_dir()), None)
    if root is None:
        return "not tracked by DVC: the folder is outside a DVC project"
    command = [sys.executable, "-m", "dvc", "add", "--quiet", str(folder.resolve())]
    if subprocess.run(dying_with_parent(command), cwd=root).returncode:  # DVC prints the reason.
        return f"not tracked by DVC: run `dvc add {folder}` again"
    return f"tracked by DVC; add {folder}.dvc to git"


def main(
    source: Path, target: Path, *, track_it: bool = True, back: bool = False, **options: Any
) -> None:
    """Import a checkpoint, or export one if ``back`` is true.

    The options are those of :func:`import_original`.
    """
    if target.exists():  # Checked first, because reading the source can take gigabytes.
        raise CheckpointError(f"{target} exists already; remove it, or choose another name")
    if back:
        export_original(source, target)
        print(f"{target}: written in the format of the original code")
        return
    checkpoint = import_original(source, **options)
    write(checkpoint, target)
    tracked = track(target) if track_it else "not tracked by DVC (--no-dvc)"
    count = sum(t.numel() for n, t in checkpoint.tensors.items() if not n.startswith("queue."))
    print(
        f"{target}: kind {checkpoint.kind}, {len(checkpoint.tensors)} tensors, "
        f"{count / 1e6:.1f} M values, {checkpoint.model.image.image_size} px; {tracked}"
    )
