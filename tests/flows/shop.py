"""A project with one evaluated export, as `albef run` leaves it, pushed to everything it should be.

Its stages bring what lies in `made/`: real checkpoints, exports and data, made before.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ruamel.yaml import YAML

from albef.data.record import Record
from albef.ingest.shard_writer import write
from albef.io import file_digest
from albef.runtime.manifest import NAME, graph_file
from tests.conftest import CAPTIONS, tiny_config
from tests.data.toy import LICENCE, picture
from tests.flows.toy import ROOT, Toy

DVC = """\
# A comment that stays.
stages:
  ingest:
    cmd: python bring.py ${paths.root}/data/scenes
    deps: [made/data/scenes]
    outs: ["${paths.root}/data/scenes"]
  finetune:
    foreach: ${tasks}
    do:
      cmd: python bring.py ${paths.models}/${key}
      params: ["tasks.${key}"]
      deps: ["made/models/${key}", "${paths.root}/data/scenes"]
      outs: ["${paths.models}/${key}"]
  evaluate:
    foreach: ${tasks}
    do:
      cmd: python bring.py ${paths.root}/metrics/${key}.json
      deps: ["made/metrics/${key}.json", "${paths.models}/${key}"]
      metrics: ["${paths.root}/metrics/${key}.json": {cache: false}]
  export:
    foreach: ${export.runs}
    do:
      cmd: python bring.py ${paths.root}/exports/${key} ${paths.root}/metrics/exports/${key}.json
      deps: ["made/exports/${key}", "${paths.models}/${key}", "${paths.root}/data/scenes"]
      outs: ["${paths.root}/exports/${key}"]
      metrics: ["${paths.root}/metrics/exports/${key}.json": {cache: false}]
"""
BRING = """\
import shutil, sys
from pathlib import Path
for target in map(Path, sys.argv[1:]):
    source = Path("made", *target.parts[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
"""
METRICS = {
    "test": {"r_mean": 40.0, "tr@1": 20.0},
    "pairs": {"accuracy": 61.0},
    "behaviour": {"overall": 65.0, "synonym": 60.0, "unrelated": 70.0, "accepted": 55.0},
    "chance": {"test": {"r_mean": 21.0}, "pairs": {"accuracy": 50.0}},
    "random_weights": {"test": {"r_mean": 22.0}, "pairs": {"accuracy": 49.0}},
}


JUDGED: dict[str, Any] = {"rows": [], "reasons": [], "note": "", "card": "a card", "limits": {}}
JUDGED |= {"figures": 1, "provenance": 1}
"""An export that was measured and found good; to measure it changes nothing, and takes long."""


def build(path: Path, home: Path, store: str, checkpoint: Path, export: Path) -> Toy:
    """The project in ``path``, with git and DVC remotes; ``store`` is the address of DVC's."""
    bring(path / "made", checkpoint, export)
    (path / "bring.py").write_text(BRING)
    (path / "dvc.yaml").write_text(DVC)
    set_params(path)
    (path / ".gitignore").write_text((ROOT / ".gitignore").read_text() + "\n/made/\n")
    toy = Toy(path, home)
    toy.init()
    toy.sh(f"dvc remote add -q --default store {store}")
    toy.sh(f"git init -q --bare -b main {path}.git && git remote add origin {path}.git")
    toy.repro()
    toy.sh("git add -A && git commit -qm start && dvc push -q && git push -q -u origin main")
    toy.checked()
    return toy


def bring(folder: Path, checkpoint: Path, export: Path) -> None:
    shutil.copytree(checkpoint, folder / "models/retrieval")
    shutil.copytree(export, folder / "exports/retrieval")
    write(folder / "data/scenes", "scenes", records(), shard_mb=1, licences=[LICENCE], sources=[])
    (folder / "metrics/exports").mkdir(parents=True)
    (folder / "metrics/retrieval.json").write_text(json.dumps(METRICS))
    told = {"torch": {"r_mean": 40.0}, "bytes": {}}
    (folder / "metrics/exports/retrieval.json").write_text(json.dumps(told))


def set_params(path: Path, **gate: float) -> None:
    """Write params.yaml, the gate with other values if they are given."""
    own = {"dataset": "scenes", "split": "test", "examples": None, "precisions": {}}
    own["precisions"] = {"float32": 0.3, "int8": 100.0}
    # Calls of a tiny model take no time worth comparing on a machine that does other work.
    limits = {"max_drop": 1.0, "max_slower": 50.0, "max_larger": 1.2, "max_int8_loss": 100.0}
    limits |= {"max_behaviour_drop": 20.0, "max_contamination": 0.0}
    tests = str(ROOT / "behaviour/english.json")
    behaviour = {"tests": tests, "cases": 12, "threshold": 0.5}
    values: dict[str, Any] = {
        "seed": 1,
        "paths": {"root": "products", "models": "products/models"},
        "runtime": {
            "device": "cpu", "processes": 1, "launch": "torchrun", "threads": 1, "workers": 0,
            "scratch": None, "mirror": None, "cache_gb": 1, "recompute": False,
            "checkpoint_every": 1,
        },
        "pretrain": {"dataset": "web"},
        "tasks": {"retrieval": tiny_config().model_dump()},
        "export": {"runs": {"retrieval": own}},
        "evaluate": {"splits": ["test"], "batch_size": 8, "behaviour": behaviour},
        "release": limits | gate,
    }  # fmt: skip
    YAML(typ="safe").dump(values, path / "params.yaml")


def records() -> list[Record]:
    rng = np.random.default_rng(0)
    said = [" ".join(rng.permutation(CAPTIONS[i % 4].split())) for i in range(24)]
    return [
        Record(f"k{i}", picture(11 * i, (16, 16)), (said[i],), i, "test", "made") for i in range(24)
    ]


def alter(folder: Path, graph: str = "text_encoder", *, worse: bool = False) -> None:
    """Make another export of one: of other bytes, or of a model that reads something else."""
    manifest = json.loads((folder / NAME).read_text())
    for precision in manifest["precisions"]:
        file = graph_file(precision, graph)
        model = onnx.load(folder / file)
        model.doc_string += "!"
        for weights in model.graph.initializer if worse else ():
            values = onnx.numpy_helper.to_array(weights)
            if values.ndim == 2:
                turned = onnx.numpy_helper.from_array(values[::-1].copy(), weights.name)
                weights.CopyFrom(turned)
        (folder / file).unlink()  # it may be a link to where it came from
        (folder / file).write_bytes(model.SerializeToString())
        manifest["files"][file] = file_digest(folder / file)
    (folder / NAME).write_text(json.dumps(manifest))


def another(toy: Toy, *, worse: bool = False) -> None:
    """Let the run have another export, and commit that."""
    alter(toy.path / "made/exports/retrieval", worse=worse)
    toy.repro()
    toy.sh("git add -A && git commit -qm another")
