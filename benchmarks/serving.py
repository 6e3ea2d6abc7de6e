"""Serving: graphs against eager torch, and a server under load from another process.

``python -m benchmarks.serving`` prints tables in Markdown, for random weights at the built-in size
and at the paper's (ViT-B/16 at 256 px, BERT-base); what batches bring shows against
``"--server=--batch 1"``. Load comes over loopback from a process of its own, on the same cores.
``--infinity COMMAND`` serves the same text encoder by a peer beside ours (``make bench-serve``
installs it in an environment of its own).
"""

import argparse
import contextlib
import json
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from albef.config import read_preset, validate
from albef.export.folder import export
from albef.export.torch_model import model_of
from albef.models.albef import ModelConfig
from albef.models.weights import load_checkpoint
from albef.runtime.loading import load
from albef.runtime.manifest import Precision
from albef.runtime.sketch import Sketch
from albef.tasks.retrieval import Config, Task
from benchmarks.load import Request, apply, run
from benchmarks.pictures import blurred, jpeg
from benchmarks.servers import Served, serve, serve_infinity, serve_nothing
from benchmarks.timing import alternate, flops, machine, product_peak, ratio
from tests.conftest import save_task
from tests.original import tokens, vocabulary

SIZES = {
    "built-in": (Path("params.yaml"), "retrieval", {"exchanged": []}),
    "base": (Path("presets/paper-4m.yaml"), "coco", {"image_size": 256, "queue_size": 64}),
}
"""Whose values, which run's, and what differs from them: random tokens are no words."""
WORDS = (6, 16)
"""Least and most words of a text."""
PHOTO = (640, 480)
"""Of the pictures that are sent, in pixels; JPEG."""
CLIENTS = {"texts": 16, "images": 8}
"""Requests that are always open at full load."""
FLOODS = (100, 200)
"""Requests that are always open, and more than a server takes at once; at the built-in size, since
at the paper's an answer then takes as long as a client waits."""
INFINITY = Path("build/infinity/bin/infinity_emb")
PARTS = ("graphs", "bare", "load", "endurance")
"""What is measured; endurance at the built-in size, unless it is named."""


def main() -> None:
    """Measure and print."""
    logging.disable(logging.INFO)  # the exporter tells of every node it folds
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.serving")
    parser.add_argument("--size", choices=SIZES, action="append", help="both unless named")
    parser.add_argument("--part", choices=PARTS, action="append", help="all unless named")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds, after one warm-up")
    parser.add_argument("--seconds", type=float, default=1, help="of each load")
    parser.add_argument("--minutes", type=float, default=0.5, help="of full load")
    parser.add_argument("--server", default="", help="options of `albef serve` under load")
    parser.add_argument("--infinity", type=Path, default=INFINITY, help="command of this peer")
    options = parser.parse_args()
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as name:
        for size in options.size or SIZES:
            folder = Path(name) / size
            config, vocab = write_export(folder, size)
            widths = f"width {config.fused.width}"
            print(f"## {size}: {config.image.image_size} px, {widths}\n")
            export, requests = folder / "export", {"texts": _texts(vocab), "images": _pictures()}
            floods = FLOODS if size == "built-in" else ()
            parts: dict[str, Callable[[], None]] = {
                "graphs": partial(_graphs, folder, options.rounds, vocab),
                "bare": partial(
                    _bare, export, requests, options.rounds, options.seconds, options.infinity
                ),
                "load": partial(_load, export, requests, options.seconds, options.server, floods),
                "endurance": partial(_endurance, export, requests, options.minutes),
            }
            for part in options.part or PARTS[: None if size == "built-in" else -1]:
                parts[part]()
                print()


def write_export(
    folder: Path, size: str, precisions: Sequence[Precision] = ("float32", "int8"), opset: int = 23
) -> tuple[ModelConfig, int]:
    """A retrieval checkpoint with random weights, and its export."""
    path, run, changed = SIZES[size]
    values = read_preset(path)
    section = values["tasks"][run] | changed
    section = {
        name: value.get("start", value) if isinstance(value, dict) else value
        for name, value in section.items()
    }
    config = validate(Config, section, where=str(path))
    sizes = validate(ModelConfig, values["pretrain"]["model"], where=str(path))
    vocab = values["pretrain"].get("tokenizer", {}).get("vocab_size", 30522)  # BERT's
    torch.manual_seed(0)
    task = Task(config, sizes, vocabulary(vocab))
    save_task(task, folder / "checkpoint")
    (folder / "export").mkdir(parents=True)
    export(
        load_checkpoint(folder / "checkpoint"),
        folder / "export",
        run=f"random-{size}",
        opset=opset,
        tolerance=1e-2,
        precisions=precisions,
        sketch=_sketch,
    )
    return task.sizes, vocab


def _sketch(model: Any) -> Sketch:
    """Ask it about noise, as the weights are."""
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(8)]
    model.match(noise, [" ".join(rng.choice(tokens(99)[5:], 12)) for _ in noise])
    return Sketch()


def _graphs(folder: Path, rounds: int, vocab: int) -> None:
    """Encoders in ONNX Runtime against eager torch."""
    ways = {
        "torch": model_of(load_checkpoint(folder / "checkpoint")),
        "float32": load(folder / "export", precision="float32"),
        "int8": load(folder / "export", precision="int8"),
    }
    side = ways["torch"].facts.image_size
    rng = np.random.default_rng(0)
    peak = product_peak(torch.float32, rounds)
    print(f"Peak of a float32 product of torch: {peak / 1e9:.0f} GFLOP/s\n")
    columns = ("torch ms", "of the peak", "float32 ms", "of torch", "int8 ms", "of torch")
    _heading("encoder", "batch", *columns)
    for batch in (1, 8):
        pixels = rng.normal(size=(batch, 3, side, side)).astype(np.float32)
        ids = rng.integers(5, vocab, (batch, 12))
        for what, call, inputs in (
            ("image", "encode_image", (pixels,)),
            ("text, 12 tokens", "encode_text", (ids, np.ones_like(ids))),
        ):
            calls = {name: partial(getattr(model, call), *inputs) for name, model in ways.items()}
            times = alternate(calls, rounds)
            ms = {name: f"{1000 * statistics.median(each):.1f}" for name, each in times.items()}
            used = flops(calls["torch"]) / statistics.median(times["torch"]) / peak
            cells = [what, f"{batch}", ms["torch"], f"{used:.0%}"]
            for way in ("float32", "int8"):
                cells += [ms[way], ratio(times[way], times["torch"])]
            print(f"| {' | '.join(cells)} |")


def _bare(
    export: Path, requests: dict[str, Request], rounds: int, seconds: float, infinity: Path
) -> None:
    """What is left of the graph's own speed behind a server, and behind a peer's."""
    if not infinity.exists():
        print(f"No {infinity}: infinity is left out; `make bench-serve` installs it\n")
    print(
        "Bare: `session.run` alone, one item after the other for one client, in batches of eight "
        "for eight; prepared: tokenised or decoded before it, in the same thread; nothing: uvicorn "
        "alone, which reads as much and answers with as much. Items/s, medians "
        f"of {rounds} rounds of {seconds:g} s, in which each has its turn; batches of 8 at most\n"
    )
    model = load(export)
    texts = [json.loads(body)["texts"][0] for body in requests["texts"].bodies]
    pictures = [body.split(b"\r\n\r\n", 1)[1] for body in requests["images"].bodies]
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(serve(export))
        servers = {"ours": (ours, requests["texts"])}
        servers["nothing"] = stack.enter_context(serve_nothing()), requests["texts"]
        if infinity.exists():
            bodies = [json.dumps({"model": "peer", "input": [text]}).encode() for text in texts]
            request = Request("/embeddings", "application/json", bodies)
            servers["infinity"] = stack.enter_context(serve_infinity(export, infinity)), request
        _compare("texts", servers, texts, model.ids, model.encode_text, rounds, seconds)
        servers = {"ours": (ours, requests["images"])}
        _compare(
            *("images", servers, pictures, lambda images: (model.pixels(images),)),
            *(model.encode_image, rounds, seconds),
        )


def _compare(
    what: str,
    servers: dict[str, tuple[Served, Request]],
    items: list[Any],
    prepare: Callable[[Any], tuple[Any, ...]],
    encode: Callable[..., object],
    rounds: int,
    seconds: float,
) -> None:
    """A table of items a second: bare, prepared, and behind each server; then ours over each; and
    the milliseconds of processor time that an item took of whoever computed it."""
    names = ["bare", "prepared", *servers]
    _heading(what, *names, *(f"ours / {name}" for name in names if name != "ours"))
    for clients in (1, 8):
        groups = [items[i : i + clients] for i in range(len(items) - clients + 1)][:64]
        prepared = [prepare(group) for group in groups]
        ways: dict[str, Callable[[], float]] = {
            "bare": partial(_pace, encode, prepared, seconds, clients),
            "prepared": partial(
                _pace, lambda *group: encode(*prepare(group)), groups, seconds, clients
            ),
        }
        processes = {name: psutil.Process() for name in names}
        for name, (served, request) in servers.items():
            ways[name] = partial(_rate, served.port, request, seconds, clients)
            processes[name] = psutil.Process(served.pid)
        rates: dict[str, list[float]] = {name: [] for name in names}
        used: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                before = sum(processes[name].cpu_times()[:2])
                rates[name].append(ways[name]())
                spent = sum(processes[name].cpu_times()[:2]) - before
                used[name].append(1000 * spent / (seconds * rates[name][-1]))
        cells = [f"{statistics.median(rates[name]):.0f}" for name in names]
        cells += [ratio(rates["ours"], rates[name]) for name in names if name != "ours"]
        print(f"| {clients} client{'s' * (clients > 1)} | {' | '.join(cells)} |", flush=True)
        cells = [f"{statistics.median(used[name]):.2f} ms" for name in names]
        cells += [ratio(used[name], used["ours"]) for name in names if name != "ours"]
        print(f"| processor | {' | '.join(cells)} |", flush=True)
    print()


def _rate(port: int, request: Request, seconds: float, clients: int) -> float:
    return apply(port, request, seconds, clients=clients).rate


def _pace(
    call: Callable[..., object], batches: Sequence[Sequence[Any]], seconds: float, size: int
) -> float:
    """Items a second of calls on batches of a size, one after the other."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call(*batches[count % len(batches)])
        count += 1
    return size * count / (time.perf_counter() - start)


def _load(
    export: Path, requests: dict[str, Request], seconds: float, options: str, floods: Sequence[int]
) -> None:
    """From a start to a first answer, and latency at a part of the peak."""
    print(
        f"{f'One server {options}'.strip()}, {seconds:g} s each; at 80 % of the peak "
        "requests arrive evenly or at random (Poisson) and wait for no other\n"
    )
    columns = ("answers/s", "median ms", "p99 ms", "failed", "p99 / unloaded median")
    _heading("", "load", *columns)
    with serve(export, *options.split()) as server:
        for what, request in requests.items():
            measure = partial(apply, server.port, request, seconds)
            idle, peak = measure(clients=1), measure(clients=CLIENTS[what])
            loads = {
                "one client": idle,
                "peak": peak,
                "80 %, evenly": measure(rate=0.8 * peak.rate),
                "80 %, at random": measure(rate=0.8 * peak.rate, at_random=True),
                **{f"{count} clients": measure(clients=count) for count in floods},
            }
            for name, load in loads.items():
                times = load.quantile(0.99) / idle.quantile(0.5)
                print(f"| {what} | {name} | {load.cells()} | {times:.1f} |")
    print(f"\nFrom the start of the process to its first answer: {server.first:.1f} s")


def _endurance(export: Path, requests: dict[str, Request], minutes: float) -> None:
    """Memory and failures under full load of texts and images together."""
    with serve(export) as server, ProcessPoolExecutor(2, get_context("spawn")) as pool:
        process = psutil.Process(server.pid)
        running = [
            pool.submit(run, server.port, request, 60 * minutes, CLIENTS[what] // 2)
            for what, request in requests.items()
        ]
        start, samples = time.monotonic(), []
        while not all(load.done() for load in running):
            samples.append((time.monotonic() - start, process.memory_info().rss / 2**20))
            time.sleep(min(2, minutes))
        loads = [load.result() for load in running]
    settled = np.array([sample for sample in samples if sample[0] > 0.2 * samples[-1][0]])
    slope = 60 * float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0])
    print(
        f"{minutes:g} min of full load, texts and images together: "
        f"{sum(len(load.seconds) for load in loads)} answers, "
        f"{sum(load.failed for load in loads)} failed; memory {settled[0, 1]:.0f} MiB after a "
        f"fifth of it, {settled[-1, 1]:.0f} MiB at the end, at most {settled[:, 1].max():.0f} MiB; "
        f"slope {slope:+.2f} MiB/min"
    )


def _heading(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def _texts(vocab: int) -> Request:
    draw, words = random.Random(0), tokens(vocab)[5:]
    bodies = [
        json.dumps({"texts": [" ".join(draw.choices(words, k=draw.randint(*WORDS)))]}).encode()
        for _ in range(500)
    ]
    return Request("/v1/embed/texts", "application/json", bodies)


def _pictures() -> Request:
    rng = np.random.default_rng(0)
    head = b'--part\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    bodies = [head + jpeg(blurred(rng, PHOTO), 90) + b"\r\n--part--\r\n" for _ in range(8)]
    return Request("/v1/embed/images", "multipart/form-data; boundary=part", bodies)


if __name__ == "__main__":
    main()
