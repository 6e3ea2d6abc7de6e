"""Benchmarks of captions and images: Winoground, ARO, SugarCrepe and VL-CheckList.

ITC and ITM score every image of a case with every caption. Shapes: I images and T texts of a case.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from albef.benchmarks.comparing import Case, Result, judge_all
from albef.data.image_decoding import MAX_PIXELS, decode
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources import tables
from albef.ingest.sources.rows import Row, attempt, json_rows, read_image, read_json
from albef.runtime.matching import Matching
from albef.runtime.model import Floats

CATEGORIES = (
    "add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"
)  # fmt: skip
"""Categories of SugarCrepe, a file each."""
FEWEST = 25
"""Number of cases from which ARO's authors count a pair of attributes."""
_SYMMETRIC = Path(__file__).parent / "aro_symmetric_relations.txt"
_WINOGROUND = ("image_0", "image_1", "caption_0", "caption_1", "collapsed_tag")


def first_is_best(scores: Floats) -> Mapping[str, float]:
    """Return whether the first caption, the right one, has the highest score (1, T)."""
    return {"accuracy": scores[0, 0] > scores[0, 1:].max()}


def first_of_best(scores: Floats) -> Mapping[str, float]:
    """Return whether no wrong caption has a higher score; a shuffled caption may be unchanged."""
    return {"accuracy": scores[0, 0] >= scores[0, 1:].max()}


def by_threshold(scores: Floats) -> Mapping[str, float]:
    """Add the share of both captions that are on the right side of the probability 0.5 of ITM."""
    sides = float(scores[0, 0] > 0) + float(scores[0, 1] <= 0)
    return {**first_is_best(scores), "threshold": sides / 2}


def by_winoground(scores: Floats) -> Mapping[str, float]:
    """Return Winoground's three scores of a case, given its similarities (2, 2).

    The text score counts a case if both images prefer their own caption, the image score if both
    captions prefer their own image, and the group score if both hold (Thrush et al., 2022).
    """
    text = scores[0, 0] > scores[0, 1] and scores[1, 1] > scores[1, 0]
    image = scores[0, 0] > scores[1, 0] and scores[1, 1] > scores[0, 1]
    return {"text_score": text, "image_score": image, "group_score": text and image}


@dataclass(frozen=True)
class Captions:
    """A benchmark of captions in JSON files, which :meth:`run` scores."""

    files: tuple[str, ...]
    """Names or patterns of its files."""
    parse: Callable[[Row, Path, str], Case]
    """Function of a row, the folder of the images, and the name of the file."""
    judge: Callable[[Floats], Mapping[str, float]] = first_is_best
    """Function from scores (I, T) to metrics from 0 to 1."""
    counts: Callable[[str, float], bool] | None = None
    """Function that selects, by name and number of cases, the groups of the macro accuracy, in
    which each counts the same. If None, there is no macro accuracy."""

    def run(self, model: Matching, data: Path, images: Path) -> Result:
        """Score the cases of all files in ``data``."""

        def judge(case: Case) -> dict[str, float]:
            return {
                f"{name}_{metric}": float(value)
                for name, scores in _scores(model, case).items()
                for metric, value in self.judge(scores).items()
                if f"{name}_{metric}" != "itc_threshold"  # a similarity has no threshold
            }

        cases = (attempt(row, self.parse, images, name) for name, row in self._rows(data))
        result = judge_all(cases, judge)
        metrics = result.metrics
        counts = self.counts or (lambda name, cases: False)
        counted = [group for name, group in result.groups.items() if counts(name, group["cases"])]
        for name in list(metrics) if counted else ():
            metrics[f"{name}_macro"] = float(np.mean([group[name] for group in counted]))
        return result

    def _rows(self, data: Path) -> Iterator[tuple[str, Row | Rejection]]:
        for path in (p for file in self.files for p in sorted(data.glob(file)) or [data / file]):
            rows: Iterator[Row | Rejection]
            if path.suffix == ".jsonl":
                rows = tables.read(path, "jsonl", None, _WINOGROUND)
            elif isinstance(values := read_json(path), dict):  # by number, as in SugarCrepe
                rows = (Row(path, i, row, key) for i, (key, row) in enumerate(values.items(), 1))
            else:
                rows = json_rows(path, values, "image_path")
            name = path.relative_to(data).with_suffix("").as_posix()
            yield from ((name, row) for row in rows)


def _scores(model: Matching, case: Case) -> dict[str, Floats]:
    """Return the scores (I, T) of a case: cosine similarities, and ITM.

    ITM is the difference of its two logits, because probabilities close to 1 would be equal.
    """
    image = model.encode_image(model.pixels(case.images))
    ids, mask = model.ids(case.texts)
    states, text_feat = model.encode_text(ids, mask)
    assert image.feat is not None  # as_matching has checked the kind
    logits = np.stack(
        [model.score(states[None], mask[None], image.take([i]))[0] for i in range(len(case.images))]
    )
    return {"itm": logits[:, :, 1] - logits[:, :, 0], "itc": image.feat @ text_feat.T}


def _winoground(row: Row, images: Path, file: str) -> Case:
    names = (row.text(f"image_{i}").removesuffix(".png") for i in (0, 1))
    files = tuple(read_image(images, f"{name}.png") for name in names)
    texts = row.text("caption_0"), row.text("caption_1")
    return Case(row, str(row.get("collapsed_tag") or "other"), files, texts)


def _aro(row: Row, images: Path, file: str, group: str) -> Case:
    """Return a case with the part of the image that shows the relation, as the authors crop it."""
    image = decode(read_image(images, row.text("image_path")), row.key)
    x, y, width, height = (int(row.get(f"bbox_{name}")) for name in "xywh")
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        detail = f"bbox_w and bbox_h must be above 0, got {width} x {height}"
        raise RowError(Reason.MALFORMED_ROW, detail)
    texts = row.text("true_caption"), row.text("false_caption")
    part = image.crop((x, y, x + width, y + height))
    return Case(row, "_".join(row.texts(group)), (part,), texts)


def _order(row: Row, images: Path, file: str) -> Case:
    texts = row.texts("caption_options")
    if len(texts) < 2:
        raise RowError(Reason.MISSING_FIELD, "'caption_options' must list at least two captions")
    return Case(row, file, (read_image(images, row.text("image")),), texts)


def _sugarcrepe(row: Row, images: Path, file: str) -> Case:
    image = read_image(images, row.text("filename"))
    return Case(row, file, (image,), (row.text("caption"), row.text("negative_caption")))


def _checklist(row: Row, images: Path, file: str) -> Case:
    name, texts = row.values
    both = Row(row.file, row.line, texts)
    image = read_image(images, str(name))
    return Case(row, file, (image,), (both.texts("POS")[0], both.texts("NEG")[0]))


BENCHMARKS = {
    "winoground": Captions(("examples.jsonl",), _winoground, by_winoground),
    "aro-relation": Captions(
        ("visual_genome_relation.json",),
        partial(_aro, group="relation_name"),
        counts=lambda name, cases: name not in _SYMMETRIC.read_text().splitlines(),
    ),
    "aro-attribution": Captions(
        ("visual_genome_attribution.json",),
        partial(_aro, group="attributes"),
        counts=lambda name, cases: cases >= FEWEST,
    ),
    "coco-order": Captions(("coco_order.json",), _order, first_of_best),
    "flickr-order": Captions(("flickr30k_order.json",), _order, first_of_best),
    "sugarcrepe": Captions(
        tuple(f"{name}.json" for name in CATEGORIES), _sugarcrepe, counts=lambda name, cases: True
    ),
    "vl-checklist": Captions(
        ("**/*.json",), _checklist, by_threshold, counts=lambda name, cases: True
    ),
}
"""Benchmarks by name; docs/reference/public-datasets.md has their sources and licences."""
