"""Servers under load, each a process of its own: ours, a peer, and one that computes nothing."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from albef.runtime.manifest import graph_file
from benchmarks.load import Request, run

_ANSWER = json.dumps({"model": "none", "embeddings": [[0.0625] * 128]}).encode()


class Served(NamedTuple):
    """A process that serves, and the seconds from its start to its first answer."""

    port: int
    pid: int
    first: float


@contextlib.contextmanager
def serve(export: Path, *arguments: str, token: str = "") -> Iterator[Served]:
    """`albef serve` of an export with a text encoder."""
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "albef.cli", "serve", str(export), "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        env=os.environ if token else {**os.environ, "ALBEF_TOKENS": ""},
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            port = int(json.loads(process.stderr.readline())["message"].rsplit(":", 1)[1])
            request = Request("/v1/embed/texts", "application/json", [b'{"texts": ["w7"]}'])
            assert not run(port, request, 0, clients=1, token=token).failed
            first = time.monotonic() - start
            threading.Thread(target=process.stderr.read, daemon=True).start()  # its log, unread
            yield Served(port, process.pid, first)
        finally:
            process.terminate()
            process.wait(60)


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers all with as many bytes as a text's feature has."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_ANSWER))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ANSWER})


def serve_nothing() -> contextlib.AbstractContextManager[Served]:
    """uvicorn itself, as ours is built on it: the bound of what it can reach."""
    command = [sys.executable, "-m", "uvicorn", f"{__name__}:{nothing.__name__}"]
    options = ("--lifespan", "off", "--no-access-log", "--log-level", "critical")
    return _peer([*command, *options], Request("/", "application/json", [b"{}"]))


@contextlib.contextmanager
def serve_infinity(export: Path, command: Path) -> Iterator[Served]:
    """infinity with the export's text encoder: its graph under the names that ``optimum`` knows,
    the feature in place of the first token's state."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graph = onnx.load(export / graph_file("float32", "text_encoder"))
        feat = onnx.helper.make_node("Unsqueeze", ["text_feat", "one"], ["last_hidden_state"])
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
        graph.graph.node.append(feat)
        del graph.graph.output[:]
        sizes = ["batch", 1, "width"]
        graph.graph.output.append(
            onnx.helper.make_tensor_value_info("last_hidden_state", onnx.TensorProto.FLOAT, sizes)
        )
        for value, known in zip(graph.graph.input, ("input_ids", "attention_mask"), strict=True):
            for node in graph.graph.node:
                node.input[:] = [known if each == value.name else each for each in node.input]
            value.name = known
        onnx.save(graph, folder / "model.onnx")
        shutil.copy(export / "tokenizer.json", folder)
        config = {"model_type": "bert", "max_position_embeddings": 64, "num_hidden_layers": 1}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"})
        )
        options = (
            "--engine optimum --device cpu --batch-size 8 --pooling-method cls --dtype float32"
        )
        request = Request("/embeddings", "application/json", [b'{"input": ["w7"]}'])
        quiet = {"HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
        with _peer(
            [command, "v2", "--model-id", folder, *options.split()], request, quiet
        ) as served:
            yield served


@contextlib.contextmanager
def _peer(
    command: list[str | Path], request: Request, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """A command that takes ``--port``, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, "--port", f"{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )
    try:
        while not _answers(port, request):
            if process.poll() is not None or time.monotonic() > start + 300:
                raise RuntimeError(f"{command[0]} does not serve; see what it says by itself")
            time.sleep(0.5)
        yield Served(port, process.pid, time.monotonic() - start)
    finally:
        process.terminate()
        process.wait(60)


def _answers(port: int, request: Request) -> bool:
    try:
        return not run(port, request, 0, clients=1).failed
    except OSError:
        return False
