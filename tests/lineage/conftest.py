"""A project whose products were made of one another, as its stages leave them."""

import json
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from albef.ingest.shard_writer import write
from albef.io import file_digest
from albef.models.weights import load_checkpoint, save_checkpoint
from albef.runtime.manifest import NAME
from pipelines.provenance import code_of, origin
from pipelines.stage import Stage, _write_record, write_json
from tests.conftest import tiny_config
from tests.data.toy import LICENCE, record

ROOT = Path(__file__).parents[2]
KIND = {"name": "rows", "kind": "pairs", "seed": 1}


def params(root: str = "products") -> dict[str, object]:
    return {
        "seed": 1,
        "paths": {"root": root, "models": f"{root}/models"},
        "runtime": {
            "device": "cpu", "processes": 1, "launch": "torchrun", "threads": 1, "workers": 0,
            "scratch": None, "mirror": None, "cache_gb": 1, "recompute": False,
            "checkpoint_every": 1,
        },
        "pretrain": {"dataset": "web"},
        "tasks": {"retrieval": tiny_config().model_dump()},
    }  # fmt: skip


def done(stage: Stage, *made: Path) -> None:
    """Leave a run record, as the frame of the stages does."""
    stage.made(*made)
    _write_record(stage, time.time())


@pytest.fixture(scope="session")
def built(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_export: Path
) -> Path:
    """The project; do not write to it."""
    folder = tmp_path_factory.mktemp("lineage") / "project"
    folder.mkdir()
    for code in ("albef", "pipelines"):
        (folder / code).symlink_to(ROOT / code)
    shutil.copy(ROOT / "dvc.yaml", folder)
    YAML(typ="safe").dump(params(), folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build(tiny_checkpoint, tiny_export)
    return folder


def build(tiny_checkpoint: Path, tiny_export: Path) -> None:
    """Make the products in the working folder."""
    tiny = load_checkpoint(tiny_checkpoint)
    layout = Stage("report", "").layout
    for number, name in enumerate(("web", "scenes")):
        rows = Path(f"{name}.json")
        rows.write_text("[]")
        source = KIND | {"inputs": {str(rows): file_digest(rows)}}
        records = [record(i + 10 * number) for i in range(4)]
        folder = layout.data(name)
        digest = write(folder, name, records, shard_mb=1, licences=[LICENCE], sources=[source])[
            "digest"
        ]
        done(Stage("ingest", name), folder / "dataset.json")
        checks = [{"what": "x", "failed": 0, "counted": 4, "passed": True}]
        result = {"dataset": name, "digest": digest, "passed": True, "checks": checks}
        write_json(layout.validation(name) / "result.json", result)
        write_json(layout.verdict(name), {"dataset": name, "digest": digest})
        done(Stage("validate", name), layout.verdict(name))

    def checkpoint(name: str, kind: str, told: dict[str, object]) -> None:
        save_checkpoint(
            layout.model(name),
            kind=kind,
            model=tiny.model,
            tensors={n: t + len(name) for n, t in tiny.tensors.items()},
            tokenizer=tiny.tokenizer,
            values=tiny.config["values"],
            provenance=told,
        )

    def data(name: str) -> dict[str, object]:
        described = json.loads((layout.data(name) / "dataset.json").read_text())
        return {"dataset": name, "data": described["digest"], "seed": 1}

    stage = Stage("pretrain", "")
    checkpoint("pretrained", "pretraining", data("web") | origin(stage, "web"))
    done(stage, layout.model("pretrained") / "model.safetensors")
    write_json(layout.search("retrieval") / "choice.json", {"lr": 3e-4})
    done(Stage("search", "retrieval"), layout.search("retrieval") / "choice.json")
    init, stage = load_checkpoint(layout.model("pretrained")), Stage("finetune", "retrieval")
    parent = {"parent": "pretrained", "parent_weights": init.digest}
    checkpoint("retrieval", "retrieval", data("scenes") | parent | origin(stage, "scenes", init))
    done(stage, layout.model("retrieval") / "model.safetensors")
    own = load_checkpoint(layout.model("retrieval"))
    shutil.copytree(tiny_export, layout.export("retrieval"))
    path = layout.export("retrieval") / NAME
    stage = Stage("export", "retrieval")
    manifest = json.loads(path.read_text())
    manifest["provenance"] = {
        **own.config["provenance"],
        "export_code": code_of(stage)["code"],
        "checkpoint": own.digest,
    }
    write_json(path, manifest)
    write_json(layout.export_metrics("retrieval"), {"torch": {"r_mean": 1.0}})
    done(stage, path, layout.export_metrics("retrieval"))
    stage = Stage("evaluate", "retrieval")
    write_json(layout.metrics("retrieval"), {"test": {"r_mean": 1.0}})
    told = {"checkpoint": own.digest, **data("scenes"), **code_of(stage)}
    table = pa.table({"key": ["a"]}).replace_schema_metadata({"albef": json.dumps(told)})
    layout.predictions("retrieval").parent.mkdir(parents=True)
    pq.write_table(table, layout.predictions("retrieval"))
    done(stage, layout.metrics("retrieval"), layout.predictions("retrieval"))


@pytest.fixture
def project(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working folder."""
    shutil.copytree(built, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"
