"""Kind ``annotations``: the JSON lists of the public data sets, as the original code has them.

Rows that show the same picture have the same image id, whatever their split. The file of an image
is kept in ``path``, in meta.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from albef.config import ParamsError
from albef.data.record import Record
from albef.data.refusal import Reason, Refusal, Refused
from albef.ingest.sources.files import ImageIds, Row, number_in, read_json, rows
from albef.ingest.sources.licences import Outside

LICENCES: tuple[dict[str, str], ...] = ()
VQA_LABELS = ("vqa", "vg")
VE_LABELS = ("contradiction", "neutral", "entailment")
NLVR2_LABELS = ("True", "False")
VG_WEIGHT = 0.5
"""Weight of Visual Genome's one answer, as in the original."""

Split = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class Config(Outside):
    """JSON lists of annotations, and the folder of their pictures."""

    kind: Literal["annotations"]
    """This kind."""
    format: Literal["captions", "vqa", "entailment", "nlvr2", "grounding"]
    """What a row holds: see docs/checkpoints.md."""
    files: Annotated[dict[Split, Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    """JSON lists by split."""
    images: str
    """Folder that the images' paths start from."""
    joined: bool = False
    """Captions: whether the rows of a picture are one record; false is a record for each row, as
    the original trains, which keeps a picture once for each of its rows."""
    boxes: str | None = None
    """Grounding: JSON of the true box of each ``ref_id``, where the rows have none; else null."""
    proposals: str | None = None
    """Grounding: JSON of boxes by image id, as ``dets.json`` and ``cocos.json``; else null."""

    @model_validator(mode="after")
    def _of_their_format(self) -> Self:
        for name in ("boxes", "proposals"):
            if getattr(self, name) is not None and self.format != "grounding":
                raise ValueError(f"{name} belong to format grounding; write null")
        if self.joined and self.format != "captions":
            raise ValueError("joined belongs to format captions; write false")
        return self


class Parsed(NamedTuple):
    """What a row says."""

    images: tuple[str, ...]
    captions: tuple[str, ...]
    meta: dict[str, Any]


Found = tuple[Row, Parsed | Refused]


def records(config: Config, seed: int) -> Iterator[Record | Refusal]:
    """The records of all splits, in the order of the files.

    Raises:
        ParamsError: a file that cannot be read; it is named.
    """
    root = Path(config.images)
    ids = ImageIds()
    parse = _parser(config)
    for split, files in config.files.items():
        found: Iterator[Found] = (_parsed(row, parse) for name in files for row in rows(Path(name)))
        if config.joined:
            found = _grouped(found)
        for number, (row, parsed) in enumerate(found):
            try:
                if isinstance(parsed, Refused):
                    raise parsed
                first, *more = (row.picture(root, name) for name in parsed.images)
            except Refused as error:
                yield row.refusal(error, "image")
                continue
            yield Record(
                key=f"{split}-{number:07d}",
                image=first,
                captions=parsed.captions,
                image_id=ids.of(" ".join(parsed.images)),
                split=split,
                source="annotations",
                meta={**parsed.meta, "path": parsed.images[0]},
                more=tuple(more),
            )


def count(config: Config) -> int | None:
    """Rows of all files; None where those of a picture are joined."""
    if config.joined:
        return None
    return sum(1 for files in config.files.values() for name in files for _ in rows(Path(name)))


def _parsed(row: Row, parse: Callable[[Row], Parsed]) -> Found:
    try:
        return row, parse(row)
    except Refused as error:
        return row, error


def _grouped(found: Iterator[Found]) -> Iterator[Found]:
    """Bad rows first; then rows of the same picture joined into the first of them."""
    first: dict[str, tuple[Row, Parsed]] = {}
    captions: dict[str, list[str]] = {}
    for row, parsed in found:
        if isinstance(parsed, Refused):
            yield row, parsed
            continue
        name = parsed.images[0]
        first.setdefault(name, (row, parsed))
        captions.setdefault(name, []).extend(parsed.captions)
    for name, (row, parsed) in first.items():
        yield row, parsed._replace(captions=tuple(dict.fromkeys(captions[name])))


def _parser(config: Config) -> Callable[[Row], Parsed]:
    """What reads a row of the format."""
    match config.format:
        case "captions":
            return lambda row: Parsed((row.text("image"),), row.texts("caption"), {})
        case "vqa":
            return _vqa
        case "entailment":
            return lambda row: Parsed(
                (f"{row.text('image')}.jpg",),
                (row.text("sentence"),),
                {"label": row.one_of("label", VE_LABELS)},
            )
        case "nlvr2":
            return _nlvr2
    return _grounding(config)


def _vqa(row: Row) -> Parsed:
    source = row.one_of("dataset", VQA_LABELS)
    meta: dict[str, Any] = {"question_id": row.get("question_id"), "dataset": source}
    if row.get("answer") is not None:  # the test split has none
        answers = row.texts("answer")
        if source == "vg":
            meta["answers"] = dict.fromkeys(answers, VG_WEIGHT)
        else:
            counts = Counter(answers)
            meta["answers"] = {answer: n / len(answers) for answer, n in counts.items()}
            meta["annotators"] = list(answers)
    return Parsed((row.text("image"),), (row.text("question"),), meta)


def _nlvr2(row: Row) -> Parsed:
    images = row.texts("images")
    if len(images) != 2:
        said = f"'images' names {len(images)} pictures; it must name two"
        raise row.refused(Reason.MISSING_FIELD, said)
    return Parsed(images, (row.text("sentence"),), {"label": row.one_of("label", NLVR2_LABELS)})


def _grounding(config: Config) -> Callable[[Row], Parsed]:
    boxes = _boxes_by_id(config.boxes)
    proposals = _boxes_by_id(config.proposals)

    def parse(row: Row) -> Parsed:
        image, ref_id = row.text("image"), row.get("ref_id")
        meta: dict[str, Any] = {"ref_id": ref_id}
        box = row.get("box") or boxes.get(str(ref_id))
        if box is not None:
            meta["box"] = _box(row, box)
        own = proposals.get(number_in(image) or "")
        if config.proposals and own is None:
            said = f"{config.proposals} has no boxes for {image}"
            raise row.refused(Reason.MISSING_FIELD, said)
        if own is not None:
            meta["proposals"] = [_box(row, proposal) for proposal in own]
        return Parsed((image,), row.texts("text"), meta)

    return parse


def _boxes_by_id(name: str | None) -> Mapping[str, Any]:
    if name is None:
        return {}
    held = read_json(Path(name))
    if not isinstance(held, Mapping):
        raise ParamsError(f"{name} must hold boxes by id, {{id: ...}}")
    return held


def _box(row: Row, box: object) -> list[float]:
    """A box (x, y, width, height); what follows, as a detection's score, is dropped."""
    if (
        not isinstance(box, list)
        or len(box) < 4
        or not all(isinstance(side, int | float) for side in box[:4])
        or min(box[2:4]) <= 0
    ):
        said = f"{box!r} is no box; it must be [x, y, width, height]"
        raise row.refused(Reason.MISSING_FIELD, said)
    return [float(side) for side in box[:4]]
