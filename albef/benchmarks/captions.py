"""Benchmarks that choose the caption of an image: ARO, SugarCrepe and VL-CheckList.

The first text of a case is the right caption; the others are wrong.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from albef.benchmarks.comparing import Benchmark, Case, Judge, Result, compare
from albef.data.image_decoding import MAX_PIXELS, decode
from albef.data.rejection import Reason, RowError
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


def first_is_best(scores: Floats) -> Mapping[str, float]:
    """Return whether the right caption has a higher score than all others (1, T)."""
    return {"accuracy": scores[0, 0] > scores[0, 1:].max()}


def first_of_best(scores: Floats) -> Mapping[str, float]:
    """Return whether no wrong caption has a higher score; a shuffled caption may be unchanged."""
    return {"accuracy": scores[0, 0] >= scores[0, 1:].max()}


def by_threshold(scores: Floats) -> Mapping[str, float]:
    """Add the share of both captions that are on the right side of the probability 0.5 of ITM."""
    sides = float(scores[0, 0] > 0) + float(scores[0, 1] <= 0)
    return {**first_is_best(scores), "threshold": sides / 2}


@dataclass(frozen=True)
class Captions:
    """A benchmark of captions in JSON files, which :meth:`run` scores."""

    files: tuple[str, ...]
    """Names or patterns of its files."""
    parse: Callable[[Row, Path, str], Case]
    """Function of a row, the folder of the images, and the name of the file."""
    judge: Judge = first_is_best
    counts: Callable[[str, Mapping[str, float]], bool] = lambda name, group: True
    """Function that selects the groups of the macro accuracy, in which each counts the same."""

    def run(self, model: Matching, data: Path, images: Path) -> Result:
        """Score the cases of all files."""
        cases = (attempt(row, self.parse, images, name) for name, row in self._rows(data))
        result = compare(model, cases, self.judge)
        metrics = {name: v for name, v in result.metrics.items() if name != "itc_threshold"}
        if counted := [group for name, group in result.groups.items() if self.counts(name, group)]:
            for name in list(metrics):
                metrics[f"{name}_macro"] = float(np.mean([group[name] for group in counted]))
        return replace(result, metrics=metrics)

    def _rows(self, data: Path) -> Iterator[tuple[str, Row]]:
        paths = [path for file in self.files for path in sorted(data.glob(file)) or [data / file]]
        for path in paths:
            name, values = path.relative_to(data).with_suffix("").as_posix(), read_json(path)
            if isinstance(values, dict):  # rows by number, as SugarCrepe has them
                items = enumerate(values.items(), 1)
                yield from ((name, Row(path, line, row, key)) for line, (key, row) in items)
            else:
                yield from ((name, row) for row in json_rows(path, values, "image_path"))


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


def _is_counted_relation(name: str, group: Mapping[str, float]) -> bool:
    return name not in _SYMMETRIC.read_text().splitlines()


def _is_large(name: str, group: Mapping[str, float]) -> bool:
    return group["cases"] >= FEWEST


_ARO = "https://github.com/mertyg/vision-language-models-are-bows"
_GENOME = "MIT; images of Visual Genome"
_RELATION = Captions(
    ("visual_genome_relation.json",),
    partial(_aro, group="relation_name"),
    counts=_is_counted_relation,
)
_ATTRIBUTION = Captions(
    ("visual_genome_attribution.json",), partial(_aro, group="attributes"), counts=_is_large
)
_COCO = Captions(("coco_order.json",), _order, first_of_best)
_FLICKR = Captions(("flickr30k_order.json",), _order, first_of_best)
_SUGARCREPE = Captions(tuple(f"{name}.json" for name in CATEGORIES), _sugarcrepe)
_CHECKLIST = Captions(("**/*.json",), _checklist, by_threshold)
BENCHMARKS = {
    "aro-relation": Benchmark(_ARO, _GENOME, _RELATION.run),
    "aro-attribution": Benchmark(_ARO, _GENOME, _ATTRIBUTION.run),
    "coco-order": Benchmark(_ARO, "MIT; images of COCO", _COCO.run),
    "flickr-order": Benchmark(_ARO, "MIT; images of Flickr30K", _FLICKR.run),
    "sugarcrepe": Benchmark(
        "https://github.com/RAIVNLab/sugar-crepe", "MIT; images of COCO", _SUGARCREPE.run
    ),
    "vl-checklist": Benchmark(
        "https://github.com/om-ai-lab/VL-CheckList",
        "as its sources: Visual Genome, VAW, SWiG, HAKE",
        _CHECKLIST.run,
    ),
}
