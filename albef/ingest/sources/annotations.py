"""Kind ``annotations``: JSON of the public datasets, in the format of the original code or COCO's.

Rows of the same image have the same image id, even in different splits. Meta contains the file of
the image as ``path``.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import model_validator

from albef.config import ParamsError
from albef.data.boxes import is_box
from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources.rows import (
    FilesBySplit,
    Row,
    SplitFiles,
    abbreviate,
    attempt,
    json_rows,
    read_image,
    read_json,
    to_json,
)  # fmt: skip

VG_WEIGHT = 0.5
"""Weight of Visual Genome's only answer, as in the original code."""


class Config(SplitFiles):
    """JSON lists of annotations, and the folder of their images."""

    format: Literal["captions", "coco", "vqa", "entailment", "nlvr2", "grounding"]
    """Format of the rows; see docs/how-to/data-sources.md."""
    files: FilesBySplit
    """JSON lists or JSON lines by split."""
    images: str
    """Folder that the paths of the images are relative to."""
    joined: bool = False
    """For ``captions``: true merges the rows of an image into one record. false makes a record of
    each row, as in the original code, and stores the image with each of them."""
    boxes: str | None = None
    """For ``grounding``: JSON with the true box of each ``ref_id``, if the rows have no boxes."""
    proposals: str | None = None
    """For ``grounding``: JSON with boxes by image id, such as ``dets.json`` and ``cocos.json``."""

    @model_validator(mode="after")
    def _check_format(self) -> Self:
        requirements = {"boxes": "grounding", "proposals": "grounding", "joined": "captions"}
        for name, required in requirements.items():
            if getattr(self, name) and self.format != required:
                raise ValueError(f"{name} requires format: {required}; remove it")
        return self

    def inputs(self) -> dict[str, Path]:
        """Return the JSON lists, and the files of boxes and proposals."""
        lists = [name for files in self.files.values() for name in files]
        return {name: Path(name) for name in (*lists, self.boxes, self.proposals) if name}

    def fields_of_row(self) -> frozenset[str] | None:
        """Return no field if ``joined``: the path is that of the image."""
        return frozenset() if self.joined else None


class Parsed(NamedTuple):
    """Content of a row."""

    row: Row
    images: tuple[str, ...]
    captions: tuple[str, ...]
    meta: dict[str, Any]


def records(config: Config, seed: int) -> Iterator[Record | Rejection]:
    """Yield the rows of all splits, in the order of the files."""
    root = Path(config.images)
    ids: dict[tuple[str, ...], int] = {}
    parse = _parser(config)
    for split, files in config.files.items():
        results = (attempt(row, parse) for row in _rows(files, config.format))
        for number, entry in enumerate(results):
            if isinstance(entry, Rejection):
                yield entry
            else:
                yield attempt(entry.row, _record, entry, root, f"{split}-{number:07d}", split, ids)


def _record(
    row: Row, parsed: Parsed, root: Path, key: str, split: str, ids: dict[tuple[str, ...], int]
) -> Record:
    image, *more = (read_image(root, name) for name in parsed.images)
    image_id = ids.setdefault(parsed.images, len(ids))
    meta = {**parsed.meta, "path": parsed.images[0]}
    return Record(key, image, parsed.captions, image_id, split, "annotations", meta, tuple(more))


def _rows(files: list[str], form: str) -> Iterator[Row]:
    for file in map(Path, files):
        values = read_json(file)
        yield from json_rows(file, _coco(file, values) if form == "coco" else values, "image")


def _coco(file: Path, values: Any) -> list[Any]:
    """Return a row with all captions of each image of COCO's ``captions_val2017.json``."""
    images, annotations = (
        values.get(name) if isinstance(values, Mapping) else None
        for name in ("images", "annotations")
    )
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise ParamsError(f"{file} must hold lists under 'images' and 'annotations', as COCO's do")
    captions: dict[str, list[object]] = {}
    for annotation in annotations:
        if isinstance(annotation, Mapping):
            captions.setdefault(str(annotation.get("image_id")), []).append(
                annotation.get("caption")
            )
    return [
        {"image": image.get("file_name"), "caption": captions.get(str(image.get("id")))}
        if isinstance(image, Mapping)
        else image
        for image in images
    ]


def _parser(config: Config) -> Callable[[Row], Parsed]:
    match config.format:
        case "captions" | "coco":
            return lambda row: Parsed(row, (row.text("image"),), row.texts("caption"), {})
        case "vqa":
            return _vqa
        case "entailment":
            return _entailment
        case "nlvr2":
            return _nlvr2
    return _grounding(config)


def _entailment(row: Row) -> Parsed:
    label = row.one_of("label", ("contradiction", "neutral", "entailment"))
    return Parsed(row, (f"{row.text('image')}.jpg",), (row.text("sentence"),), {"label": label})


def _vqa(row: Row) -> Parsed:
    source = row.one_of("dataset", ("vqa", "vg"))
    meta: dict[str, Any] = {"question_id": to_json(row.get("question_id")), "dataset": source}
    if row.get("answer") is not None:  # Rows of the test split have no answer.
        answers = row.texts("answer")
        if source == "vg":
            meta["answers"] = dict.fromkeys(answers, VG_WEIGHT)
        else:
            counts = Counter(answers)
            meta["answers"] = {answer: n / len(answers) for answer, n in counts.items()}
            meta["annotators"] = list(answers)
    return Parsed(row, (row.text("image"),), (row.text("question"),), meta)


def _nlvr2(row: Row) -> Parsed:
    if row.get("images") is None and row.get("identifier") is not None:  # NLVR2's own files
        pair, folder = row.text("identifier").rpartition("-")[0], row.get("directory")
        name = pair if folder is None else f"{folder}/{pair}"
        images: tuple[str, ...] = (f"{name}-img0.png", f"{name}-img1.png")
    else:
        images = row.texts("images")
    if len(images) != 2:
        raise RowError(Reason.MISSING_FIELD, f"'images' must be two images, got {len(images)}")
    label = row.one_of("label", ("True", "False"))
    return Parsed(row, images, (row.text("sentence"),), {"label": label})


def _grounding(config: Config) -> Callable[[Row], Parsed]:
    boxes = _boxes_by_id(config.boxes)
    proposals = _boxes_by_id(config.proposals)

    def parse(row: Row) -> Parsed:
        image, ref_id = row.text("image"), row.get("ref_id")
        meta: dict[str, Any] = {"ref_id": to_json(ref_id)}
        box = row.get("box") or boxes.get(str(ref_id))
        if box is not None:
            meta["box"] = _box(box)
        if config.proposals:
            of_image = proposals.get(number_in(image) or "")
            if not isinstance(of_image, list):
                raise RowError(Reason.MISSING_FIELD, f"{config.proposals} has no boxes for {image}")
            meta["proposals"] = [_box(proposal) for proposal in of_image]
        return Parsed(row, (image,), row.texts("text"), meta)

    return parse


def _boxes_by_id(name: str | None) -> Mapping[str, Any]:
    boxes = {} if name is None else read_json(Path(name))
    if not isinstance(boxes, Mapping):
        raise ParamsError(f"{name} must contain an object of boxes by id")
    return boxes


def number_in(name: str) -> str | None:
    """Return the last number in a file's name, without leading zeros: COCO's image id."""
    numbers = re.findall("[0-9]+", Path(name).stem)
    return (numbers[-1].lstrip("0") or "0") if numbers else None


def _box(box: object) -> list[float]:
    """Return a box (x, y, width, height) without further values, such as a detection's score."""
    sides = box[:4] if isinstance(box, list) else None
    if not is_box(sides) or min(sides[2:]) <= 0:
        detail = f"a box must be [x, y, width, height], got {abbreviate(box)}"
        raise RowError(Reason.MISSING_FIELD, detail)
    return [float(side) for side in sides]
