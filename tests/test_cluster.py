"""The engine ray on a cluster of several nodes on this machine: what it gives is what one process
gives, whatever dies meanwhile.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from albef.data.record import Record
from albef.data.rejection import Reason, Rejection
from albef.ingest.pool import prepare_rows
from albef.io import file_digest
from pipelines import finetune
from pipelines.stage import Stage
from tests.ingest.bad_rows import encoded
from tests.ingest.conftest import server as server
from tests.ingest.download.server import Server
from tests.ingest.download.test_client import LIMITS
from tests.ingest.test_prepare import rules
from tests.pipelines.conftest import pretrained as pretrained
from tests.pipelines.conftest import validated as validated
from tests.pipelines.states import saved, wait
from tests.pipelines.test_ingest import ROOT, contents, params, pictures
from tests.pipelines.test_launch import TWO, WEIGHTS, ended, start
from tests.pipelines.test_launch import prepared as prepared
from tests.pipelines.test_training import values, work

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else the other work of the machine comes first
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # nodes are reached by loopback, as there
}
ray = pytest.importorskip("ray", reason="needs the extra ray")

from ray.cluster_utils import Cluster  # noqa: E402

from albef import cluster  # noqa: E402

PATIENCE = 600  # seconds: a cluster starts slowly on a machine that does much else
INTAKE = {"heldout": ["toy"], "min_yield": 0.5, "near_distance": 4}
NODE = {
    "num_cpus": 1,
    "object_store_memory": 100 * 2**20,
    "node_ip_address": "127.0.0.1",
    "include_log_monitor": False,
}


def add(running: Cluster, tries: int = 9, **more: Any) -> Any:
    """Another node; Ray gives one up that is slow to start, as on a busy machine."""
    try:
        return running.add_node(**NODE, **more)
    except Exception:
        if not tries:
            raise
        return add(running, tries - 1, **more)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster of two nodes with a processor each."""
    before = dict(os.environ)
    os.environ.pop("PYTHONPATH", None)  # nodes have the code of drivers alone
    running = Cluster()
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # short: sockets lie in it
        try:
            add(running, include_dashboard=False, temp_dir=folder)
            add(running)
            os.environ["RAY_ADDRESS"] = running.address
            yield running
        finally:
            ray.shutdown()
            running.shutdown()
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photograph(number: int) -> bytes:
    """A picture with noise, so that preparing it takes its time."""
    noise = np.random.default_rng(number).integers(0, 255, (90, 120, 3), np.uint8)
    return encoded(Image.fromarray(noise).resize((240, 180)))


def folder_of(here: Path, count: int) -> None:
    """Params of a data set of so many training pictures and a few that are evaluated on; some are
    no picture, some repeat another."""
    images = {i: photograph(i) for i in range(count)}
    rows = {
        f"{i:05d}.jpg": (b"<html>" if i % 50 == 7 else images[i - i % 40 // 39], f"number {i}")
        for i in range(count)
    }
    tests = {f"t{i}.jpg": (photograph(i + 30), f"test {i}") for i in range(0, 60, 3)}
    sources = {
        "own": pictures(here / "images", rows),
        "tests": pictures(here / "tests", tests, "test"),
    }
    params(here, sources, ingest=INTAKE, screened=True, longest_side=128)


def products() -> dict[str, bytes]:
    made = contents(Path("products"))
    return {path: content for path, content in made.items() if not path.startswith("runs/")}


def locally(here: Path, *stages: str) -> dict[str, bytes]:
    """What one process makes; nothing of it is left."""
    for name in stages:
        import_module(f"pipelines.{name}").run(Stage(name, "toy"))
    made = products()
    for folder in (here / "products", here / "scratch"):
        shutil.rmtree(folder)
    return made


def started(stage: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ALBEF_RUNTIME__ENGINE": "ray"}
    command = [sys.executable, "-m", f"pipelines.{stage}", "toy"]
    return subprocess.Popen(command, env=environment)


def at_work(raylet: int) -> bool:
    """Whether a task is being done on a node."""
    children = psutil.Process(raylet).children()
    return any("ray::_run" in " ".join(child.cmdline()) for child in children)


@pytest.mark.slow
def test_a_node_that_is_killed_loses_no_row(here: Path, nodes: Cluster) -> None:
    folder_of(here, 2000)
    expected = locally(here, "heldout", "ingest")
    assert started("heldout").wait(PATIENCE) == 0
    third = add(nodes)
    raylet = third.all_processes["raylet"][0].process.pid
    process = started("ingest")
    while not at_work(raylet) or not list((here / "scratch").rglob("rows-*")):
        assert process.poll() is None
    process.send_signal(signal.SIGSTOP)  # whatever is at work there now, is lost
    os.kill(raylet, signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    assert process.wait(PATIENCE) == 0
    nodes.remove_node(third)
    assert products() == expected


@pytest.mark.slow
def test_images_are_fetched_from_all_nodes_and_each_once(
    here: Path, nodes: Cluster, server: Server
) -> None:
    paths = [f"ok/{i}" for i in range(300)]
    paths[3], paths[40], paths[200] = "later/503/2", "status/404", "robots/noai"
    lines = "".join(f"{server.url(path)}\ta picture: {path}\n" for path in paths)
    (here / "list.tsv").write_text(f"url\tcaption\n{lines}")
    source = {
        "kind": "urls", "format": "tsv", "files": ["list.tsv"], "url": "url", "caption": "caption",
        "split": "train", "download": LIMITS.model_dump(),
    }  # fmt: skip
    params(here, {"web": source}, ingest=INTAKE)
    expected = locally(here, "ingest")
    asked = Counter(server.asked)
    server.asked.clear()
    assert started("ingest").wait(PATIENCE) == 0
    assert products() == expected
    assert server.asked == asked


class Deadly(bytes):
    """A picture that ends the process which is given it."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)


@pytest.mark.slow
def test_a_row_that_ends_its_process_is_rejected_and_errors_are_raised(nodes: Cluster) -> None:
    images = [photograph(i) for i in range(40)]
    images[20] = Deadly(images[20])
    rows = [
        (i + 1, Record(f"k{i}", image, ("a picture",), i, "train", "toy"))
        for i, image in enumerate(images)
    ]
    of_others = list(prepare_rows(rows[:20] + rows[21:], rules(), 0))
    made = list(prepare_rows(rows, rules(), 1, "ray"))
    (refused,) = (row for row in made if isinstance(row, Rejection))
    assert (refused.line, refused.reason) == (21, Reason.KILLED)
    assert "crashed" in refused.detail
    assert [row for row in made if row is not refused] == of_others
    with cluster.RayExecutor() as executor, pytest.raises(ValueError, match="literal for int"):
        executor.submit(int, "x").result()


def train_workers() -> list[psutil.Process]:
    """The workers of Ray Train on this machine whose stage trains."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end meanwhile
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.slow
def test_a_training_on_ray_resumes_when_a_worker_is_killed_and_stops_when_it_is_asked(
    prepared: Path, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training checkpoints and weights are those of torchrun."""
    monkeypatch.chdir(prepared)
    shorter = {"pretrain__epochs": 6, "runtime__checkpoint_every": 2}
    work(prepared, values(**TWO | shorter))
    whole = start("pretrain", scratch="elsewhere")
    ended(whole)
    expected = file_digest(WEIGHTS)
    training = start("pretrain", launch="ray")
    wait(training, saved)
    train_workers()[0].kill()
    wait(training, lambda: len(train_workers()) == 2)
    first = saved()
    wait(training, lambda: max(saved()) > max(first))
    training.send_signal(signal.SIGTERM)
    told = ended(training)
    assert training.returncode == 130, told
    assert "resuming at step" in told
    assert "of 42, which is saved" in told.splitlines()[-1]
    again = start("pretrain", launch="ray")
    assert ended(again).count("resuming at step") == 1
    assert again.returncode == 0
    assert file_digest(WEIGHTS) == expected


@pytest.mark.slow
def test_trials_and_an_evaluation_on_ray_have_the_bytes_of_other_launchers(
    pretrained: Path, here: Path, nodes: Cluster
) -> None:
    shutil.copytree(pretrained, here, dirs_exist_ok=True)
    params = values(runtime__processes=2)
    run = params["tasks"]["retrieval"] | {"micro_batch_size": 8, "epochs": 0}
    random = {"trials": 2, "epochs": 1, "sampler": {"kind": "random"}, "pruner": {"kind": "none"}}
    work(here, params | {"search": random, "tasks": {"retrieval": run}})
    for stage, made in (
        ("search", Path("products/search")),
        ("evaluate", Path("products/results")),
    ):
        found = []
        for launch in ({"launch": "ray"}, {}):
            shutil.rmtree(made, ignore_errors=True)
            process = start(stage, "retrieval", **launch)
            told = ended(process)
            assert process.returncode == 0, told
            found.append(contents(made))
        assert found[0] == found[1]
        assert len(found[0]) == 2
        if stage == "search":
            trials = json.loads(found[0]["retrieval/trials.json"])["trials"]
            assert [trial["state"] for trial in trials] == ["complete"] * 2
            finetune.run(Stage("finetune", "retrieval"))


def test_no_cluster_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    message = r"no Ray cluster responds at RAY_ADDRESS .* as `ray start"
    for address in ("", "127.0.0.1:1", "ray://nowhere.invalid:1"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConnectionError, match=message):
            cluster.connect()


@pytest.mark.slow
def test_the_cluster_of_the_guide_listens_on_loopback_and_requires_its_token(
    tmp_path: Path,
) -> None:
    page = (ROOT / "docs/how-to/run-on-a-cluster.md").read_text()
    pattern = r"(RAY_\w+_CLUSTER)=0 RAY_ADDRESS=(\S+):6379\nray (start --head) --port 6379"
    [(loopback, host, start)] = re.findall(pattern, page)
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        loopback: "0", "RAY_ADDRESS": f"{host}:{port}", "RAY_AUTH_MODE": "token",
        "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
    }  # fmt: skip
    program = [sys.executable, "-m", "ray.scripts.scripts"]
    subprocess.run([*program, "get-auth-token", "--generate"], env=environment, check=True)
    script = (
        "from albef.cluster import RayExecutor\n"
        "try:\n    print([RayExecutor().submit(len, 'ab').result()])\n"
        "except ConnectionError as error:\n    print(error)\n"
    )

    def driver(**changed: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-W", "ignore", "-c", script]
        return subprocess.run(command, env=environment | changed, capture_output=True, text=True)

    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        options = ["--num-cpus", "1", "--include-dashboard", "false", "--temp-dir", folder]
        command = [*program, *start.split(), "--port", str(port), *options, "--block"]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as head:
            try:
                assert head.stdout
                assert any("Ray runtime started" in line for line in head.stdout)
                nodes = psutil.Process(head.pid).children(recursive=True)
                connections = [it for node in nodes for it in node.net_connections()]
                listening = [it.laddr.ip for it in connections if it.status == psutil.CONN_LISTEN]
                assert listening
                assert all("127.0.0.1" in address for address in listening)
                assert "[2]" in driver().stdout
                assert "there is no token" in driver(HOME=str(tmp_path / "other")).stdout
            finally:
                head.terminate()


def test_a_node_with_other_packages_or_code_is_refused() -> None:
    assert cluster._run(cluster._versions(), len, "abc") == 3
    for package in ("numpy", "albef"):
        with pytest.raises(ValueError, match=f"differs from the driver, which has {package} 0"):
            cluster._run(((package, "0"),), len, "abc")
