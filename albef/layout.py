"""Where things are: the sections `paths` and `runtime`, and the files of all products."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from albef.config import Section, validate

Share = Annotated[float, Field(ge=0, le=1)]
Engine = Literal["local", "ray"]
"""What shares the work that can be cut into blocks: this machine, or a cluster of Ray."""
PARAMS = Path("params.yaml")
"""The values of a run, from the root of the project."""
EARLIER = Path(".albef/earlier")
"""Checkpoint of an earlier step, where `albef ablate` trains one that needs it."""
ENVIRONMENT = "ALBEF_RUNTIME__"
"""What the name of a variable starts with that overrides a value of ``runtime``."""
BEHAVIOUR = "behaviour"
"""Section of a run's metrics that holds its behaviour tests, beside those of the splits."""
HEADLINE = "headline"
"""Section of a run's metrics that names the metric which each split is judged by."""
BASELINES = ("chance", "random_weights", "text_only")
"""Sections of a run's metrics that stand beside those of the splits."""


class Paths(Section):
    """Where products go."""

    root: str
    """Folder of all products of this params file."""
    models: str
    """Folder of the checkpoints; an ``init`` names a folder in it."""


class Runtime(Section):
    """What changes speed and never the experiment, and what is borne on the way; the variable
    ``ALBEF_RUNTIME__NAME`` overrides a value."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Processes that train together; micro-batches are shared among them."""
    launch: str = "torchrun --standalone --nproc-per-node {processes}"
    """Command that starts them, with {processes} in it: torchrun, or a line for a cluster."""
    threads: int = 0
    """Threads of all processes on a machine together; 0 takes all cores."""
    engine: Engine = "local"
    """What rows are fetched and prepared by: ``workers`` of this machine, or ``ray``, a cluster of
    Ray that it is a node of."""
    workers: int = 4
    """Processes that decode and augment; 0 decodes in the trainer."""
    scratch: str | None = None
    """Folder for work in progress; null is the user's cache folder."""
    cache_gb: Annotated[float, Field(gt=0)] = 10.0
    """GiB on this machine's disk for shards of data sets with a ``store``."""
    mirror: str | None = None
    """Folder or bucket (``s3://...``) for copies of the training states; null makes none."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them: larger micro-batches
    fit on a small card, for one more forward pass of time."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between two saves of the training state."""
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds after which it is saved where the steps take longer."""
    max_damaged_records: dict[str, Share] = Field({})
    """By data set, the largest share of a split's records that a process may find damaged before
    training stops; others take their places. 0 where it is not named."""
    max_damaged_shards: dict[str, Share] = Field({})
    """The same of shards that are missing or unreadable."""
    compile: bool = False
    """Have torch compile the encoders' blocks in training: for GPUs. Last digits differ."""
    compress: bool = False
    """Exchange gradients between processes in bfloat16, half as large. Last digits differ."""
    deterministic: bool = False
    """Allow torch no operation whose last digits vary from run to run; on a GPU equal bytes need
    it, and it is slower."""

    @property
    def scratch_root(self) -> Path:
        """The folder of all work in progress."""
        base = self.scratch or os.environ.get("XDG_CACHE_HOME", "~/.cache")
        return Path(base).expanduser() / "albef"


def runtime(values: object) -> Runtime:
    """The ``runtime`` section, with ``ALBEF_RUNTIME__NAME`` from the environment over it."""
    merged = dict(values) if isinstance(values, Mapping) else {}
    for name, text in os.environ.items():
        if name.startswith(ENVIRONMENT):
            try:
                value = json.loads(text)
            except ValueError:  # a word
                value = text
            merged[name.removeprefix(ENVIRONMENT).lower()] = value
    return validate(Runtime, merged, where=str(PARAMS), key="runtime")


@dataclass(frozen=True)
class Layout:
    """The files of all products, in one place."""

    paths: Paths

    @property
    def root(self) -> Path:
        """Folder of all products."""
        return Path(self.paths.root)

    def data(self, dataset: str) -> Path:
        """Shards, index and description of a data set."""
        return self.root / "data" / dataset

    def quarantine(self, dataset: str) -> Path:
        """The rows of a data set's sources that are not in it, each with its reason."""
        return self.root / "quarantine" / dataset

    def heldout(self, dataset: str) -> Path:
        """What tells the pictures of a data set's evaluation splits."""
        return self.root / "heldout" / f"{dataset}.parquet"

    def verdict(self, dataset: str) -> Path:
        """The digest of a data set that passed validation."""
        return self.root / "verdicts" / f"{dataset}.json"

    def validation(self, dataset: str) -> Path:
        """Result and page of a validation."""
        return self.root / "validation" / dataset

    def model(self, name: str) -> Path:
        """A checkpoint."""
        return Path(self.paths.models) / name

    def curves(self, name: str) -> Path:
        """Curves of a training."""
        return self.root / "curves" / name

    def log(self, name: str) -> Path:
        """JSON lines of a training: its curves with rate, time left and memory. No output of DVC's,
        as it differs each time."""
        return self.root / "logs" / f"{name}.jsonl"

    def search(self, run: str) -> Path:
        """Choice and trials of a search."""
        return self.root / "search" / run

    def metrics(self, run: str) -> Path:
        """Metrics of an evaluated run."""
        return self.root / "metrics" / f"{run}.json"

    def predictions(self, run: str) -> Path:
        """Per-example predictions of an evaluated run."""
        return self.root / "results" / run / "predictions.parquet"

    def behaviour(self, run: str) -> Path:
        """Per-case results of a run's behaviour tests."""
        return self.root / "results" / run / "behaviour.parquet"

    def export(self, run: str) -> Path:
        """The folder that goes to production."""
        return self.root / "exports" / run

    def export_metrics(self, run: str) -> Path:
        """Metrics of an export, and its size, by precision."""
        return self.root / "metrics" / "exports" / f"{run}.json"

    def report(self) -> Path:
        """The page."""
        return self.root / "report" / "index.html"

    def data_pages(self) -> Path:
        """Pages of the data sets, a file for each."""
        return self.root / "report" / "data"

    def cards(self) -> Path:
        """Model cards, a file for each run."""
        return self.root / "report" / "cards"

    def record(self, stage: str) -> Path:
        """The run record of a stage, ``NAME`` or ``NAME@KEY``."""
        return self.root / "runs" / f"{stage}.json"
