"""Frame of every stage: values, layout, seed, logging, run record, exit codes.

A stage module defines ``run(stage)`` and ends with ``main(run)``. DVC starts it as ``python -m
pipelines.NAME [KEY]``. dvc.yaml declares what it reads and writes.
"""

import contextlib
import errno
import hashlib
import importlib
import json
import logging
import mmap
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import psutil

from albef.config import ParamsError, Section, read_yaml, validate
from albef.data.cache import ShardCache
from albef.data.shards import describe
from albef.io import call_after, file_digest, first_line, lock, message_of, printable_output
from albef.io import read_json as read_json
from albef.io import write_json as write_json
from albef.layout import PARAMS as PARAMS
from albef.layout import Layout, Paths, runtime
from albef.run_record import Cost, code_digest, declared_files, inputs, surroundings, used_files

if TYPE_CHECKING:  # Data stages do not need torch.
    from albef.tasks.task import RunConfig, RunTask

S = TypeVar("S", bound=Section)
GRAPH = Path("dvc.yaml")
"""Declaration of what each stage reads, its code included, relative to the root of the project."""
SHELLS = {"sh", "bash", "dash", "ash", "zsh", "ksh", "fish"}
SIDE_BY_SIDE = ("finetune", "evaluate", "export")
"""Stages that run at the same time if there are several runs. Each then gets half of the threads,
which is faster than one after the other with all."""
GRACE_S = 15.0
"""Seconds between asking a stage whose DVC died to end and killing it; less than the flow waits."""
_TALLY = "spent.json"
"""File in a stage's scratch folder with the cost of its interrupted processes."""
RANKS, LAUNCHED_ON = "ALBEF_RANKS", "ALBEF_LAUNCHED_ON"
"""Environment variables of a stage's processes: the folder for end files, the launching machine."""
_NO_MEMORY = re.compile(
    "(?i)allocate memory|out of memory|bad_alloc|new thread|map segment|create a primitive"
    "|error return without exception set"  # by CPython, if it has no memory for the exception
)
_ROOM = 2**25
"""Bytes that a process can still reserve unless memory is short."""
log = logging.getLogger("albef")


@dataclass(frozen=True)
class Context:
    """Start conditions of a stage's process, read from its environment.

    ``rank`` is its number among the processes of the stage, None if it is the only one. ``ends`` is
    the folder where each of several writes how it ended, ``launched_on`` their stage's machine.
    """

    rank: int | None
    ends: Path | None
    launched_on: str

    @classmethod
    def read(cls) -> Self:
        """Return the start conditions from the environment."""
        rank, ends = map(os.environ.get, ("RANK", RANKS))
        return cls(
            rank=int(rank) if rank else None,
            ends=Path(ends) if ends else None,
            launched_on=os.environ.get(LAUNCHED_ON, platform.node()),
        )

    @property
    def first(self) -> bool:
        """Return whether this process writes: it is the stage's only one, or has rank 0."""
        return not self.rank

    def end(self, error: BaseException, address: str) -> NoReturn:
        """End the process with an error message; one of several writes it to its end file."""
        codes = {ValueError: 2, KeyboardInterrupt: 130}
        code = next((n for cls, n in codes.items() if isinstance(error, cls)), os.EX_IOERR)
        if self.ends is not None and self.rank is not None:
            lost = isinstance(error, ConnectionError)
            end = {"code": code, "message": message_of(error), "lost": lost}
            write_json(end_file(self.ends, self.rank), end)
        elif str(error):
            print(f"{address}: {message_of(error)}", file=sys.stderr)
        self.exit(code)

    def exit(self, code: int) -> NoReturn:
        """End the process."""
        if self.rank is not None:
            # Teardown may wait for the other processes, and the launcher would not see the end.
            sys.stderr.flush()
            os._exit(code)
        raise SystemExit(code) from None


class Stage:
    """A running stage: its values, layout, seed, runtime and run record.

    Attributes:
        key: key of the stage, such as a dataset or run; "" if it has none.
        params: content of the whole params file; read sections with :meth:`section`.
        first: whether this process writes; false in all but the first of several.
        record: facts for the run record, to which a stage adds its own.
    """

    def __init__(self, name: str, key: str, context: Context | None = None) -> None:
        self.name = name
        self.key = key
        self.context = context or Context.read()
        self.first = self.context.first
        self.params = read_yaml(PARAMS)
        self.layout = Layout(self.section("paths", Paths))
        self.runtime = runtime(self.params.get("runtime"))
        if name in SIDE_BY_SIDE and len(self.params.get("tasks") or ()) > 1:
            half = (self.runtime.threads or os.cpu_count() or 1) // 2
            self.runtime = self.runtime.model_copy(update={"threads": max(1, half)})
        ShardCache.default = ShardCache.of(self.runtime)
        self.seed = _seed(self.params, "seed")
        self.record: dict[str, Any] = {}
        self.cost = Cost()
        self._tally: Path | None = None

    def made(self, *paths: Path) -> None:
        """Add the digests of finished artifacts to the run record, which belongs only to these."""
        self.record.setdefault("made", {}).update({str(p): file_digest(p) for p in paths})

    def section(self, key: str, cls: type[S]) -> S:
        """Return the section at a dotted ``key`` of params.yaml after strict validation."""
        value: Any = {key: {}} | self.params  # A missing section has its defaults.
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ParamsError(f"{PARAMS}: {key} is missing")
            value = value[part]
        return validate(cls, value, where=str(PARAMS), key=key)

    @property
    def data_seed(self) -> int:
        """Seed for the random choices of sources."""
        return _seed(self.params, "data_seed")

    @property
    def address(self) -> str:
        """DVC's name of the stage, ``NAME`` or ``NAME@KEY``."""
        return f"{self.name}@{self.key}" if self.key else self.name

    @cached_property
    def code(self) -> str:
        """Digest of the code that the stage uses; "" if dvc.yaml declares none."""
        return code_digest(used_files(self._graph, self.address, self.params))

    @cached_property
    def _graph(self) -> dict[str, Any]:
        """Stages of dvc.yaml; empty if the file does not exist."""
        return dict(read_yaml(GRAPH).get("stages", {})) if GRAPH.is_file() else {}

    def record_code(self) -> None:
        """Add the code to the run record: its digest, and the MD5 of each file as DVC has it."""
        files = filter(Path.is_file, declared_files(self._graph, self.address))
        self.record["code"] = {
            file.as_posix(): hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
            for file in files
        }
        self.record["code_digest"] = self.code

    @contextlib.contextmanager
    def scratch(self, fingerprint: str, *, alone: bool = True) -> Iterator[Path]:
        """Yield the folder for this stage's work in progress, outside any work tree.

        The stage holds the folder exclusively until its artifacts are made. The same stage of
        another clone waits.

        Args:
            fingerprint: fingerprint of the work, which names the folder.
            alone: whether to hold the folder exclusively; false if others take part in the work.

        Raises:
            ValueError: another process works there, and this one is part of a group that cannot
                wait.
        """
        folder = self.runtime.scratch_root / f"{self.address}-{fingerprint[:16]}"
        with self._locked(folder) if alone and self.first else contextlib.nullcontext():
            folder.mkdir(parents=True, exist_ok=True)
            self._tally = folder / _TALLY
            self.cost.before = read_json(self._tally) or {}
            yield folder

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        def wait(holder: str) -> None:
            # The other processes of the group would not wait for this one.
            if self.context.rank is not None:
                raise ValueError(f"process {holder} already uses {folder}; wait for it or stop it")
            log.info("waiting for process %s, which uses %s", holder, folder)

        path = folder.with_name(f"{folder.name}.lock")  # outside the folder, which may be removed
        with lock(path, wait):
            try:
                yield
            finally:
                path.unlink()

    def tally(self) -> None:
        """Save the cost of the stage so far, so that an interruption does not lose it."""
        if self._tally is not None and self._tally.parent.is_dir() and self.first:
            write_json(self._tally, self.cost.spent())

    def write_record(self, started: float) -> None:
        """Write the run record of a finished stage."""
        record = {
            "stage": self.address,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(time.time() - started, 1),
            "seed": self.seed,
            **self.cost.spent(),
            **({"interrupted": self.cost.before} if self.cost.before else {}),
            **surroundings(inputs(self._graph, self.params)),
            **self.record,
        }
        path = self.layout.record(self.address)
        write_json(path, record)
        if "DVC_EXP_NAME" in os.environ:  # An experiment includes a new file only if git tracks it.
            subprocess.run(["git", "add", "--force", "--", str(path)], capture_output=True)


def run_of(stage: Stage) -> "tuple[RunConfig, type[RunTask]]":
    """Return the run of the stage, an entry of ``tasks``: its values, and the class of its kind.

    The values may have unfilled ranges.
    """
    entry: Any = stage.params.get("tasks", {}).get(stage.key)
    if not isinstance(entry, dict) or "kind" not in entry:
        raise ParamsError(f"{PARAMS}: tasks.{stage.key} is missing, or has no kind")
    module = importlib.import_module(f"albef.tasks.{entry['kind']}")
    return stage.section(f"tasks.{stage.key}", module.Config), module.Task


def verified_digest(stage: Stage, dataset: str) -> str:
    """Return the digest of a dataset, which must be the one that passed validation."""
    verdict = json.loads(stage.layout.verdict(dataset).read_text())
    digest = str(describe(stage.layout.data(dataset))["digest"])
    if verdict["digest"] != digest:
        raise ValueError(
            f"dataset {dataset} changed after its validation; "
            f"run `albef run --only validate@{dataset}`"
        )
    return digest


def _seed(params: Mapping[str, Any], name: str) -> int:
    seed = params.get(name)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ParamsError(f"{PARAMS}: {name} must be a non-negative integer, got {seed!r}")
    return seed


def end_file(folder: Path, rank: int) -> Path:
    """Return the file in which one of several processes writes how it ended."""
    return folder / f"rank-{rank:05}.json"


def die_with_dvc(context: Context) -> None:
    """Watch the DVC process that started this stage, or its launcher, and end with it.

    The stage is first asked to end, so that a training can save a checkpoint. A flow passes the id
    of the DVC process, since it may have died while this process was still importing.
    """
    by_dvc = "DVC_STAGE" in os.environ
    if not by_dvc and context.rank is None:  # Nothing but a user's shell started it.
        return
    parents = psutil.Process().parents()  # A shell may run between the two processes.
    dvc = int(os.environ.get("ALBEF_DVC", 0)) or next(
        (p.pid for p in parents if p.name() not in SHELLS), 0
    )
    if not by_dvc or context.launched_on != platform.node():
        dvc = os.getppid()  # Without DVC on this machine, the launcher is watched.

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    call_after(lambda: dvc in {process.pid for process in psutil.Process().parents()}, end)


def memory_error(error: BaseException) -> BaseException | None:
    """Return the first cause of an error if it is that memory is short, else None.

    Errors that name no memory, such as an import that fails halfway, count if it is still short.
    """
    causes = _causes(error)
    short = (it for it in causes if isinstance(it, MemoryError) or _NO_MEMORY.search(str(it)))
    if named := next(short, None):
        return named
    try:
        mmap.mmap(-1, _ROOM).close()
    except (OSError, MemoryError):
        return causes[0]
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and those that led to it, the first one first."""
    causes = [error]
    while context := causes[0].__context__:
        causes.insert(0, context)
    return causes


@contextlib.contextmanager
def _shortage_named(stage: Stage) -> Iterator[None]:
    """Turn an error of full memory or a full disk, which no retry helps, into one with a remedy."""
    try:
        yield
    except Exception as error:  # Libraries wrap the system's error in errors of many types.
        if shortage := memory_error(error):
            raise ValueError(
                f"out of memory ({first_line(shortage)}). Lower micro_batch_size or "
                "runtime.workers, or free memory"
            ) from error
        full = os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "disk is full"  # SQLite's
        if not any(text in str(cause) for cause in _causes(error) for text in full):
            raise
        layout = stage.layout.paths
        folders = {"paths.root": Path(layout.root), "paths.models": Path(layout.models)}
        folders["runtime.scratch"] = stage.runtime.scratch_root
        folders["TMPDIR"] = Path(tempfile.gettempdir())
        free = (
            f"{name} ({folder}) has {psutil.disk_usage(str(path)).free / 2**20:,.0f} MiB"
            for name, folder in folders.items()
            for path in (next(filter(Path.exists, (folder, *folder.absolute().parents))),)
        )
        raise ValueError(
            f"the disk is full: {', '.join(free)} free. Free space, or set one of them to a folder "
            "on another disk"
        ) from error


@printable_output()
def main(
    run: Callable[[Stage], None], launch: Callable[[Stage], bool] = lambda stage: False
) -> None:
    """Run a stage as a program; print an error as one message, exit code 2 (values) or 74 (system).

    ``launch`` runs the stage in several processes, or returns false if it needs only one.
    """
    context = Context.read()
    name = Path(sys.argv[0]).stem
    key = "".join(sys.argv[1:2])  # Name of a dataset or run.
    logging.addLevelName(logging.INFO, "")
    logging.addLevelName(logging.WARNING, "warning: ")
    logging.basicConfig(format="%(levelname)s%(message)s", stream=sys.stderr)
    logging.getLogger("albef").setLevel(logging.INFO if context.first else logging.WARNING)
    started = psutil.Process().create_time()  # Imports take a part of the time.
    die_with_dvc(context)
    try:
        stage = Stage(name, key, context)
        with _shortage_named(stage):
            stage.record_code()
            if launch(stage):
                return  # The first of its processes writes the record.
            run(stage)
            if context.first:
                stage.write_record(started)
    except (ValueError, OSError, KeyboardInterrupt) as error:
        if os.environ.get("ALBEF_DEBUG"):
            raise
        context.end(error, f"{name}@{key}" if key else name)
    except Exception:
        if context.rank is None:
            raise
        traceback.print_exc()
        context.exit(1)
