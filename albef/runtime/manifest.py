"""manifest.json: what an exported folder is, and the digests that its files must have; no torch."""

import json
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from albef.config import ParamsError, Section, validate
from albef.io import file_digest
from albef.preprocessing.transforms import MEAN, STD

FORMAT = 4
"""Changes when an older runtime could no longer read the folder."""
_READ = (3, FORMAT)  # all facts that 3 lacks have a default
NAME = "manifest.json"
TOKENIZER = "tokenizer.json"
ANSWERS = "answers.json"
"""The list that answers are ranked from, in the export of a VQA run."""
_OUTSIDE = b"\n\x08location"  # in ONNX, the key under which a tensor names the file that holds it
Precision = Literal["float32", "float16", "int8", "int8_weights"]
"""Type of an export's weights; what goes in and comes out of its graphs is float32, but for states
that one graph hands to another."""


class ExportError(ValueError):
    """A folder that is no export, or not the one that was written; its text is the sentence."""


def graph_file(precision: str, graph: str) -> str:
    """The path of a graph in an export, laid out as the model repositories of Triton are."""
    return f"{precision}/{graph}/1/model.onnx"


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
    shapes: list[tuple[int, int, int]]
    """Batch, texts of an image and text length compared."""


class Answering(Section):
    """How a VQA model answers."""

    by: Literal["rank", "generate"]
    """Whether an answer is ranked from the list, or written freely."""
    k: int
    """Answers of the list scored in full."""
    beams: int
    """Answers followed at a time where they are written."""
    max_tokens: int
    """Tokens of the longest answer that is written, marks included."""


class Facts(Section):
    """What has to be known of a model to use it, beside its weights."""

    kind: str
    """Kind of the run that trained it."""
    surface: str
    """What it can be asked: a name in :data:`albef.runtime.loading.SURFACES`."""
    image_size: int
    """Side of the square image, in pixels."""
    max_tokens: int
    """Longest text, in tokens, [CLS] included."""
    max_words: int
    """Words kept of a text."""
    embed_dim: int | None = None
    """Width of the shared space, of kinds that match images and texts."""
    itc_temperature: float | None = None
    """Divides similarities in the shared space, as it was learned; None where it is not known."""
    classes: tuple[str, ...] = ()
    """Names of the classes, of kinds that have some."""
    answering: Answering | None = None
    """Of VQA."""
    threshold: float | None = None
    """Of grounding: share of the peak from which cells of a map count to its own box."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the scores of answers, so that their probabilities are as often right as they say."""


class Manifest(Section):
    """What an export is; nothing of it depends on time or place."""

    format: int
    """Version of this file."""
    run: str
    """Name of the run that was exported."""
    model: Facts
    """What has to be known to use it."""
    graphs: tuple[str, ...]
    """Names of its graphs."""
    precisions: tuple[Precision, ...]
    """Weights there are, the ones that are loaded unless others are named first."""
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
    """The manifest of ``folder``; :func:`check` compares the files.

    Raises:
        ExportError: there is none, it is damaged, or of another version.
    """
    path = folder / NAME
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ExportError(
            f"{folder} holds no export ({NAME} is missing): run `albef run` first, or `dvc pull`"
        ) from None
    except ValueError as error:
        raise ExportError(f"{path} is damaged ({error}): {_remedy(folder)}") from None
    version = values.get("format") if isinstance(values, dict) else None
    if version not in _READ:
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
    return manifest


def check(folder: Path, manifest: Manifest, precision: str) -> None:
    """See that the files that are needed are there and unchanged, and that they are all.

    Other precisions may have been left out of a folder that was deployed.

    Raises:
        ExportError: it names the file that is missing, was changed, or draws on another one.
    """
    names = needed_files(manifest, precision)
    for name in names:
        if name not in manifest.files:
            raise ExportError(f"{folder / NAME} lists no {name}: {_remedy(folder)}")
        if not (folder / name).is_file():
            raise ExportError(f"{folder / name} is missing: {_remedy(folder)}")
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(file_digest, [folder / name for name in names]))
    for name, actual in zip(names, digests, strict=True):
        if actual != manifest.files[name]:
            raise ExportError(
                f"{folder / name} is not the file that was exported (its SHA-256 is not the one "
                f"in {NAME}): {_remedy(folder)}"
            )
        with (folder / name).open("rb") as file:
            if mmap(file.fileno(), 0, access=ACCESS_READ).find(_OUTSIDE) >= 0:
                raise ExportError(
                    f"{folder / name} has weights in another file, which {NAME} does not name: "
                    f"{_remedy(folder)}"
                )


def needed_files(manifest: Manifest, precision: str) -> list[str]:
    """The files that a model of one precision is loaded from."""
    graphs = [graph_file(precision, graph) for graph in manifest.graphs]
    return [TOKENIZER, *([ANSWERS] if manifest.model.answering else []), *graphs]


def digest(folder: Path) -> str:
    """SHA-256 of the manifest and so, through the digests in it, of the whole export."""
    return file_digest(folder / NAME)


def _remedy(folder: Path) -> str:
    return f"export again, or `dvc checkout {folder}`"
