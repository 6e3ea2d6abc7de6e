"""A toy project: the real flow, frame and values over stages that only copy text.

`ingest@web`, `ingest@scenes` -> `pretrain` -> `finetune@retrieval` -> `evaluate@retrieval` ->
`report`. What a stage does beside that is asked for by files in `do/`, which no stage depends on.
"""

import contextlib
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from unittest import mock

import pytest
from dvc.repo import Repo

from albef import cli
from flows import values

ROOT = Path(__file__).parents[2]

STAGE = '''
import json, os, subprocess, sys, time
from pathlib import Path

from pipelines.stage import Stage, main, write_json

sys.argv[0] = sys.argv.pop(1)  # the frame takes the stage's name from here
here = Path(os.environ["TOY_DO"])


def run(stage: Stage) -> None:
    """A stage of the toy."""
    name = stage.address
    with open("started.log", "a") as file:
        file.write(f"{name} {os.getpid()}\\n")
    print(f"{name} says hello", flush=True)
    sleep = here / f"sleep-{stage.name}"
    if sleep.exists():
        time.sleep(float(sleep.read_text()))
    fail = here / f"fail-{stage.name}"
    if fail.exists():
        if fail.read_text() == "once":
            fail.unlink()
            raise ConnectionError("the line went dead")
        raise ValueError(fail.read_text())
    layout = stage.layout
    if stage.name == "ingest":
        lines = here / f"lines-{stage.key}"
        said = lines.read_text() if lines.exists() else ""
        write(layout.data(stage.key) / "part.txt", stage.key, stage.data_seed, said)
    elif stage.name == "pretrain":
        texts = [(layout.data(name) / "part.txt").read_text() for name in ("web", "scenes")]
        made = layout.model("pretrained") / "weights.txt"
        write(made, *texts, stage.params["pretrain"]["lr"], stage.seed)
    elif stage.name == "finetune":
        text = (layout.model("pretrained") / "weights.txt").read_text()
        made = layout.model(stage.key) / "weights.txt"
        write(made, text, stage.params["tasks"][stage.key]["epochs"])
        stage.made(made)
    elif stage.name == "evaluate":
        size = stage.params["evaluate"]["batch_size"]
        write_json(layout.metrics(stage.key), {
            "test": {"tr@1": size / 128, "r_mean": 0.5 + size / 256},
            "chance": {"test": {"tr@1": 0.002, "r_mean": 0.01}},
        })
    else:
        write(layout.report(), stage.params["report"]["examples"], "examples")


def write(path: Path, *words: object) -> None:
    """Make a product."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(" ".join(map(str, words)))


main(run)
'''

DVC = """
vars:
  - keys: {web: web, scenes: scenes}
stages:
  ingest:
    foreach: ${keys}
    do:
      cmd: python toy_stage.py ingest ${key}
      params: [data_seed, "datasets.${key}.sources"]
      deps: [code/ingest.py]
      outs: ["${paths.root}/data/${key}"]
  pretrain:
    cmd: python toy_stage.py pretrain
    params: [seed, pretrain]
    deps: [code/ingest.py, code/train.py, "${paths.root}/data/web", "${paths.root}/data/scenes"]
    outs: ["${paths.models}/pretrained"]
  finetune:
    foreach: ${tasks}
    do:
      cmd: python toy_stage.py finetune ${key}
      params: [seed, "tasks.${key}"]
      deps: [code/train.py, albef/tune, "${paths.models}/${item.init}"]
      outs: ["${paths.models}/${key}"]
  evaluate:
    foreach: ${tasks}
    do:
      cmd: python toy_stage.py evaluate ${key}
      params: [evaluate]
      deps: ["${paths.models}/${key}"]
      metrics: ["${paths.root}/metrics/${key}.json": {cache: false}]
  report:
    cmd: python toy_stage.py report
    params: [report]
    deps: ["${paths.root}/metrics/retrieval.json", "${paths.root}/data/web"]
    outs: ["${paths.root}/report/index.html": {cache: false}]
"""


class Toy:
    """A clone of the toy project in ``path``, whose flow uses the server at ``api``, if any."""

    def __init__(self, path: Path, home: Path, api: str | None = None) -> None:
        self.path = path
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TOY_DO": str(path / "do"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PREFECT_HOME": str(home),
            **({"PREFECT_API_URL": api} if api else {}),
            "NO_COLOR": "1",
            "COLUMNS": "120",
            "GIT_AUTHOR_NAME": "A Tester",
            "GIT_AUTHOR_EMAIL": "tester@example.org",
            "GIT_COMMITTER_NAME": "A Tester",
            "GIT_COMMITTER_EMAIL": "tester@example.org",
        }

    @classmethod
    def create(cls, path: Path, home: Path, api: str | None = None) -> "Toy":
        (path / "do").mkdir(parents=True)
        for name in ("code/ingest.py", "code/train.py", "albef/tune/loop.py", "albef/tune/lr.py"):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(f"# {name}\n")
        (path / "toy_stage.py").write_text(STAGE)
        (path / "dvc.yaml").write_text(textwrap.dedent(DVC))
        (path / "flows").symlink_to(ROOT / "flows")
        for name in ("prefect.toml", "prefect.yaml"):
            (path / name).write_text((ROOT / name).read_text())
        values = (ROOT / "params.yaml").read_text()
        other_runs = (
            r"(?m)^  (?!retrieval:)\w+:\n    kind: .*\n(?:    .*\n)+"
            r"|^    (?!retrieval:)\w+: \{dataset: .*\n"
        )
        (path / "params.yaml").write_text(re.sub(other_runs, "", values))
        for folder in ("behaviour", "presets", "profiles"):  # which values name
            shutil.copytree(ROOT / folder, path / folder)
        (path / ".gitignore").write_text(
            (ROOT / ".gitignore").read_text() + "\n/do/\n/flows\n*.log\n"
        )
        (path / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
        toy = cls(path, home, api)
        toy.init()
        toy.sh("git add -A && git commit -qm toy")
        toy.checked()
        return toy

    def init(self) -> None:
        """Make the folder a repository of git and DVC, as the project's is."""
        self.sh("git init -q -b main")
        with self._within():
            Repo.init(".").close()
        shutil.copyfile(ROOT / ".dvc/config", self.path / ".dvc/config")

    def copy(self, path: Path) -> "Toy":
        shutil.copytree(self.path, path, symlinks=True)
        return Toy(path, Path(self.env["PREFECT_HOME"]), self.env.get("PREFECT_API_URL"))

    def clone(self, path: Path) -> "Toy":
        self.sh(f"git clone -q . {path}")
        toy = Toy(path, Path(self.env["PREFECT_HOME"]), self.env.get("PREFECT_API_URL"))
        (path / "do").mkdir()
        (path / "flows").symlink_to(ROOT / "flows")
        toy.checked()
        return toy

    def checked(self, *overrides: str) -> None:
        """Spare the flow the check of its values, with overrides or not: it imports torch."""
        with contextlib.chdir(self.path):
            values.CHANGED.write_text(values.PARAMS.read_text())
            values.override(values.CHANGED, overrides)
            values.CHECKED.parent.mkdir(exist_ok=True)
            values.CHECKED.write_text(values._digest(values.CHANGED))
            values.CHANGED.unlink()

    def enter(self, patch: pytest.MonkeyPatch) -> None:
        for name, value in self.env.items():
            patch.setenv(name, value)
        patch.chdir(self.path)

    def sh(self, command: str, *, fails: bool = False) -> str:
        done = subprocess.run(  # noqa: S602 - commands that the tests write
            command,
            shell=True,
            cwd=self.path,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def albef(self, arguments: str = "", *, fails: bool = False) -> str:
        """Run the ``albef`` command in this process, which spares its imports; as :meth:`sh`."""
        status = None
        with self._within(), _output() as output:
            try:
                cli.main(shlex.split(arguments))
            except SystemExit as ended:
                status = ended.code
            output.seek(0)
            said = output.read()
        assert bool(status) == fails, f"albef {arguments}: {status}\n{said}"
        return said

    def repro(self) -> None:
        with self._within(), Repo(".") as repo:
            repo.reproduce()

    @contextlib.contextmanager
    def _within(self) -> Iterator[None]:
        """Work in this project, as a command that was started there; all is as before after it."""
        log = logging.getLogger("albef")
        before = log.handlers[:], log.level, log.propagate, signal.getsignal(signal.SIGTERM)
        try:
            with (
                contextlib.chdir(self.path),
                mock.patch.dict(os.environ, self.env, clear=True),
                mock.patch.object(sys, "path", sys.path[:]),
            ):
                yield
        finally:
            log.handlers[:], log.level, log.propagate, handler = before
            signal.signal(signal.SIGTERM, handler)

    def start(self, arguments: str, **popen: object) -> "subprocess.Popen[str]":
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(
            [sys.executable, "-m", "albef.cli", *arguments.split()],
            cwd=self.path,
            text=True,
            **{"env": self.env, **streams, **popen},  # type: ignore[call-overload]
        )

    def do(self, what: str, text: str = "") -> None:
        """Ask stages to behave: ``sleep-NAME``, ``fail-NAME``; with no text, no more."""
        path = self.path / "do" / what
        if text:
            path.write_text(text)
        else:
            path.unlink(missing_ok=True)

    def wait_for(self, stage: str, seconds: float = 600) -> int:
        """Wait until a stage has started; its process."""
        deadline, log = time.monotonic() + seconds, self.path / "started.log"
        while True:
            for line in log.read_text().splitlines() if log.exists() else []:
                if line.split()[0] == stage:
                    return int(line.split()[1])
            assert time.monotonic() < deadline, f"{stage} did not start"
            time.sleep(0.1)

    def started(self, folder: str = ".") -> list[str]:
        """Names of the stages whose command was started since the last call, in this folder."""
        path = self.path / folder / "started.log"
        names = [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return names


@contextlib.contextmanager
def _output() -> Iterator[IO[str]]:
    """A file to which both streams go meanwhile, those of child processes too."""
    kept = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile("w+", buffering=1) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield file
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
