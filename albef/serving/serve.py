"""``albef serve EXPORT``: serve exported models over HTTP, with a page. No torch.

Large packages are imported after the options are parsed, so ``--help`` answers at once.
"""

import dataclasses
import errno
import gc
import logging
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from albef.io import dying_with_parent
from albef.serving.limits import MIB, Limits, Options

_RELEASED = re.compile(r"[A-Za-z0-9][\w-]*#[A-Za-z0-9][\w-]*")  # Argument that `albef fetch` takes.
_FOLLOW_SECONDS = 60.0  # Interval between two checks of the registry.
Names = list[str] | None
Folder = Path | None


def serve(
    export: Annotated[list[Path], Argument(metavar="EXPORT", help="Export folders, or RUN#STAGE.")],
    expect: Annotated[
        Names, Option(metavar="DIGEST", help="Load only exports of this sha256:HEX; repeatable.")
    ] = None,
    key: Annotated[Folder, Option(help="Public key that must have signed RUN#STAGE.")] = None,
    follow: Annotated[
        float | None,
        Option(
            min=0,
            metavar="SECONDS",
            help="Interval of checks for new exports; 0: never; default: 60 for RUN#STAGE, else 0.",
        ),
    ] = None,
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port; 0: a free one.")] = 8080,
    host_name: Annotated[
        Names, Option(metavar="NAME", help="Host name allowed without a token; repeatable.")
    ] = None,
    origin: Annotated[
        Names, Option(metavar="URL", help="Site whose pages may call (CORS); repeatable.")
    ] = None,
    proxy: Annotated[
        Names, Option(metavar="ADDRESS", help="Proxy that names its clients; repeatable.")
    ] = None,
    indexes: Annotated[Folder, Option(help="Folder of image indexes; default: memory.")] = None,
    gallery: Annotated[Folder, Option(help="Image folder that index `gallery` follows.")] = None,
    precision: Annotated[str | None, Option(help="Weights; default: the export's first.")] = None,
    provider: Annotated[
        Names, Option(help="ONNX Runtime provider, in order of preference; default: what works.")
    ] = None,
    min_probability: Annotated[
        float, Option(min=0, max=1, help="Give no answer or class below this probability.")
    ] = 0,
    threads: Annotated[int, Option(min=0, help="Threads per computation; 0: all cores.")] = 0,
    batch: Annotated[int, Option(min=1, help="Items computed together at most.")] = 8,
    requests: Annotated[int, Option(min=1, help="Concurrent requests at most.")] = 128,
    seconds: Annotated[float, Option(min=0.001, help="Time limit of an answer.")] = 30,
    body_mib: Annotated[float, Option(min=0.001, help="Largest request body in MiB.")] = 16,
    megapixels: Annotated[float, Option(min=0.001, help="Largest image in megapixels.")] = 16,
    drain: Annotated[float, Option(min=0, help="Seconds not ready before stopping.")] = 0,
) -> int:
    """Serve exported models over HTTP, with a web page.

    If several exports have a call, the first one answers it. In a project, RUN#STAGE is the
    released export of a registry stage, which the server follows. Set the tokens of clients in
    ALBEF_TOKENS, or in the file that ALBEF_TOKENS_FILE names.

    Example: albef serve products/exports/retrieval --gallery photos
    """
    from albef.serving.middleware.access import read_tokens

    if key and (others := [path for path in export if not _RELEASED.fullmatch(str(path))]):
        raise ValueError(
            f"--key {key}: {others[0]} is a folder, and only RUN#STAGE has a signature; use "
            "`albef verify` and --expect for a folder"
        )
    fetch, tokens = _fetch_command(export, key), read_tokens()
    default = _FOLLOW_SECONDS if fetch else 0
    limits = Limits(
        body=round(body_mib * MIB),
        pixels=round(megapixels * 2**20),  # as ingest counts megapixels
        requests=requests,
        clients=len(tokens) or 1,
        batch=batch,
        seconds=seconds,
    )
    options = Options(
        export,
        limits,
        tokens=tokens,
        hosts=host_name or (),
        origins=origin or (),
        proxies=proxy or (),
        indexes=indexes,
        gallery=gallery,
        follow=default if follow is None else follow,
        refresh=fetch,
        expect=expect or (),
        threads=threads,
        providers=provider,
        precision=precision,
        min_probability=min_probability,
    )
    return _run(options, host, port, drain)


def _fetch_command(exports: list[Path], key: Path | None) -> list[str]:
    """Return the command that fetches every RUN#STAGE; empty if there is none."""
    released = [str(path) for path in exports if _RELEASED.fullmatch(str(path))]
    if not released:
        return []
    signed = ["--key", str(key.absolute())] if key else []
    return [sys.executable, "-m", "albef.cli", "fetch", *released, *signed]


def _run(options: Options, host: str, port: int, drain: float) -> int:
    """Fetch released exports, then serve until a stop signal; return the exit code."""
    from albef.runtime import manifest
    from albef.serving.app import create_app, warm_up
    from albef.serving.middleware.access import LOCAL, TOKENS
    from albef.serving.middleware.exchange import State
    from albef.serving.uvicorn_server import Server

    if options.gallery is not None and not options.gallery.is_dir():
        raise ValueError(f"--gallery {options.gallery} is not a folder")
    if not options.tokens and host not in LOCAL:
        raise ValueError(
            f"--host {host} lets other machines call the server; set {TOKENS}, or use "
            "--host 127.0.0.1"
        )
    for path in options.exports:
        if not _RELEASED.fullmatch(str(path)):
            manifest.read(path)  # A wrong folder is reported before anything is fetched or loaded.
    _check_port(host, port)
    options = dataclasses.replace(options, exports=_fetched(options.exports, options.refresh))
    _start_log()
    state = State(log=sys.__stderr__)  # Nothing in its lines needs to be escaped.
    app = create_app(options, state)
    warm_up(app)
    server = Server(app, state, options, host, port, drain)
    gc.freeze()  # A collection of all modules and models takes longer than most answers.
    gc.set_threshold(10_000)  # By default, a collection would follow every few requests.
    server.run()
    return 0 if server.started else 1


def _fetched(exports: Sequence[Path], command: Sequence[str]) -> list[Path]:
    """Return the folders of exports after running the command that prints that of each RUN#STAGE.

    Raises:
        Exit: the command failed, and has printed the reason.
    """
    if not command:
        return list(exports)
    done = subprocess.run(dying_with_parent(command), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Exit(done.returncode)
    links = map(Path, done.stdout.splitlines())
    return [next(links) if _RELEASED.fullmatch(str(path)) else path for path in exports]


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:  # uvicorn reports the others, such as a host of another machine.
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} of {host} is in use; choose another --port") from None


def _start_log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    logging.raiseExceptions = logging.logThreads = logging.logProcesses = False
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Its warnings are caused by clients.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


class _JsonLines(logging.Formatter):
    """Formatter that writes each record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        from albef.serving.middleware.requests import log_line

        error = {"error": self.formatException(record.exc_info)} if record.exc_info else {}
        return log_line(record.created, record.levelname.lower(), record.getMessage(), **error)
