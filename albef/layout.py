"""The sections ``paths`` and ``runtime``, and the paths of all artifacts."""

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from albef.config import CountOrZero, Section, Share, validate

Engine = Literal["local", "ray"]
"""Backend for work that can be split into blocks: this machine, or a Ray cluster."""
PARAMS = Path("params.yaml")
"""File with the values of a run, relative to the root of the project."""
PROFILES = Path("profiles")
"""Folder of accepted profiles, which validation depends on."""
ENVIRONMENT = "ALBEF_RUNTIME__"
"""Prefix of environment variables that override a value of ``runtime``."""
BEHAVIOUR = "behaviour"
"""Section of a run's metrics with the results of its behaviour tests."""
HEADLINE = "headline"
"""Section of a run's metrics with the name of each split's main metric."""
BASELINES = ("chance", "random_weights", "text_only")
"""Sections of a run's metrics with baselines of the splits."""


class Paths(Section):
    """Locations of the artifacts."""

    root: str
    """Folder of all artifacts of this params file."""
    models: str
    """Folder of the checkpoints. An ``init`` names a folder in it."""


def _checked_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return name


class Runtime(Section):
    """Options that change speed and fault tolerance, never the experiment.

    The environment variable ``ALBEF_RUNTIME__NAME`` overrides a value.
    """

    device: Annotated[str, AfterValidator(_checked_device)] = "auto"
    """Device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``auto`` uses a GPU if there is one."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Number of processes that train together. They share the micro-batches."""
    launch: str = "torchrun --standalone --nproc-per-node {processes}"
    """Command that starts the processes: torchrun, or a command of your cluster. {processes} is
    replaced by their number. ``ray`` starts them on the Ray cluster that this machine is a node
    of."""
    threads: CountOrZero = 0
    """Number of threads of all processes on a machine together. 0 uses all cores."""
    engine: Engine = "local"
    """Backend that fetches and prepares rows: ``local`` uses ``workers`` on this machine, ``ray``
    the Ray cluster that this machine is a node of."""
    workers: CountOrZero = 4
    """Number of processes that decode and augment images. 0 decodes in the training process."""
    scratch: str | None = None
    """Folder for work in progress. null means ``~/.cache``."""
    cache_gb: Annotated[float, Field(gt=0)] = 10.0
    """Disk space on this machine in GiB for shards of datasets with a ``store``."""
    frozen_gb: Annotated[float, Field(ge=0)] = 20.0
    """Disk space on this machine in GiB for the states of frozen encoders, which are computed once
    per dataset instead of in each step. 0 computes them in each step."""
    mirror: str | None = None
    """Folder or bucket (``s3://...``) for copies of training checkpoints. null makes no copies."""
    recompute: bool = False
    """If true, the backward pass recomputes activations instead of storing them. Larger
    micro-batches then fit on a GPU, at the cost of one more forward pass."""
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = Field([])
    """Tools that also record each training: its values, curves, final metrics and links. Each needs
    the extra with its name. A tool that cannot be reached is reported, and training continues."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Number of steps between two training checkpoints."""
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 1800.0
    """Longest time between two training checkpoints in seconds."""
    max_damaged_records: dict[str, Share] = Field({})
    """Accepted share of damaged records in a split, by dataset. Other records replace them.
    Datasets that are not listed have 0. Above it, training stops."""
    max_damaged_shards: dict[str, Share] = Field({})
    """Accepted share of missing or unreadable shards in a split, by dataset. Datasets that are not
    listed have 0. Above it, training stops."""
    shard: bool = False
    """If true, processes split the weights of the blocks, their gradients and the optimizer's state
    (FSDP2), for encoders that do not fit on a GPU. The last digits of results differ."""
    compile: bool = False
    """If true, torch compiles the encoders in training, for GPUs. The last digits of results
    differ."""
    compress: bool = False
    """If true, processes exchange gradients in bfloat16, which halves their size. The last digits
    of results differ."""
    deterministic: bool = False
    """If true, torch uses only deterministic operations. A GPU needs it for identical bytes, and
    is slower with it."""

    @property
    def scratch_root(self) -> Path:
        """Folder of all work in progress."""
        base = self.scratch or os.environ.get("XDG_CACHE_HOME", "~/.cache")
        return Path(base).expanduser() / "albef"


def runtime(values: object) -> Runtime:
    """Return the ``runtime`` section with overrides from ``ALBEF_RUNTIME__NAME`` variables."""
    overrides: dict[str, object] = {}
    for name, text in os.environ.items():
        if name.startswith(ENVIRONMENT):
            value: object = text
            with contextlib.suppress(ValueError):  # The value may be a plain word.
                value = json.loads(text)
            overrides[name.removeprefix(ENVIRONMENT).lower()] = value
    section = validate(Runtime, {} if values is None else values, where=str(PARAMS), key="runtime")
    if not overrides:
        return section
    merged = {**(values if isinstance(values, Mapping) else {}), **overrides}
    return validate(Runtime, merged, where=f"variable {ENVIRONMENT}NAME", key="runtime")


@dataclass(frozen=True)
class Layout:
    """Paths of all artifacts."""

    paths: Paths

    @property
    def root(self) -> Path:
        """Folder of all artifacts."""
        return Path(self.paths.root)

    def data(self, dataset: str) -> Path:
        """Return the folder of a dataset: shards, index and description."""
        return self.root / "data" / dataset

    def quarantine(self, dataset: str) -> Path:
        """Return the folder with the rejected rows of a dataset's sources and their reasons."""
        return self.root / "quarantine" / dataset

    def heldout(self, dataset: str) -> Path:
        """Return the file that identifies the images of a dataset's evaluation splits."""
        return self.root / "heldout" / f"{dataset}.parquet"

    def verdict(self, dataset: str) -> Path:
        """Return the file with the digest of a dataset that passed validation."""
        return self.root / "verdicts" / f"{dataset}.json"

    def validation(self, dataset: str) -> Path:
        """Return the folder with the result and the page of a validation."""
        return self.root / "validation" / dataset

    def model(self, name: str) -> Path:
        """Return the folder of a checkpoint."""
        return Path(self.paths.models) / name

    def curves(self, name: str) -> Path:
        """Return the folder with the curves of a training."""
        return self.root / "curves" / name

    def log(self, name: str) -> Path:
        """Return the log of a training in JSON lines, which is not a DVC output."""
        return self.root / "logs" / f"{name}.jsonl"

    def search(self, run: str) -> Path:
        """Return the folder with the choice and the trials of a search."""
        return self.root / "search" / run

    def metrics(self, run: str) -> Path:
        """Return the file with the metrics of an evaluated run."""
        return self.root / "metrics" / f"{run}.json"

    def predictions(self, run: str) -> Path:
        """Return the file with the per-example predictions of an evaluated run."""
        return self.root / "results" / run / "predictions.parquet"

    def behaviour(self, run: str) -> Path:
        """Return the file with the per-case results of a run's behaviour tests."""
        return self.root / "results" / run / "behaviour.parquet"

    def export(self, run: str) -> Path:
        """Return the folder of an export, which goes to production."""
        return self.root / "exports" / run

    def export_metrics(self, run: str) -> Path:
        """Return the file with the metrics and the size of an export, by precision."""
        return self.root / "metrics" / "exports" / f"{run}.json"

    def report(self) -> Path:
        """Return the page of the report."""
        return self.root / "report" / "index.html"

    def data_pages(self) -> Path:
        """Return the folder with a page for each dataset."""
        return self.root / "report" / "data"

    def cards(self) -> Path:
        """Return the folder with a model card for each run."""
        return self.root / "report" / "cards"

    def record(self, stage: str) -> Path:
        """Return the run record of a stage, ``NAME`` or ``NAME@KEY``."""
        return self.root / "runs" / f"{stage}.json"


def layout_of(params: Mapping[str, object], where: str, root: Path = Path()) -> Layout:
    """Return the layout that ``params`` of the file ``where`` define, below a project's root."""
    paths = validate(Paths, params.get("paths"), where=where, key="paths")
    return Layout(Paths(root=str(root / paths.root), models=str(root / paths.models)))
