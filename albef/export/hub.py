"""Checkpoints at the Hugging Face Hub, fetched by name."""

import logging
import os
import re
from pathlib import Path

from albef.io import first_line
from albef.models.weights import CONFIG, TOKENIZER, WEIGHTS, CheckpointError
from albef.preprocessing.hub import REMEDY, prepare_hub

FILES = (CONFIG, WEIGHTS, TOKENIZER)
"""Files that are fetched. Weights of other formats could contain code."""
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
log = logging.getLogger("albef")


def checkpoint_folder(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Return a local checkpoint folder, fetched from the Hub if ``name`` is a repository there.

    Args:
        name: folder, or as text ``user/name`` at the Hub. A Path, or an existing folder, is local.
        revision: commit, tag or branch at the Hub; None is its main branch.

    Raises:
        CheckpointError: the repository or revision is missing, is not a checkpoint, or cannot be
            reached; or ``revision`` is set for a folder.
    """
    folder = Path(name)
    if folder.is_dir() or not isinstance(name, str) or not _NAME.fullmatch(name):
        if revision is not None:
            raise CheckpointError(f"{name} is a folder, so remove revision ({revision!r})")
        return folder
    from huggingface_hub import snapshot_download

    prepare_hub()
    at = f"{name}@{revision}" if revision else f"{name}"
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # hub, network and cache raise many types
        raise CheckpointError(
            f"there is no folder {name}, and the Hugging Face Hub has not given {at} "
            f"({type(error).__name__}: {first_line(error)}); correct the name, or {REMEDY}"
        ) from None
    if missing := [file for file in FILES if not (found / file).is_file()]:
        raise CheckpointError(
            f"{at} at the Hugging Face Hub is not a checkpoint: {', '.join(missing)} is missing"
        )
    log.info("%s: commit %s", name, found.name)
    return found
