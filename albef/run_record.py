"""Run records of stages, and digests of the code that ran.

A record contains the cost of a stage, its environment, and the digests of what it made. If DVC
takes earlier artifacts from its cache, no stage runs, and a record in place may belong to later
artifacts. It is then removed; git has that of committed artifacts.
"""

import ast
import contextlib
import hashlib
import io
import itertools
import os
import platform
import re
import resource
import subprocess
import time
import tokenize
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from albef.io import file_digest, read_json

_PACKAGES = ("torch", "timm", "transformers", "onnxruntime-gpu", "onnxruntime", "dvc", "prefect")
_HOUR_S = 3600
_CODE = ("albef/", "pipelines/")
_BY_KIND = "albef/tasks", "albef/metrics"
"""Folders of which a stage uses only the files of its kind."""
_MODULE = re.compile(rf"\b(?:{'|'.join(_BY_KIND).replace('/', '[.]')})[.]\w+")


class Git(BaseModel):
    """State of a work tree; ``clean``: the inputs of stages are as committed, None if unknown."""

    revision: str = ""
    clean: bool | None = None


class RunRecord(BaseModel):
    """Record of a stage's run. It may have further facts, such as ``samples_per_second``.

    Attributes:
        started: start time in UTC.
        core_hours: time on cores of the stage and its processes.
        gpu_hours: time that GPUs were held, times their number.
        made: SHA-256 of each artifact, by its path relative to the root of the project.
        code: MD5 of each code file that ran or whose edit was accepted, in DVC's format.
        code_digest: digest of the code that it used; see :func:`code_digest`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    stage: str = ""
    started: str = ""
    seconds: float | None = None
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    peak_memory_mib: float | None = None
    machine: str = ""
    python: str = ""
    versions: dict[str, str] = {}
    git: Git = Git()
    made: dict[str, str] = {}
    code: dict[str, str] = {}
    code_digest: str = ""


def read(path: Path) -> RunRecord | None:
    """Return the record in a file, None if it is missing; raise ValueError if it is damaged."""
    values = read_json(path)
    try:
        return None if values is None else RunRecord.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {key}: {first['msg'].lower()}; restore it with git") from None


def discard_foreign(record: Path) -> None:
    """Remove a run record if a local file is not the one that it names."""
    made = (read_json(record) or {}).get("made", {})
    if any(Path(it).is_file() and file_digest(Path(it)) != made[it] for it in made):
        record.unlink()


def surroundings(inputs: Iterable[str]) -> dict[str, Any]:
    """Return memory, machine, versions and git revision of this process; see :func:`inputs`."""
    return {
        "peak_memory_mib": round(max(u.ru_maxrss for u in _usage()) / 1024),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "git": _git(inputs),
    }


def machine() -> str:
    """Return a description of this machine for run records and model cards."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    kind = [f"{platform.system()} {platform.machine()}", *names[:1], f"{os.cpu_count()} cores"]
    return ", ".join(kind)


class Cost:
    """Cost of a stage: time on cores, and ``gpu_seconds``, the time of GPUs times their number.

    ``before`` is the cost of interrupted processes whose work this one resumes.
    """

    def __init__(self, gpu_seconds: float = 0.0, before: Mapping[str, float] | None = None) -> None:
        self.before = before or {}
        self._gpu_seconds = gpu_seconds
        self._gpus, self._since = 0, 0.0

    @contextlib.contextmanager
    def holding(self, gpus: int) -> Iterator[None]:
        """Count the time during which ``gpus`` GPUs are held."""
        self._gpus, self._since = gpus, time.monotonic()
        try:
            yield
        finally:
            self._gpu_seconds, self._gpus = self._held_s(), 0

    def spent(self) -> dict[str, float]:
        """Return the cost so far, including that of earlier processes."""
        seconds = sum(u.ru_utime + u.ru_stime for u in _usage())
        costs = {
            "cpu_seconds": seconds,
            "core_hours": seconds / _HOUR_S,
            "gpu_hours": self._held_s() / _HOUR_S,
        }
        return {name: round(cost + self.before.get(name, 0.0), 5) for name, cost in costs.items()}

    def _held_s(self) -> float:
        return self._gpu_seconds + self._gpus * (time.monotonic() - self._since)


def _usage() -> list[resource.struct_rusage]:
    """Return the resource usage of this process and of its children that have ended."""
    return [resource.getrusage(scope) for scope in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _git(inputs: Iterable[str]) -> dict[str, Any]:
    def git(*args: str) -> str:
        command = ["git", "--literal-pathspecs", *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=all", "--", *inputs)
        return {"revision": git("rev-parse", "HEAD"), "clean": not changed}
    except (subprocess.CalledProcessError, FileNotFoundError):  # Outside git.
        return {}


def inputs(stages: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """Return the paths in the project that stages read and no stage writes, such as code.

    dvc.lock, metrics and run records are not among them, because they change during a run.
    ``stages`` are those of dvc.yaml; the params file has the paths of other inputs.
    """
    paths = {"dvc.yaml", "params.yaml"}
    for stage in stages.values():
        for dep in stage.get("do", stage).get("deps", ()):
            path, _, template = dep.partition("${")
            value: Any = params
            for part in template.rstrip("}").split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            paths |= {name for name in (path, value) if name and isinstance(name, str)}
    root = Path.cwd()
    return sorted(path for path in paths if Path(path).resolve().is_relative_to(root))


def declared_files(stages: Mapping[str, Any], address: str) -> set[Path]:
    """Return every code file that a stage declares; its address is ``NAME`` or ``NAME@KEY``.

    ``stages`` are those of dvc.yaml.
    """
    stage = stages.get(address.partition("@")[0], {})
    files: set[Path] = set()
    for dep in stage.get("do", stage).get("deps", ()):
        if dep.startswith(_CODE):
            path = Path(dep)
            files |= {file for file in path.rglob("*") if file.is_file()} or {path}
    return {path for path in files if path.parent.name != "__pycache__"}


def used_files(stages: Mapping[str, Any], address: str, params: Mapping[str, Any]) -> set[Path]:
    """Return the code files that a stage declares, without those of other kinds.

    Of albef/tasks and albef/metrics, they are the file of the run's kind, which the params file
    has, and the modules that the stage's code imports or names.
    """
    declared = declared_files(stages, address)
    by_kind = set(filter(_is_by_kind, declared))
    folders = {path.parent for path in by_kind}
    run = params.get("tasks", {}).get(address.partition("@")[2])
    of_kind = [Path(f"{_BY_KIND[0]}/{run.get('kind')}.py")] if run and folders else []
    used, todo = set[Path](), [*(declared - by_kind), *of_kind]
    while todo:
        path = todo.pop()
        # A file that is missing although code names it is used: the stage cannot run without it.
        is_missing = path.parent in folders and not path.exists()
        if path in used or not (path in declared or is_missing):
            continue
        used.add(path)
        todo += map(Path, _modules_named(path)) if path.suffix == ".py" and path.exists() else ()
    return used


def is_unused(path: Path, used: Collection[Path]) -> bool:
    """Return whether a declared file is of other kinds; ``used`` is from :func:`used_files`."""
    return _is_by_kind(path) and path not in used


def _is_by_kind(path: Path) -> bool:
    return path.parent.as_posix() in _BY_KIND


def _modules_named(path: Path) -> list[str]:
    """Return the files of :data:`_BY_KIND` that the text of a module names."""
    return [f"{name.replace('.', '/')}.py" for name in _MODULE.findall(path.read_text())]


def code_digest(files: Iterable[Path]) -> str:
    """Return a SHA-256 over the modules among files, without comments and docstrings, in hex.

    It is "" without modules, or if one is missing.
    """
    digest, names = hashlib.sha256(), {path.as_posix() for path in files if path.suffix == ".py"}
    for name in sorted(names):
        if not Path(name).is_file():
            return ""
        digest.update(f"{name}\n{strip_comments(Path(name).read_text())}\n".encode())
    return digest.hexdigest() if names else ""


@cache
def strip_comments(source: str) -> str:
    """Return a module without comments, docstrings and blank lines; the same in every Python.

    Code that cannot be parsed is returned unchanged, since the stage may not import it.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    lines = source.splitlines()
    for statement in _statements(tree):
        match statement:  # Match a docstring, or the string below a field that describes it.
            case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                lines[first - 1 : last] = [""] * (last - first + 1)
    # The tokenizer is slow, and most top-level statements contain no comment.
    pairs = itertools.pairwise(tree.body)
    ends = [one.end_lineno or 0 for one, two in pairs if two.lineno > (one.end_lineno or 0)]
    for start, end in itertools.pairwise([0, *ends, len(lines)]):
        if "#" in (text := "\n".join(lines[start:end])):
            tokens = tokenize.generate_tokens(io.StringIO(f"{text}\n").readline)
            for row, column in [token.start for token in tokens if token.type == tokenize.COMMENT]:
                lines[start + row - 1] = lines[start + row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements in the bodies of a node and of what it contains, but no expressions."""
    yield from getattr(node, "body", ())
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, part, ()):
            yield from _statements(child)
