"""Benchmarks that choose the caption of an image: ARO, SugarCrepe and VL-CheckList.

The first text of a case is the right caption; the others are wrong.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from albef.benchmarks.comparing import Benchmark, Case, Result, compare
from albef.config import ParamsError
from albef.data.image_decoding import MAX_PIXELS, decode
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources.rows import Row, attempt, json_rows, read_image, read_json
from albef.runtime.matching import Matching
from albef.runtime.model import Floats, ImageInput

SUGARCREPE = (
    "add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"
)  # fmt: skip
"""Categories of SugarCrepe, a file each."""
FEWEST = 25
"""Number of cases from which ARO's authors count a pair of attributes."""
Parse = Callable[[Row, Path], Case]


def first_is_best(scores: Floats) -> Mapping[str, float]:
    """Return whether the right caption has a higher score than all others (1, T)."""
    return {"accuracy": scores[0, 0] > scores[0, 1:].max()}


def first_of_best(scores: Floats) -> Mapping[str, float]:
    """Return whether no wrong caption has a higher score; a shuffled caption may be unchanged."""
    return {"accuracy": scores[0, 0] >= scores[0, 1:].max()}


def _macro(result: Result, groups: Iterable[str]) -> Result:
    """Add the means over some groups, each of which counts the same."""
    chosen = [result.groups[name] for name in groups]
    means = {f"{name}_macro": float(np.mean([g[name] for g in chosen])) for name in result.metrics}
    return replace(result, metrics={**result.metrics, **means}) if chosen else result


def relation(model: Matching, data: Path, images: Path) -> Result:
    """Score VG-Relation; the macro accuracy leaves out the relations that the authors leave out."""
    rows = _list(data / "visual_genome_relation.json", "image_path")
    result = compare(
        model, _cases(rows, partial(_aro, group="relation_name"), images), first_is_best
    )
    left_out = (Path(__file__).parent / "aro_symmetric_relations.txt").read_text().splitlines()
    return _macro(result, (name for name in result.groups if name not in left_out))


def attribution(model: Matching, data: Path, images: Path) -> Result:
    """Score VG-Attribution; the macro accuracy is over pairs of attributes with enough cases."""
    rows = _list(data / "visual_genome_attribution.json", "image_path")
    result = compare(model, _cases(rows, partial(_aro, group="attributes"), images), first_is_best)
    large = (name for name, group in result.groups.items() if group["cases"] >= FEWEST)
    return _macro(result, large)


def order(model: Matching, data: Path, images: Path, name: str) -> Result:
    """Score COCO-Order or Flickr30k-Order: the caption among four with other word orders."""
    return compare(model, _cases(_list(data / name, "image"), _order, images), first_of_best)


def sugarcrepe(model: Matching, data: Path, images: Path) -> Result:
    """Score SugarCrepe; its categories are the groups."""

    def rows() -> Iterator[tuple[Row, Parse]]:
        for category in SUGARCREPE:
            path = data / f"{category}.json"
            values = read_json(path)
            if not isinstance(values, dict):
                raise ParamsError(f"{path} must contain an object of rows by number")
            for line, (key, value) in enumerate(values.items(), 1):
                yield Row(path, line, value, key), partial(_sugarcrepe, category=category)

    cases = (attempt(row, parse, images) for row, parse in rows())
    result = compare(model, cases, first_is_best)
    return _macro(result, result.groups)


def checklist(model: Matching, data: Path, images: Path) -> Result:
    """Score VL-CheckList; its files are the groups.

    ``itm_threshold`` is the authors' accuracy of ITM: the share of captions whose probability is on
    the right side of 0.5.
    """

    def judge(scores: Floats) -> Mapping[str, float]:
        sides = float(scores[0, 0] > 0) + float(scores[0, 1] <= 0)
        return {**first_is_best(scores), "threshold": sides / 2}

    files = sorted(data.rglob("*.json"))
    if not files:
        raise ParamsError(f"{data} has no JSON file; correct --data")
    cases = (
        attempt(row, _checklist, images, path.relative_to(data).with_suffix("").as_posix())
        for path in files
        for row in _list(path, "")
    )
    result = compare(model, cases, judge)
    metrics = {name: value for name, value in result.metrics.items() if name != "itc_threshold"}
    return _macro(replace(result, metrics=metrics), result.groups)


def _list(path: Path, key: str) -> Iterator[Row]:
    return json_rows(path, read_json(path), key)


def _cases(rows: Iterable[Row], parse: Parse, images: Path) -> Iterator[Case | Rejection]:
    return (attempt(row, parse, images) for row in rows)


def _aro(row: Row, images: Path, group: str) -> Case:
    name = "_".join(row.texts(group))
    texts = row.text("true_caption"), row.text("false_caption")
    return Case(row, name, (_cropped(row, images),), texts)


def _cropped(row: Row, images: Path) -> ImageInput:
    """Return the part of an image that shows the relation, as the authors do."""
    image = decode(read_image(images, row.text("image_path")), row.key)
    x, y, width, height = (int(row.get(f"bbox_{name}")) for name in "xywh")
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        detail = f"bbox_w and bbox_h must be above 0, got {width} x {height}"
        raise RowError(Reason.MALFORMED_ROW, detail)
    return image.crop((x, y, x + width, y + height))


def _order(row: Row, images: Path) -> Case:
    texts = row.texts("caption_options")
    if len(texts) < 2:
        raise RowError(Reason.MISSING_FIELD, "'caption_options' must list at least two captions")
    return Case(row, "all", (read_image(images, row.text("image")),), texts)


def _sugarcrepe(row: Row, images: Path, category: str) -> Case:
    image = read_image(images, row.text("filename"))
    return Case(row, category, (image,), (row.text("caption"), row.text("negative_caption")))


def _checklist(row: Row, images: Path, group: str) -> Case:
    name, texts = row.values
    both = Row(row.file, row.line, texts)
    image = read_image(images, str(name))
    return Case(row, group, (image,), (both.texts("POS")[0], both.texts("NEG")[0]))


_ARO = "https://github.com/mertyg/vision-language-models-are-bows"
_GENOME = "MIT; images of Visual Genome"
BENCHMARKS = {
    "aro-relation": Benchmark(_ARO, _GENOME, relation),
    "aro-attribution": Benchmark(_ARO, _GENOME, attribution),
    "coco-order": Benchmark(_ARO, "MIT; COCO", partial(order, name="coco_order.json")),
    "flickr-order": Benchmark(_ARO, "MIT; Flickr30K", partial(order, name="flickr30k_order.json")),
    "sugarcrepe": Benchmark(
        "https://github.com/RAIVNLab/sugar-crepe", "MIT; images of COCO", sugarcrepe
    ),
    "vl-checklist": Benchmark(
        "https://github.com/om-ai-lab/VL-CheckList",
        "as its sources: Visual Genome, VAW, SWiG, HAKE",
        checklist,
    ),
}
