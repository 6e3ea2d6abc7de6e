"""Real parts, small: what several tests need is made once a session."""

import hashlib
import io
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

import albef
from albef.config import validate
from albef.data.record import Record
from albef.io import atomic, file_digest, lock
from albef.models.albef import ModelConfig
from albef.models.weights import load_checkpoint, save_checkpoint
from albef.preprocessing.text import TextTokenizer

CAPTIONS = (
    "a dog left of an apple", "two apples above a squid",
    "a fox at the top and two tractors at the bottom", "only three frogs",
)  # fmt: skip
"""What the tiny tokenizer was trained on."""

EXAMPLES = int(os.environ.get("ALBEF_FUZZ", "50"))
"""Of each property that does not say how many; `make test-slow` tries more."""
settings.register_profile(  # a test depends on no machine's speed
    "albef", max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("albef")
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # workers share the cores
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    torch.set_num_threads(max(1, share))


@pytest.fixture(scope="session", autouse=True)
def _own_slots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Device slots apart from those of other workers, and of a training on this machine; in a
    short path, since sockets lie there."""
    tmp_path_factory.getbasetemp()  # stays where it is
    with (
        tempfile.TemporaryDirectory(prefix="albef-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


LONGEST = (
    "test_distributed.py", "serving/test_hostile.py",
    "flows", "pipelines", "search", "validation", "training",
)  # fmt: skip
"""What is begun first: begun last, it would keep one worker at work while the others have nothing.

The first forks, and with a CUDA build of torch, a fork of a process that ran other tests computes
no gradient. The second makes all exports, so that nobody has to wait for them.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((i for i, start in enumerate(LONGEST) if path.startswith(start)), len(LONGEST))

    items.sort(key=place)


def tiny_model() -> ModelConfig:
    """Sizes of a model that has everything a large one has; image and text differ in width."""
    values = {
        "image": {"image_size": 16, "patch_size": 8, "width": 24, "depth": 2, "heads": 2},
        "text": {
            "width": 16, "depth": 4, "fusion_depth": 2, "heads": 2, "intermediate": 32,
            "max_positions": 16, "dropout": 0.0,
        },
        "embed_dim": 8,
    }  # fmt: skip
    return validate(ModelConfig, values, where="tests")


_COMMON = {
    "dataset": "scenes", "init": "pretrained", "epochs": 1, "global_batch_size": 4,
    "micro_batch_size": 4, "precision": "float32", "lr": 1e-3, "min_lr": 1e-5, "warmup_steps": 1,
    "momentum": 0.9, "image_size": 16, "max_tokens": 12, "alpha": 0.4,
}  # fmt: skip
_BY_KIND: dict[str, dict[str, object]] = {
    "retrieval": {"queue_size": 8, "rerank_k": 4},
    "vqa": {"max_answers": 9, "answer_k": 3, "beams": 2},
    "entailment": {},
    "nlvr2": {},
    "grounding": {"queue_size": 8, "layer": 1},
}
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
KINDS = tuple(_BY_KIND)
"""Kinds of runs that are exported."""
ANSWERS = ("two apples", "a dog", "three", "yes", "a fox left of a squid")


def tiny_config(kind: str = "retrieval", **changed: object) -> Any:
    """Values of a run of a kind, with that model."""
    config = import_module(f"albef.tasks.{kind}").Config
    return validate(config, {"kind": kind, **_COMMON, **_BY_KIND[kind], **changed}, where="tests")


def tiny_task(kind: str = "retrieval", **changed: object) -> Any:
    """A task with random weights, large enough that its answers differ."""
    generator = torch.Generator().manual_seed(0)
    made = import_module(f"albef.tasks.{kind}").Task
    tokenizer = TextTokenizer.train([*CAPTIONS, *ANSWERS], 80)
    task = made(tiny_config(kind, **changed), tiny_model(), tokenizer)
    with torch.no_grad():
        for name, parameter in task.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" not in name.lower() and name != "temperature":
                parameter.copy_(0.4 * noise)
        task.model_m.copy_from(task.model)
        for buffer in task.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    if kind == "vqa":
        task.answers = list(ANSWERS)
    return task.eval()


def save_task(task: Any, folder: Path) -> Path:
    """The checkpoint of a task, as its training would leave it."""
    save_checkpoint(
        folder,
        kind=getattr(task.config, "kind", "pretraining"),
        model=task.sizes,
        tensors=task.state_dict(),
        tokenizer=task.tokenizer,
        values=task.config.model_dump(),
        provenance={"dataset": "scenes", "data": "0" * 64, "seed": 1},
        facts=task.facts() if hasattr(task, "facts") else None,
    )
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by kind; do not write to them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {kind: save_task(tiny_task(kind), folder / kind) for kind in KINDS}


def tiny_records(kind: str, pictures: list[bytes], split: str, count: int) -> list[Record]:
    """Records of noise, whose answers a model with random weights does not know."""
    rng, made = np.random.default_rng(len(split)), []
    for i in range(count):
        text = " ".join(rng.permutation(CAPTIONS[i % 4].split()))
        meta = {"answers": {ANSWERS[i % 5]: 1.0}, "box": [0, 0, 2, 2]}
        if kind in ("entailment", "nlvr2"):
            meta["label"] = import_module(f"albef.tasks.{kind}").Task.classes[i % 2]
        more = (pictures[(i + 1) % 6],) if kind == "nlvr2" else ()
        picture = pictures[i % 6]
        made.append(Record(f"{split}{i}", picture, (text,), i, split, "made", meta, more))
    return made


def tiny_validation(kind: str, pictures: list[bytes]) -> list[Record]:
    """Records whose inputs fix the ranges of int8."""
    return tiny_records(kind, pictures, "val", 14)


@pytest.fixture(scope="session")
def tiny_exports(
    tiny_checkpoints: dict[str, Path],
    pictures: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> dict[str, Path]:
    """Their exports in float32 and int8, made when they are asked for; do not write to them."""
    cached = getattr(pytestconfig, "cache", None)  # none with `-p no:cacheprovider`
    store = cached.mkdir("exports") if cached else tmp_path_factory.mktemp("made")
    return _Exports(tiny_checkpoints, pictures, tmp_path_factory.mktemp("exports"), store)


class _Exports(dict[str, Path]):
    """Copies of exports that pytest's cache keeps for all workers and for later sessions.

    An export takes seconds, and its bytes depend on the code and the libraries alone, so it is
    made anew where one of them is another (or after ``pytest --cache-clear``).
    """

    def __init__(
        self, checkpoints: dict[str, Path], pictures: list[bytes], folder: Path, store: Path
    ) -> None:
        self._checkpoints, self._pictures = checkpoints, pictures
        self._folder, self._store = folder, store

    def __missing__(self, kind: str) -> Path:
        from albef.export.calibration import sketched
        from albef.export.folder import export

        kept = self._store / _export_key() / kind
        with lock(self._store / f"{kind}.lock", wait=str):  # a worker makes it, the others take it
            for old in self._store.glob("*/"):
                if old != kept.parent:
                    shutil.rmtree(old, ignore_errors=True)
            if not kept.exists():
                measure = partial(sketched, records=tiny_validation(kind, self._pictures))
                facts: dict[str, Any] = {"run": kind, "opset": 23, "tolerance": 1e-3}
                checkpoint = load_checkpoint(self._checkpoints[kind])
                with atomic(kept) as part:
                    part.mkdir()
                    precisions = ("float32", "int8")
                    export(checkpoint, part, precisions=precisions, sketch=measure, **facts)
        self[kind] = shutil.copytree(kept, self._folder / kind)
        return self[kind]


@cache
def _export_key() -> str:
    """A digest of what the bytes of an export depend on, beside its checkpoint."""
    root, beside = Path(albef.__file__).parent, {"serving", "commands", "release", "report"}
    files = [
        path for path in sorted(root.rglob("*.py")) if path.relative_to(root).parts[0] not in beside
    ]
    code = [Path(__file__), *files]
    parts = [sys.version, platform.machine(), *(f"{path} {file_digest(path)}" for path in code)]
    makers = ("torch", "numpy", "onnx", "onnxscript", "onnxruntime-gpu")
    parts += [f"{name} {metadata.version(name)}" for name in makers]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_checkpoints: dict[str, Path]) -> Path:
    """The folder of a retrieval checkpoint with random weights; do not write to it."""
    return tiny_checkpoints["retrieval"]


@pytest.fixture(scope="session")
def tiny_export(tiny_exports: dict[str, Path]) -> Path:
    """The folder of that checkpoint's export; do not write to it."""
    return tiny_exports["retrieval"]


NPM = "@huggingface/transformers@4.3.2"
"""Package for programs in node, in the version that is tested; it includes ONNX Runtime."""


@pytest.fixture(scope="session")
def node(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Callable[..., Any]:
    """A function that runs a JavaScript module with :data:`NPM` and reads the JSON it prints."""
    if not shutil.which("npm"):
        pytest.skip("needs node")
    cached = getattr(pytestconfig, "cache", None)
    folder = cached.mkdir("npm") if cached else tmp_path_factory.mktemp("npm")
    with lock(folder / "lock", wait=str):
        if not (done := folder / NPM.replace("/", "-")).exists():
            command = ["npm", "install", "--no-audit", "--no-fund", NPM]
            environment = os.environ | {"ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"}
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
            done.touch()

    def run(program: str) -> Any:
        command = ["node", "--input-type=module", "--eval", program]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def triton_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with Triton's client, which needs an older protobuf than ours."""

    def make(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
        command = [folder / "env/bin/pip", "install", "-q", "tritonclient[http,grpc]>=2.60,<3"]
        subprocess.run(command, check=True, capture_output=True)

    return made_once(tmp_path_factory, "triton", make) / "env/bin/python"


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder for all workers of a run, which the first that needs it makes."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / f"made-{name}", root / f"made-{name}.done"
    with lock(root / f"made-{name}.lock", wait=str):
        if not done.exists():
            folder.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                make(folder)
            done.touch()
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Bucket(NamedTuple):
    """A bucket of a real S3 server on loopback."""

    url: str
    folder: Path
    """Where the server keeps it."""


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A bucket; what reaches it is in the environment, as for a user."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "states").mkdir()
    rclone = shutil.which("rclone", path=str(Path(sys.executable).parent))
    assert rclone
    port = free_port()
    address = f"127.0.0.1:{port}"
    command = [rclone, "serve", "s3", "--addr", address, "--auth-key", "key,secret", str(folder)]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        while not listens(port):
            assert server.poll() is None
            time.sleep(0.05)
        yield Bucket("s3://states/mine", folder / "states/mine")
        server.terminate()


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """Six encoded pictures of several shapes and formats."""
    rng = np.random.default_rng(0)
    encoded = []
    sides = (16, 16), (20, 30), (40, 8), (16, 16), (5, 5), (33, 32)
    kinds = ("PNG", "PNG", "JPEG", "WEBP", "PNG", "PNG")
    for (height, width), kind in zip(sides, kinds, strict=True):
        noise = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).resize((width, height)).save(buffer, kind)
        encoded.append(buffer.getvalue())
    return encoded


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, or the one that playwright installed."""
    sync_api = pytest.importorskip("playwright.sync_api")
    sync_api.expect.set_options(timeout=120_000)
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("there is no Chromium here")
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
