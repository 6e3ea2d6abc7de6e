"""The frame of every stage: its scratch, and how its process ends."""

import errno
import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from albef.data.shards import ShardError
from pipelines.stage import RANKS, Stage, _shortage_named
from tests.pipelines.test_training import ROOT, values, work


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    work(tmp_path, values())


def ran(run: str, *prefix: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A stage in a process of its own; the code of ``run`` defines what it does."""
    command = [*prefix, sys.executable, "-c", f"from pipelines.stage import main\n{run}\nmain(run)"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_evaluation_and_export_take_half_of_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    for name, threads, taken in (("pretrain", 4, 4), ("evaluate", 1, 1), ("export", 0, 3)):
        work(tmp_path, values(runtime__threads=threads))
        assert Stage(name, "retrieval").runtime.threads == taken


def test_a_stage_is_alone_in_its_scratch_and_one_that_cannot_wait_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two clones that did the same the first one removed what the second one worked in."""
    monkeypatch.delenv("RANK", raising=False)
    caplog.set_level(logging.INFO)
    ended: list[str] = []

    def another() -> None:
        with Stage("pretrain", "").scratch("0" * 20) as folder:
            assert folder.is_dir()
            ended.append("another")

    thread = threading.Thread(target=another)
    with Stage("pretrain", "").scratch("0" * 20) as own:
        monkeypatch.setenv("RANK", "0")
        with (
            pytest.raises(ValueError, match=f"process {os.getpid()} already uses {own}; wait"),
            Stage("pretrain", "").scratch("0" * 20),
        ):
            pass
        monkeypatch.delenv("RANK")
        thread.start()
        while "waiting for process" not in caplog.text:
            time.sleep(0.01)
        own.rmdir()
        ended.append("own")
    thread.join()
    assert ended == ["own", "another"]
    assert not list(Path("scratch/albef").glob("*.lock"))


def test_a_full_disk_is_named_and_not_retried(tmp_path: Path) -> None:
    """A file system of 64 KiB, in a mount name space of its own."""
    mount = "mount -t tmpfs -o size=64k none products && exec"
    prefix = ["unshare", "-rm", "sh", "-c", f'{mount} "$@"', "sh"]
    (tmp_path / "products").mkdir()
    if subprocess.run([*prefix, "true"], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("needs user name spaces")
    (tmp_path / "large").write_bytes(bytes(2**17))
    for write in (
        "open('products/a', 'wb').write(bytes(2**17))",
        "shutil.copytree('.', 'products/b', ignore=shutil.ignore_patterns('products'))",
        "feather.write_feather(pa.table({'a': [os.urandom(2**17)]}), 'products/c')",
    ):
        imports = "import os, shutil, pyarrow as pa\nfrom pyarrow import feather\n"
        ended = ran(f"{imports}def run(stage):\n    {write}", *prefix)
        assert ended.returncode == 2, ended.stderr
        assert re.search(r"disk is full: paths.root \(products\) has [0-9]+ MiB", ended.stderr)
        assert "Errno" not in ended.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
        SystemError("error return without exception set"),
    ],
)
def test_too_little_memory_has_a_remedy(error: Exception) -> None:
    def fail() -> None:
        with _shortage_named(Stage("ingest", "web")):
            try:
                raise error
            except Exception:
                raise ShardError("the index is damaged: restore it") from None

    with pytest.raises(ValueError, match=r"out of memory \(.+\)\. Lower micro_batch_size"):
        fail()


def test_an_error_of_an_import_counts_as_too_little_memory_while_it_is_short() -> None:
    ended = ran(
        "import resource, psutil\ndef run(stage):\n    most = psutil.Process().memory_info().vms\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "    raise ImportError('cannot import name')"
    )
    assert ended.returncode == 2, ended.stderr
    assert "out of memory (cannot import name). Lower" in ended.stderr


def test_a_stage_prints_its_own_messages_and_not_those_of_libraries() -> None:
    ended = ran(
        "import logging\ndef run(stage):\n    for name in ('albef', 'botocore'):\n"
        "        logging.getLogger(name).info('from ' + name)"
    )
    assert "from albef" in ended.stderr
    assert "from botocore" not in ended.stderr


def test_a_process_of_several_that_fails_ends_at_once(tmp_path: Path) -> None:
    """Its exit handlers may wait for the others, whom the launcher ends when it has ended."""
    for error, code in (("OSError", os.EX_IOERR), ("RuntimeError", 1)):
        ends = tmp_path / error
        run = f"def run(stage):\n    raise {error}('alone')"
        ended = ran(
            f"import atexit\natexit.register(print, 'waited')\n{run}",
            **{"RANK": "1", RANKS: str(ends)},
        )
        assert (ended.returncode, ended.stdout) == (code, "")
        assert ("alone" in ended.stderr) == (error == "RuntimeError")
        assert (ends / "rank-00001.json").exists() == (error == "OSError")


@pytest.mark.parametrize("rank", ["0", ""])
def test_a_process_of_several_ends_with_a_launcher_that_is_killed(rank: str) -> None:
    """Started by hand, too; a stage that is the only process has no launcher and goes on."""
    child = (
        "import time\nfrom pipelines.stage import Context, die_with_dvc\n"
        "die_with_dvc(Context.read())\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    launcher = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RANK": rank}
    command = [sys.executable, "-c", launcher]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        (launched,) = psutil.Process(process.pid).children()
        process.kill()
    gone, alive = psutil.wait_procs([launched], timeout=20 if rank else 1)
    assert bool(gone) == bool(rank)
    for left in alive:
        left.kill()
