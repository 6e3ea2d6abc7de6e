"""Zero-shot classification of CLIP-benchmark's sets: WebDataset shards with the names of classes.

A class is the mean of the features of its name in all templates. Only ITC scores: ITM would read
every image with every template of every class.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from albef.benchmarks.comparing import Case, Result, judge_all
from albef.config import ParamsError
from albef.data.image_formats import IMAGE_SUFFIXES
from albef.data.rejection import Reason, Rejection, RowError
from albef.data.tar import Damage, Member, members
from albef.ingest.sources.rows import MAX_IMAGE_BYTES, Row, attempt
from albef.ingest.sources.webdataset import split_name
from albef.preprocessing.zero_shot import class_logits, prompts
from albef.runtime.matching import Matching

TEMPLATES = Path(__file__).parent / "imagenet_templates.txt"
"""The 80 templates that CLIP's authors use for ImageNet (github.com/openai/CLIP, MIT)."""
SPLIT = "test"
_LIMITS = dict.fromkeys(IMAGE_SUFFIXES, MAX_IMAGE_BYTES) | {"cls": 32}


def run(model: Matching, data: Path, images: Path) -> Result:
    """Classify the images of a set; ``images`` is not used, because the shards contain them.

    Without ``zeroshot_classification_templates.txt``, ImageNet's templates are used.
    """
    kinds = data / "dataset_type.txt"
    if kinds.is_file() and (kind := "".join(_lines(kinds)[:1])) != "classification":
        raise ParamsError(f"{kinds} says {kind!r}; only sets for classification are supported")
    labels = _lines(data / "classnames.txt")
    file = data / "zeroshot_classification_templates.txt"
    templates = [line.replace("{c}", "{}") for line in _lines(file if file.exists() else TEMPLATES)]
    if wrong := [text for text in templates if text.count("{}") != 1]:
        raise ParamsError(f"{file}: template {wrong[0]!r} must contain {{c}} once")
    if not labels or not templates:
        raise ParamsError(f"{data} has no class names or no templates")
    texts = model.embed_text(prompts(labels, templates))

    def judge(case: Case) -> dict[str, float]:
        logits = class_logits(model.embed_image(case.images), texts, len(labels), 1.0)[0]
        first = np.argsort(-logits, kind="stable")[:5].tolist()
        label = int(case.texts[0])
        return {"itc_acc@1": float(first[0] == label), "itc_acc@5": float(label in first)}

    result = judge_all(_cases(data / SPLIT, labels), judge)
    if recalls := [group["itc_acc@1"] for group in result.groups.values()]:
        result.metrics["itc_mean_per_class"] = float(np.mean(recalls))
    return result


def _cases(folder: Path, labels: list[str]) -> Iterator[Case | Rejection]:
    count = folder / "nshards.txt"
    number = "".join(_lines(count)[:1])
    if not number.isdecimal():
        raise ParamsError(f"{count} must contain the number of shards, got {number!r}")
    for shard in (folder / f"{i}.tar" for i in range(int(number))):
        if not shard.is_file():
            raise ParamsError(f"{shard} is missing, but {count} says {number} shards")
        samples = groupby(members(shard, _limit), lambda member: split_name(member.name)[0])
        for line, (name, parts) in enumerate(samples, 1):
            yield attempt(Row(shard, line, list(parts), name), _case, labels)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} cannot be read: {error}; correct --data") from None


def _limit(name: str) -> int:
    return _LIMITS.get(split_name(name)[1], 0)


def _case(row: Row, labels: list[str]) -> Case:
    parts: dict[str, bytes] = {}
    for entry in row.values:
        if isinstance(entry, Damage):
            raise RowError(entry.reason, f"byte {entry.offset}: {entry.detail}")
        assert isinstance(entry, Member)
        parts[split_name(entry.name)[1]] = entry.data
    image = next((parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in parts), None)
    label = parts.get("cls", b"").decode().strip()
    if image is None or not label:
        raise RowError(Reason.MISSING_FILE, "the sample lacks its image or its .cls")
    if not label.isdecimal() or int(label) >= len(labels):
        detail = f"class {label[:20]} is not below {len(labels)}, the number of class names"
        raise RowError(Reason.MALFORMED_ROW, detail)
    return Case(row, f"{label} {labels[int(label)]}", (image,), (label,))
