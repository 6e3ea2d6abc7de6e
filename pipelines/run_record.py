"""What is told of a process in run records: what it cost, where and with what it ran."""

import os
import platform
import resource
import subprocess
from collections.abc import Mapping
from importlib import metadata
from typing import Any


def surroundings() -> dict[str, Any]:
    """Where and with what a process runs: memory, machine, versions, revision of the work tree."""
    packages = ("torch", "timm", "transformers", "onnxruntime-gpu", "onnxruntime", "dvc", "prefect")
    return {
        "peak_memory_mib": round(max(u.ru_maxrss for u in _usage()) / 1024),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages if _version(name)},
        "git": _git(),
    }


def machine() -> str:
    """What kind of machine this is, as run records and model cards have it."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def _usage() -> list[resource.struct_rusage]:
    """Of this process, and of its children that have ended."""
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def spent(gpu_seconds: float, before: Mapping[str, float] | None = None) -> dict[str, float]:
    """What a stage cost, for its run record: time on cores, and time that it held GPUs.

    Args:
        gpu_seconds: time that this process held GPUs, times their number.
        before: the same of the processes whose work this one went on with.
    """
    seconds = sum(u.ru_utime + u.ru_stime for u in _usage())
    found = {
        "cpu_seconds": seconds,
        "core_hours": seconds / 3600,
        "gpu_hours": gpu_seconds / 3600,
    }
    return {name: round(value + (before or {}).get(name, 0.0), 5) for name, value in found.items()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any]:
    """Revision of the work tree and whether it is clean; empty outside git."""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"revision": git("rev-parse", "HEAD"), "clean": not changed}
    except (subprocess.CalledProcessError, FileNotFoundError):
        return {}
