"""Read and write manifest.json, which describes an export and has the digests of its files.

No torch.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from albef.config import ParamsError, Section, opt_in, validate
from albef.io import file_digest
from albef.preprocessing.transforms import MEAN, STD
from albef.runtime.cleaning import Cleaning, cleaning_of

FORMAT = 5
"""Version of the export format. It increases when an older runtime cannot read the folder."""
NAME = "manifest.json"
TOKENIZER = "tokenizer.json"
ANSWERS = "answers.json"
"""The list that answers are ranked from, in the export of a VQA run."""
Precision = Literal["float32", "float16", "int8"]
"""Type of an export's weights. The inputs and outputs of its graphs are float32, except for states
that one graph passes to another."""


class ExportError(ValueError):
    """Error for a folder that is not an export, or whose files were changed."""


def graph_file(precision: str, graph: str) -> str:
    """Return the path of a graph in an export, in the layout of a Triton model repository."""
    return f"{precision}/{graph}/1/model.onnx"


class Preprocessing(Section):
    """Conversion of an image to pixel values, and of a text to the input of the tokenizer.

    The steps of an image have the order of the fields.
    """

    orientation: Literal["exif"] = "exif"
    """The image is turned upright according to its EXIF orientation."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB color that is put behind transparent parts. The image then has RGB values from 0 to
    255."""
    resize: Literal["bicubic"]
    """Filter that resizes the whole image to a square of ``model.image_size``. The aspect ratio is
    not kept. The result is rounded to integers."""
    cubic: float = -0.5
    """Coefficient of the bicubic filter (Pillow: -0.5, OpenCV: -0.75)."""
    antialias: Literal[True] = True
    """When the filter shrinks an image, it covers proportionally more pixels."""
    rescale: float = 1 / 255
    """Factor of the values."""
    mean: tuple[float, float, float]
    """Mean of each channel, subtracted from values between 0 and 1."""
    std: tuple[float, float, float]
    """Standard deviation of each channel. The result of the subtraction is divided by it."""
    text: Cleaning
    """Cleaning of a text; ``tokenizer.json`` contains it."""


def preprocessing(capability: str, *, public: bool) -> Preprocessing:
    """Return the preprocessing of this version for a model of a capability.

    ``public`` is that of its tokenizer.
    """
    text = cleaning_of(capability, public=public)
    return Preprocessing(resize="bicubic", mean=MEAN, std=STD, text=text)


class Onnx(Section):
    """Versions that a runtime must support to load the graphs."""

    opset: int
    """Version of the ONNX operator set."""
    ir: int
    """Version of the ONNX file format."""


class Verified(Section):
    """Comparison of the graphs with torch, made before the export is complete."""

    tolerance: float
    """Largest absolute difference allowed."""
    below: dict[str, float]
    """For each graph, a power of ten that all differences stay below. The exact differences depend
    on the machine and are in the run record."""
    shapes: list[tuple[int, int, int]]
    """Compared shapes: batch size, texts per image and text length."""


class Answering(Section):
    """Settings with which a VQA model answers."""

    by: Literal["rank", "generate"]
    """Method: ``rank`` ranks the answers of the list, ``generate`` writes an answer freely."""
    k: int
    """Number of answers from the list that are scored in full."""
    beams: int
    """Number of beams, if answers are generated."""
    max_tokens: int
    """Length of the longest generated answer in tokens, special tokens included."""


class Facts(Section):
    """Facts about a model, other than its weights, that are needed to use it."""

    model_config = ConfigDict(
        serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )

    kind: str
    """Kind of the run that trained it."""
    capability: Annotated[str, Field(alias="surface")]
    """Class of its methods: a name in :data:`albef.runtime.loading.CAPABILITIES`."""
    image_size: int
    """Side of the square image, in pixels."""
    max_tokens: int
    """Longest text in tokens, [CLS] included."""
    max_words: int
    """Number of words kept of a text."""
    embed_dim: int | None = None
    """Width of the shared embedding space, for kinds that match images and texts."""
    itc_temperature: float | None = None
    """Learned temperature that divides similarities in the shared space, for the same kinds."""
    itm: bool = opt_in(True)
    """False if the model was trained by contrast alone, so that it cannot match."""
    itc_weight: float | None = opt_in(0.0)
    """Weight of the similarity, divided by ``itc_temperature``, that is added to the margin of
    ``match_logits`` to rank pairs. null ranks by similarity alone."""
    classes: tuple[str, ...] = ()
    """Names of the classes, for kinds that have classes."""
    answering: Answering | None = None
    """Settings of answering, for VQA."""
    threshold: float | None = None
    """For grounding: share of the peak from which a cell of the map belongs to the predicted
    box."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the scores of answers. It calibrates probabilities: an answer is right as often as
    its probability says."""


class Manifest(Section):
    """Description of an export. It does not depend on the time or place of the export."""

    format: int
    """Version of the export format."""
    run: str
    """Name of the run that was exported."""
    model: Facts
    """Facts needed to use the model."""
    graphs: tuple[str, ...]
    """Names of its graphs."""
    precisions: tuple[Precision, ...]
    """Available precisions of the weights. The first one is the default."""
    preprocessing: Preprocessing
    """Conversion of images and texts to the inputs of the graphs."""
    files: dict[str, str]
    """SHA-256 of each file."""
    onnx: Onnx
    """ONNX versions of the graphs."""
    verified: Verified
    """Comparison of the graphs with torch."""
    provenance: dict[str, Any]
    """``checkpoint``, the SHA-256 of the exported weights, and the provenance of the weights."""


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder that already has all other files."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True)
    (folder / NAME).write_text(text + "\n")


def read(folder: Path) -> Manifest:
    """Return the manifest of ``folder``. The files are not compared; :func:`check` does that.

    Raises:
        ExportError: the manifest is missing, damaged, or of another version.
    """
    path = folder / NAME
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        problem = f"it has no {NAME}" if folder.exists() else "it does not exist"
        remedy = "Run `albef run` or `dvc pull` first"
        if (folder / "model.safetensors").exists():
            remedy = "It is a checkpoint; load it with `albef.load`, or export it with `albef run`"
        raise ExportError(f"{folder} is not an export: {problem}. {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is damaged ({error}); {_remedy(folder)}") from None
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise ExportError(
            f"{path} has format {version!r}, but this version of albef reads format {FORMAT}; "
            "export the run again"
        )
    try:
        manifest = validate(Manifest, values, where=str(path))
    except ParamsError as error:
        raise ExportError(f"{error}; {_remedy(folder)}") from None
    capability = manifest.model.capability
    known = [preprocessing(capability, public=public) for public in (False, True)]
    if manifest.preprocessing not in known:
        raise ExportError(
            f"{path} describes a preprocessing that this version of albef does not have; export "
            "the run again, or use the version that exported it"
        )
    return manifest


def check(folder: Path, manifest: Manifest, precision: str) -> None:
    """Check that all needed files exist, are unchanged, and contain their own weights.

    Hidden files are ignored. All others must be in the manifest. A deployed folder may lack the
    files of other precisions.

    Raises:
        ExportError: a file is missing, changed, not listed, or refers to weights in another file.
    """
    names = needed_files(manifest, precision)
    for name in names:
        if not (folder / name).is_file():
            raise ExportError(f"{folder / name} is missing; {_remedy(folder)}")
    listed = {NAME, *manifest.files}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            path = Path(place, file)
            if not file.startswith(".") and path.relative_to(folder).as_posix() not in listed:
                raise ExportError(f"{path} is not listed in {NAME}; remove it")
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(file_digest, [folder / name for name in names]))
    for name, actual in zip(names, digests, strict=True):
        if actual != manifest.files.get(name):
            raise ExportError(
                f"{folder / name} was changed: its SHA-256 is not the one in {NAME}; "
                f"{_remedy(folder)}"
            )
    for graph in manifest.graphs:
        path = folder / graph_file(precision, graph)
        try:
            with path.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as data:
                # A tensor in another file has this key, in any encoding. Our graphs do not have it.
                is_whole = data.find(b"location") < 0
        except ValueError as error:
            raise ExportError(f"{path} is not an ONNX file ({error}); {_remedy(folder)}") from None
        if not is_whole:
            raise ExportError(
                f"{path} has weights in another file, which {NAME} does not cover; "
                f"{_remedy(folder)}"
            )


def needed_files(manifest: Manifest, precision: str) -> list[str]:
    """Return the files that a model of one precision is loaded from."""
    graphs = [graph_file(precision, graph) for graph in manifest.graphs]
    return [TOKENIZER, *([ANSWERS] if manifest.model.answering else []), *graphs]


def digest(folder: Path) -> str:
    """Return the SHA-256 of the manifest, which has the digests of all other files."""
    return file_digest(folder / NAME)


def _remedy(folder: Path) -> str:
    return f"export the run again, or run `dvc checkout {folder}`"
