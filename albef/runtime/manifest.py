"""manifest.json: what an exported folder is, and the digests that its files must have; no torch."""

import json
from pathlib import Path
from typing import Any, Literal

from albef.config import ParamsError, Section, validate
from albef.data.transforms import MEAN, STD
from albef.digest import file_digest

FORMAT = 1
"""Changes when an older runtime could no longer read the folder."""
NAME = "manifest.json"
TOKENIZER = "tokenizer.json"
GRAPHS = ("image_encoder", "text_encoder", "matcher")


class ExportError(ValueError):
    """A folder that is no export, or not the one that was written; its text is the sentence."""


def graph_file(graph: str) -> str:
    """The file name of a graph."""
    return f"{graph}.onnx"


FILES = (*(graph_file(graph) for graph in GRAPHS), TOKENIZER)
"""The files of an export beside its manifest."""


class Preprocessing(Section):
    """How a picture becomes pixels."""

    resize: Literal["bicubic"]
    """Filter with which the whole picture is brought to the square, whatever its shape."""
    mean: tuple[float, float, float]
    """Subtracted from each channel of values from 0 to 1."""
    std: tuple[float, float, float]
    """Then divides each channel."""


PREPROCESSING = Preprocessing(resize="bicubic", mean=MEAN, std=STD)
"""What this version of the library does."""


class Onnx(Section):
    """Versions that a runtime must understand."""

    opset: int
    """Version of the operators."""
    ir: int
    """Version of the file format."""


class Verified(Section):
    """How the graphs were compared with torch before the folder was finished."""

    tolerance: float
    """Largest absolute difference allowed."""
    below: dict[str, float]
    """A power of ten that no difference of the graph's outputs reached. The figures themselves
    are in the run record: they depend on the machine, and the manifest must not."""
    shapes: list[tuple[int, int]]
    """Batch and text length compared."""


class Manifest(Section):
    """What an export is; nothing of it depends on time or place."""

    format: int
    """Version of this file."""
    kind: str
    """Kind of the run that was exported."""
    image_size: int
    """Side of the square image, in pixels."""
    max_tokens: int
    """Longest text, in tokens, [CLS] included."""
    max_words: int
    """Words kept of a text."""
    embed_dim: int
    """Width of the shared space."""
    preprocessing: Preprocessing
    """How a picture becomes pixels."""
    files: dict[str, str]
    """SHA-256 of each file."""
    onnx: Onnx
    """Versions of the graphs."""
    verified: Verified
    """The comparison with torch."""
    provenance: dict[str, Any]
    """``checkpoint``, the SHA-256 of the weights exported, and what their own provenance says."""


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder whose other files are in place."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True)
    (folder / NAME).write_text(text + "\n")


def read(folder: Path) -> Manifest:
    """The manifest of ``folder``, whose files are all there and unchanged.

    Raises:
        ExportError: it names the file that is missing or was changed.
    """
    path = folder / NAME
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise ExportError(
            f"{folder} holds no export ({NAME} is missing): run `albef run` first, or `dvc pull`"
        ) from None
    except ValueError as error:
        raise ExportError(f"{path} is damaged ({error}): {_remedy(folder)}") from None
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise ExportError(
            f"{path} has format {version!r}; this version of albef reads {FORMAT}: export again"
        )
    try:
        manifest = validate(Manifest, values, where=str(path))
    except ParamsError as error:
        raise ExportError(f"{error}: {_remedy(folder)}") from None
    if manifest.preprocessing != PREPROCESSING:
        raise ExportError(
            f"{path} asks for another preprocessing of pictures than this version of albef has "
            f"({PREPROCESSING}); export again, or use the version that exported it"
        )
    if set(manifest.files) != set(FILES):
        raise ExportError(
            f"{path} lists {', '.join(sorted(manifest.files)) or 'no files'}; an export has "
            f"{', '.join(sorted(FILES))}: {_remedy(folder)}"
        )
    for name in FILES:
        if not (folder / name).is_file():
            raise ExportError(f"{folder / name} is missing: {_remedy(folder)}")
        if file_digest(folder / name) != manifest.files[name]:
            raise ExportError(
                f"{folder / name} is not the file that was exported (its SHA-256 is not the one "
                f"in {NAME}): {_remedy(folder)}"
            )
    return manifest


def digest(folder: Path) -> str:
    """SHA-256 of the manifest and so, through the digests in it, of the whole export."""
    return file_digest(folder / NAME)


def _remedy(folder: Path) -> str:
    return f"export again, or `dvc checkout {folder}`"
