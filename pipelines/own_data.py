"""Values for data that params.yaml does not name yet: a dataset, and a preset that trains on it."""

import io
import math
import re
import sys
import unicodedata
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from albef.config import ParamsError, quoted
from albef.ingest.derive import derive
from albef.layout import PARAMS

_SUGGESTED = {"longest_side": 512, "duplicates": "drop_near", "screened": True}
_SPLIT_OFF = {"val": 0.1, "test": 0.1}
"""Shares of the training rows that become these splits, if a path has no rows of them."""
BATCH = 512
"""Images of a step; fewer if there are not so many."""
SIZES = ((1500, 0.7, 200), (4500, 0.5, 450), (sys.maxsize, 0.4, 450))
"""Dropout of the projections and steps of pre-training, up to a number of training images. They
were chosen with 785, 2,300 and 6,000 photographs of Flickr8k."""
FUSED = 3000
"""Training images from which fusion layers are trained. With 785, they ranked worse than contrast,
with 6,000 they helped; the limit is a choice between."""
MINUTES, FUSED_MINUTES = (2.0, 0.8), (4.0, 4.25)
"""Minutes of a run without and with fusion layers: fixed ones, and for each 1,000 images. With
`tf_efficientnet_lite0` and `all-MiniLM-L6-v2`, two cores of an Intel Xeon took 2.6 minutes for 785
images, and 29.5 with fusion layers for 6,000."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")


def suggest(path: Path, name: str | None) -> dict[str, Any]:
    """Return the section of the dataset at a path, by its name; None derives one from the path.

    Raises:
        ParamsError: the name is wrong, or the path cannot be read.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise ParamsError(f"--name {name!r}: use 1 to 40 letters a-z, digits, - or _")
    name = name or _name_of(path)
    return {name: {"sources": derive(path, name), **_SUGGESTED}}


def split_off(suggested: Mapping[str, Any], splits: Container[str]) -> dict[str, Any]:
    """Return the section of a dataset in which training rows become the splits that it lacks."""
    missing = {split: share for split, share in _SPLIT_OFF.items() if split not in splits}
    more = {"split_off": missing} if "train" in splits and missing else {}
    return {name: {**section, **more} for name, section in suggested.items()}


def _name_of(path: Path) -> str:
    """Return a name for the dataset at a path: its name in plain letters, or ``mine``."""
    plain = unicodedata.normalize("NFKD", path.stem.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain)[:40].strip("_") or "mine"


def write_preset(result: Mapping[str, Any]) -> Path:
    """Write the section for a path as a preset that trains retrieval on it; return its file.

    Raises:
        ParamsError: no training row is kept, or the preset exists.
    """
    ((name, section),) = result["suggested"].items()
    path, kept, source = check_preset(name), result["kept"], result["source"]
    if "train" not in result.get("splits", []):
        raise ParamsError(
            f"--write: {source} has no valid rows of the split train; fix the rows, or add the "
            f"section above to {PARAMS} and change its split"
        )
    images = train_images(result)
    is_fused = images >= FUSED
    runs = ["contrast", *(["retrieval"] if is_fused else [])]
    values = {
        "base": "bases/own-data",
        **({} if is_fused else {"drop": ["tasks.retrieval"]}),
        "paths": {"root": f"products/{name}", "models": f"products/{name}/models"},
        "datasets": {name: section},
        "ingest": {"heldout": [name]},
        "validate": result["fitting"],
        "pretrain": {"dataset": name, **sized(images)},
        "tasks": {run: {"dataset": name} for run in runs},
        "export": {"runs": {run: {"dataset": name} for run in runs}},
    }
    fusion = "enough" if is_fused else f"fewer than the {FUSED:,} needed"
    header = (
        f"# Retrieval on {source}: `albef run --preset {name}`. The check found {kept:,} valid\n"
        f"# records, and about {images:,} images to train on, {fusion} to train fusion layers.\n"
        f"# Expected time on two cores without a GPU: {minutes(images)} minutes.\n"
    )
    with path.open("x") as file:
        file.write(header + to_yaml(values))
    return path


def sized(images: int) -> dict[str, Any]:
    """Return the values of pre-training that depend on the number of training images."""
    dropout, steps = next((dropout, steps) for most, dropout, steps in SIZES if images <= most)
    batch = min(BATCH, max(2, images // 2))
    steps_per_epoch = max(1, images // batch)
    return {
        "epochs": math.ceil(steps / steps_per_epoch),
        "global_batch_size": batch,
        "projection_dropout": dropout,
    }


def train_images(result: Mapping[str, Any]) -> int:
    """Return the number of training images that a check found, about.

    Of a list of addresses, it is unknown without reading them all, and usually large.
    """
    return int(result.get("train_images", 2 * FUSED))


def minutes(images: int) -> int:
    """Return the expected minutes of a run with the small public encoders of the base preset."""
    fixed, per_thousand = FUSED_MINUTES if images >= FUSED else MINUTES
    return round(fixed + per_thousand * images / 1000)


def check_preset(name: str) -> Path:
    """Return the path of the preset for a new dataset, which must not exist."""
    path = Path("presets", f"{name}.yaml")
    if path.exists():
        raise ParamsError(f"--write: {path} exists; choose another name with --name")
    return path


def to_yaml(values: Mapping[str, Any], flow: bool | None = None) -> str:
    """Return values as YAML: in lines, in ``flow`` style, or mixed, as a person writes it."""
    yaml = YAML()
    yaml.default_flow_style = flow
    yaml.width = sys.maxsize
    yaml.representer.ignore_aliases = lambda _: True
    text = io.StringIO()
    yaml.dump(quoted(values), text)
    return text.getvalue()
