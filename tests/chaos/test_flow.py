"""A whole small pipeline whose processes are killed at random, thirty times: run again, it ends
with the products of one that nothing befell."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from albef.config import read_yaml
from tests.chaos.conftest import SEED
from tests.chaos.stages import ROOT
from tests.flows.conftest import home as home
from tests.flows.conftest import server as server

pytestmark = pytest.mark.chaos
KILLS, CPU_S = int(os.environ.get("CHAOS_KILLS", "30")), 5.0
"""How many, and how much processor time passes between two of them on average."""
OTHERS = ("vqa", "entailment", "text_assignment", "nlvr2", "grounding")
PRESET = f"""\
base: smoke
drop:
  [{", ".join(f"tasks.{run}" for run in OTHERS)},
   {", ".join(f"export.runs.{run}" for run in OTHERS if run != "text_assignment")},
   datasets.web, datasets.questions, datasets.statements, datasets.comparisons,
   datasets.expressions]
ingest: {{heldout: [scenes]}}
runtime: {{checkpoint_every: 2, threads: 1}}
pretrain: {{dataset: scenes}}
evaluate: {{behaviour: {{cases: 6}}}}
"""
"""One run of the smoke preset on one data set: each stage is there, with all that it does."""


class Project:
    """A clone of the project with that preset, and a cache of its own."""

    def __init__(self, path: Path, server: str, home: Path) -> None:
        self.path = path
        listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).exists():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, path / name)
        (path / "presets/chaos.yaml").write_text(PRESET)
        self.env = os.environ | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "XDG_CACHE_HOME": str(path.with_name(f"{path.name}.cache")),
            "TMPDIR": str(path.with_name(f"{path.name}.tmp")),
            "PREFECT_API_URL": server,
            "PREFECT_HOME": str(home),
            "OMP_NUM_THREADS": "1",
        }
        self.env.pop("PYTHONPATH", None)
        Path(self.env["TMPDIR"]).mkdir()
        git = "git -c user.name=a -c user.email=a@a.test"
        command = f"git init -q && git add -A && {git} commit -qm start"
        subprocess.run(["sh", "-c", command], cwd=path, check=True)

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "albef.cli", "run", "--preset", "chaos"]
        with (self.path / "run.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.path, env=self.env, stdout=log, stderr=log)

    def said(self) -> str:
        return (self.path / "run.log").read_text(errors="replace")[-4000:]

    def lock(self) -> dict[str, Any]:
        """By stage, the digests of what it read and made, and the values; the report tells the time
        that stages took, and counts without what it made."""
        stages = dict(read_yaml(self.path / "dvc.lock")["stages"])
        del stages["report"]["outs"]
        return stages

    def forget(self) -> None:
        shutil.rmtree(self.path / "products")
        shutil.rmtree(self.path / ".dvc/cache")
        (self.path / "dvc.lock").unlink()


def family(root: "subprocess.Popen[Any]") -> list[psutil.Process]:
    try:
        process = psutil.Process(root.pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(processes: list[psutil.Process]) -> float:
    """Processor time of processes, and of those that they have waited for."""
    spent = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            spent += sum(process.cpu_times()[:4])
    return spent


def kill_one(root: "subprocess.Popen[bytes]", rng: random.Random) -> str:
    """Kill a process of the run once it has computed for a while; what it was, "" where all ended
    before."""
    until = rng.expovariate(1 / CPU_S) + cpu_s(family(root))
    while root.poll() is None and cpu_s(family(root)) < until:
        time.sleep(0.1)
    with contextlib.suppress(psutil.Error, IndexError):
        victim = rng.choice(family(root))
        line = " ".join(victim.cmdline()[1:])
        if root.poll() is None:
            victim.kill()
            return line or "?"
    return ""


def test_a_pipeline_that_is_killed_thirty_times_ends_with_the_same_artifacts(
    tmp_path: Path, server: str, home: Path
) -> None:
    rng = random.Random(SEED)
    whole = Project(tmp_path / "whole", server, home)
    undisturbed = whole.start()
    project = Project(tmp_path / "killed", server, home)
    kills = 0
    for _ in range(10 * KILLS):
        last, run = kills == KILLS, project.start()
        while kills < KILLS and (line := kill_one(run, rng)):
            kills += 1
            print(kills, line[-70:], flush=True)
        if run.wait() == 0:
            if kills == KILLS:
                break
            project.forget()
        elif last and "already" not in project.said():
            raise AssertionError(project.said())
        time.sleep(0.5)  # what is left of it may hold the project's lock for a moment
    assert undisturbed.wait() == 0, whole.said()
    assert project.lock() == whole.lock()
