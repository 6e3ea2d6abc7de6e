"""The frame of every stage: values, layout, seed, logging, run record, exit codes.

A stage module defines ``run(stage)`` and ends in ``main(run)``. DVC starts it as
``python -m pipelines.NAME [KEY]``; what it reads and writes is declared in dvc.yaml.
"""

import contextlib
import hashlib
import importlib
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import psutil

from albef.config import ParamsError, Section, read_yaml, validate
from albef.data.cache import ShardCache
from albef.data.shards import describe
from albef.io import file_digest, holder_of, lock
from albef.io import read_json as read_json
from albef.io import write_json as write_json
from albef.layout import PARAMS as PARAMS
from albef.layout import Layout as Layout
from albef.layout import Paths as Paths
from albef.layout import Runtime as Runtime
from albef.layout import runtime
from albef.run_record import Cost, code_digest, code_files, declared_files, keep, surroundings

if TYPE_CHECKING:  # stages of data need no torch
    from albef.tasks.task import RunConfig, RunTask

S = TypeVar("S", bound=Section)
GRAPH = Path("dvc.yaml")
"""Declares what each stage reads, its code included, from the root of the project."""
SHELLS = {"sh", "bash", "dash", "ash", "zsh", "ksh", "fish"}
SIDE_BY_SIDE = ("evaluate", "export")
"""Stages that score pair by pair, which fills few cores: each has half of the threads."""
FORGOTTEN_S = 30 * 24 * 3600.0
"""Seconds after which work in progress that nobody went on with is removed."""
GRACE_S = 15.0
"""Seconds between asking a stage without its DVC to end and ending it; less than the flow gives."""
_TALLY = "spent.json"
"""In the scratch of a stage: what its interrupted processes cost."""
RANKS, LAUNCHED_ON = "ALBEF_RANKS", "ALBEF_LAUNCHED_ON"
"""Told to the processes of a stage: where each leaves how it ended, and the launching machine."""
log = logging.getLogger("albef")


@dataclass(frozen=True)
class Context:
    """How the process of a stage was started, as its environment tells.

    Attributes:
        rank: number among the processes of the stage, from 0; None where it is the only one.
        ends: folder where each of several processes leaves how it ended.
        launched_on: machine of the stage that started several processes.
        by_dvc: whether DVC started it.
        dvc: process to die with, where a flow names it.
        debug: whether an error ends it with a traceback.
        in_experiment: whether it is part of an experiment of DVC.
    """

    rank: int | None
    ends: Path | None
    launched_on: str
    by_dvc: bool
    dvc: int | None
    debug: bool
    in_experiment: bool

    @classmethod
    def read(cls) -> Self:
        """Read it from the environment."""
        rank, ends, dvc = map(os.environ.get, ("RANK", RANKS, "ALBEF_DVC"))
        return cls(
            rank=int(rank) if rank else None,
            ends=Path(ends) if ends else None,
            launched_on=os.environ.get(LAUNCHED_ON, platform.node()),
            by_dvc="DVC_STAGE" in os.environ,
            dvc=int(dvc) if dvc else None,
            debug=bool(os.environ.get("ALBEF_DEBUG")),
            in_experiment="DVC_EXP_NAME" in os.environ,
        )

    @property
    def first(self) -> bool:
        """Whether this process writes: it runs the stage alone, or as the first of several."""
        return not self.rank

    def end(self, error: BaseException, address: str) -> NoReturn:
        """End the process with one sentence, which one of several leaves to the launching stage."""
        codes = {ValueError: 2, KeyboardInterrupt: 130}
        code = next((n for cls, n in codes.items() if isinstance(error, cls)), os.EX_IOERR)
        if self.ends is not None and self.rank is not None:
            lost = isinstance(error, ConnectionError)
            end = {"code": code, "message": str(error), "lost": lost}
            write_json(end_file(self.ends, self.rank), end)
        elif str(error):
            print(f"{address}: {error}", file=sys.stderr)
        self.exit(code)

    def exit(self, code: int) -> NoReturn:
        """End the process; one of several at once, as the teardown of what it shares with the
        others may wait for them, and the launcher would not see that it ended."""
        if self.rank is not None:
            sys.stderr.flush()
            os._exit(code)
        raise SystemExit(code) from None


class Stage:
    """What a running stage is given.

    Attributes:
        params: the whole params file, plain; read sections through :meth:`section`.
        first: whether this process writes; false in the others of several.
        record: facts for the run record; a stage adds its own.
    """

    def __init__(self, name: str, key: str, context: Context | None = None) -> None:
        self.name = name
        self.key = key
        self.context = context or Context.read()
        self.first = self.context.first
        self.params = read_yaml(PARAMS)
        self.layout = Layout(self.section("paths", Paths))
        self.runtime = runtime(self.params.get("runtime"))
        if name in SIDE_BY_SIDE:
            half = (self.runtime.threads or os.cpu_count() or 1) // 2
            self.runtime = self.runtime.model_copy(update={"threads": max(1, half)})
        ShardCache.default = ShardCache.of(self.runtime)
        self.seed = _seed(self.params, "seed")
        self.record: dict[str, Any] = {}
        self.cost = Cost()
        self._tally: Path | None = None

    def made(self, *paths: Path) -> None:
        """Put the digests of finished products into the run record: it is theirs alone."""
        self.record.setdefault("made", {}).update({str(p): file_digest(p) for p in paths})

    def section(self, key: str, cls: type[S]) -> S:
        """The section at a dotted ``key`` of params.yaml, strictly."""
        value: Any = {key: {}} | self.params  # a section that is left out has its defaults
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ParamsError(f"{PARAMS}: {key} is missing")
            value = value[part]
        return validate(cls, value, where=str(PARAMS), key=key)

    @property
    def data_seed(self) -> int:
        """The seed of what sources draw."""
        return _seed(self.params, "data_seed")

    @property
    def address(self) -> str:
        """``NAME`` or ``NAME@KEY``, as DVC calls it."""
        return f"{self.name}@{self.key}" if self.key else self.name

    @property
    def code(self) -> str:
        """Digest of the code that dvc.yaml declares for it; "" where it declares none.

        Comments, docstrings and blank lines do not count.
        """
        return code_digest(code_files(_stages(), self.address, self.params))

    @contextlib.contextmanager
    def scratch(self, fingerprint: str, *, alone: bool = True) -> Iterator[Path]:
        """The folder for this stage's work in progress, outside any work tree, where it is alone
        until its products are made: the same stage of another clone waits.

        Args:
            fingerprint: of what is worked on; it names the folder.
            alone: false where others take part in the work.

        Raises:
            ValueError: another one works there, and what this one is part of cannot wait.
        """
        folder = self.scratch_of(self.address, fingerprint)
        with self._alone_in(folder) if alone and self.first else contextlib.nullcontext():
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
            self._tally = folder / _TALLY
            self.cost.before = read_json(self._tally) or {}
            _remove_forgotten(self.runtime.scratch_root)
            yield folder

    @contextlib.contextmanager
    def _alone_in(self, folder: Path) -> Iterator[None]:
        path = lock_of(folder)

        def wait(holder: str) -> None:
            if self.context.rank is not None:  # the others would not wait for it
                raise ValueError(
                    f"process {holder} works in {folder} already; wait for it or stop it"
                )
            log.info("waiting for process %s, at work in %s", holder, folder)

        with lock(path, wait):
            try:
                yield
            finally:
                path.unlink()

    def tally(self) -> None:
        """Note what the stage has cost by now, so that an interruption does not lose it."""
        if self._tally is not None and self._tally.parent.is_dir() and self.first:
            write_json(self._tally, self.cost.spent())

    def scratch_of(self, address: str, fingerprint: str) -> Path:
        """Where a stage has its work in progress; it need not exist."""
        return self.runtime.scratch_root / f"{address}-{fingerprint[:16]}"

    def write_record(self, started: float) -> None:
        """Write and keep the run record of a stage that has ended."""
        record = {
            "stage": self.address,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(time.time() - started, 1),
            "seed": self.seed,
            **self.cost.spent(),
            **({"interrupted": self.cost.before} if self.cost.before else {}),
            **surroundings(),
            **self.record,
        }
        path = self.layout.record(self.address)
        write_json(path, record)
        keep(path)
        if self.context.in_experiment:  # of a new file it keeps what git has been told of
            subprocess.run(["git", "add", "--force", "--", str(path)], capture_output=True)


def run_of(stage: Stage) -> "tuple[RunConfig, type[RunTask]]":
    """The run that the stage works on, an entry of ``tasks``: its values, in which ranges may be
    unfilled, and the class of its kind, the file of that name in albef/tasks."""
    entry: Any = stage.params.get("tasks", {}).get(stage.key)
    if not isinstance(entry, dict) or "kind" not in entry:
        raise ParamsError(f"{PARAMS}: tasks.{stage.key} is missing, or has no kind")
    module = importlib.import_module(f"albef.tasks.{entry['kind']}")
    return stage.section(f"tasks.{stage.key}", module.Config), module.Task


def verified_digest(stage: Stage, dataset: str) -> str:
    """The digest of a data set, which must be the one that passed validation."""
    verdict = json.loads(stage.layout.verdict(dataset).read_text())
    digest = str(describe(stage.layout.data(dataset))["digest"])
    if verdict["digest"] != digest:
        raise ValueError(
            f"data set {dataset} has changed since it was validated; run validate@{dataset}"
        )
    return digest


def file_md5s(address: str, params: Mapping[str, Any]) -> dict[str, str]:
    """MD5 of each file of the code that dvc.yaml declares for a stage, as DVC has it."""
    files = filter(Path.is_file, declared_files(_stages(), address, params))
    return {
        file.as_posix(): hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        for file in files
    }


def _stages() -> dict[str, Any]:
    """The stages of dvc.yaml; none where there is no such file."""
    return _parsed(GRAPH.read_text()) if GRAPH.is_file() else {}


@cache
def _parsed(graph: str) -> dict[str, Any]:
    """The stages of dvc.yaml, whose text this is; it takes a while to read."""
    return dict(read_yaml(GRAPH).get("stages", {}))


def lock_of(folder: Path) -> Path:
    """The lock of who works in a folder of scratch; beside it, since the folder may be removed."""
    return folder.with_name(f"{folder.name}.lock")


def _remove_forgotten(root: Path) -> None:
    """Remove work in progress that nobody has gone on with for a month."""
    for folder in root.iterdir():
        if folder.is_dir() and _idle_s(folder) > FORGOTTEN_S and not _is_at_work(folder):
            log.info("%s is removed: nothing has been written there for a month", folder)
            shutil.rmtree(folder, ignore_errors=True)


def _idle_s(folder: Path) -> float:
    """Seconds since anything in the folder was written; 0 where it changes under our eyes."""
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return 0.0


def _is_at_work(folder: Path) -> bool:
    """Whether a process holds a lock in a folder, however old the clock makes its files."""
    try:
        files = (path for path in folder.rglob("*") if path.is_file())
        return any(map(holder_of, (lock_of(folder), *files)))
    except OSError:  # nobody knows
        return True


def _seed(params: Mapping[str, Any], name: str) -> int:
    seed = params.get(name)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ParamsError(f"{PARAMS}: {name} must be a whole number from 0, got {seed!r}")
    return seed


def end_file(folder: Path, rank: int) -> Path:
    """Where one of several processes leaves how it ended."""
    return folder / f"rank-{rank:05}.json"


def die_with_dvc(context: Context) -> None:
    """Watch the DVC that started this stage and die with it, however it dies.

    The stage is asked first, so that a training can save its state.

    A shell may stand between the two, so the death of the direct parent is not enough to go by.
    A flow names the process: it may have died while this one was still importing.
    """
    if not context.by_dvc:  # started by hand: nobody to follow
        return
    parents = psutil.Process().parents()
    dvc = context.dvc or next((p.pid for p in parents if p.name() not in SHELLS), 0)
    if context.launched_on != platform.node():
        dvc = os.getppid()  # of a process on another machine than its DVC, the launcher is followed

    def watch() -> None:
        while dvc in {process.pid for process in psutil.Process().parents()}:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="die-with-dvc").start()


def main(
    run: Callable[[Stage], None], launch: Callable[[Stage], bool] = lambda stage: False
) -> None:
    """Run a stage as a program; an error is one sentence, exit code 2 (values) or 74 (system).

    Args:
        launch: does it in processes of its own, or returns false where they are not asked for.
    """
    context = Context.read()
    name = Path(sys.argv[0]).stem
    key = "".join(sys.argv[1:2])  # a data set or run
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("albef").setLevel(logging.INFO if context.first else logging.WARNING)
    started = time.time()
    die_with_dvc(context)
    try:
        stage = Stage(name, key, context)
        stage.record["code"] = file_md5s(stage.address, stage.params)
        stage.record["code_digest"] = stage.code
        if launch(stage):
            return  # the first of its processes writes the record
        run(stage)
    except (ValueError, OSError, KeyboardInterrupt) as error:
        if context.debug:
            raise
        context.end(error, f"{name}@{key}" if key else name)
    except Exception:
        if context.rank is None:
            raise
        traceback.print_exc()
        context.exit(1)
    if context.first:
        stage.write_record(started)
