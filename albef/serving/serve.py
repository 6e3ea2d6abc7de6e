"""``albef serve EXPORT``: serve exported models over HTTP, with a page. No torch.

Large packages are imported after the options are parsed, so ``--help`` answers at once.
"""

import dataclasses
import json
import logging
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from albef.io import dying_with_parent
from albef.serving.limits import MIB, Limits, Options

_RELEASED = re.compile(r"[A-Za-z0-9][\w-]*#[A-Za-z0-9][\w-]*")  # Argument that `albef fetch` takes.
_LOOK = 60.0  # Seconds between two checks of the registry.


def serve(
    export: Annotated[list[Path], Argument(metavar="EXPORT", help="Folders of exported runs.")],
    expect: Annotated[
        list[str] | None,
        Option(
            metavar="DIGEST",
            help="Load an export only if its manifest has this one, as sha256:HEX; repeatable.",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        Option(help="Of RUN#STAGE, serve only what the owner of this public key signed."),
    ] = None,
    follow: Annotated[
        float | None,
        Option(
            min=0,
            metavar="SECONDS",
            help="Look so often, and at SIGHUP, for other exports in the folders, or where links "
            "lead now, and serve those; 0 never. If not given, 60 of RUN#STAGE, else 0.",
        ),
    ] = None,
    refresh: Annotated[
        str | None, Option(metavar="COMMAND", help="Run this before each look, to fetch them.")
    ] = None,
    host: Annotated[str, Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    host_name: Annotated[
        list[str] | None,
        Option(
            metavar="NAME",
            help="A further name under which it is asked without a token, as behind a proxy.",
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        Option(metavar="URL", help="Whose pages may ask from a browser (CORS)."),
    ] = None,
    indexes: Annotated[
        Path | None, Option(metavar="FOLDER", help="Keep indexes of pictures here.")
    ] = None,
    gallery: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Pictures to be found, as index gallery."),
    ] = None,
    precision: Annotated[
        str | None, Option(help="Of the weights; the export's first if not given.")
    ] = None,
    provider: Annotated[
        list[str] | None,
        Option(help="Of ONNX Runtime, first choice first; what works here if not given."),
    ] = None,
    min_probability: Annotated[
        float,
        Option(min=0, max=1, help="Of the best answer or class; where none has it, none is given."),
    ] = 0,
    threads: Annotated[int, Option(min=0, help="Of a computation; 0 takes all cores.")] = 0,
    workers: Annotated[int, Option(min=1, help="Computations at a time.")] = 1,
    batch: Annotated[int, Option(min=1, help="Most items computed together.")] = 8,
    wait_ms: Annotated[
        float, Option(min=0, help="Longest that an item waits for company, under load.")
    ] = 4,
    queue: Annotated[int, Option(min=32, help="Most items that wait, of each kind.")] = 256,
    requests: Annotated[int, Option(min=1, help="Most requests worked on.")] = 128,
    seconds: Annotated[float, Option(min=0.001, help="Until an answer is given up.")] = 30,
    body_mib: Annotated[float, Option(min=0.001, help="Largest body, in MiB.")] = 16,
    megapixels: Annotated[float, Option(min=0.001, help="Largest picture.")] = 16,
    drain: Annotated[
        float,
        Option(
            min=0, help="Seconds in which a server told to stop still accepts, but is not ready."
        ),
    ] = 0,
    grace: Annotated[float, Option(min=1, help="Seconds to finish what was accepted.")] = 30,
) -> int:
    """Serve exported models over HTTP, with a page.

    If several exports have a call, the first one answers it. In a project, RUN#STAGE is the export
    that holds a stage of the registry; the server follows it. Set the tokens of clients in the
    environment variable ALBEF_TOKENS, or in the file that ALBEF_TOKENS_FILE names.
    """
    from albef.serving.middleware.access import read_tokens

    if key and (others := [path for path in export if not _RELEASED.fullmatch(str(path))]):
        raise ValueError(
            f"--key {key}: only RUN#STAGE comes with signatures, and {others[0]} is a folder; "
            "verify it with `albef verify`, and name its digest with --expect"
        )
    fetch = _fetch_command(export, key)
    limits = Limits(
        body=round(body_mib * MIB),
        pixels=round(megapixels * 1e6),
        requests=requests,
        queue=queue,
        batch=batch,
        wait=wait_ms / 1000,
        seconds=seconds,
        grace=grace,
    )
    options = Options(
        export,
        limits,
        tokens=read_tokens(),
        hosts=host_name or [],
        origins=origin or [],
        indexes=indexes,
        gallery=gallery,
        follow=(_LOOK if fetch else 0) if follow is None else follow,
        refresh=shlex.split(refresh) if refresh else fetch,
        expect=expect or (),
        workers=workers,
        threads=threads,
        providers=provider,
        precision=precision,
        min_probability=min_probability,
    )
    return _run(options, fetch, host, port, drain)


def _fetch_command(exports: list[Path], key: Path | None) -> list[str]:
    """Return the command that fetches every RUN#STAGE; empty if there is none."""
    released = [str(path) for path in exports if _RELEASED.fullmatch(str(path))]
    if not released:
        return []
    signed = ["--key", str(key.absolute())] if key else []
    return [sys.executable, "-m", "albef.cli", "fetch", *released, *signed]


def _run(options: Options, fetch: list[str], host: str, port: int, drain: float) -> int:
    """Run ``fetch``, then serve until a stop signal; return the exit code."""
    from albef.serving.app import create_app
    from albef.serving.middleware.access import LOCAL, TOKENS
    from albef.serving.middleware.exchange import State
    from albef.serving.uvicorn_server import Server

    if options.gallery is not None and not options.gallery.is_dir():
        raise ValueError(f"--gallery {options.gallery}: there is no such folder")
    if not options.tokens and host not in LOCAL:
        raise ValueError(
            f"--host {host}: whoever reaches it could ask; put tokens into {TOKENS}, or "
            "serve on 127.0.0.1"
        )
    if fetch:
        done = subprocess.run(dying_with_parent(fetch), stdout=subprocess.PIPE, text=True)
        if done.returncode:
            return done.returncode  # The command has printed the reason.
        links = map(Path, done.stdout.splitlines())
        exports = [
            next(links) if _RELEASED.fullmatch(str(path)) else path for path in options.exports
        ]
        options = dataclasses.replace(options, exports=exports)
    _start_log()
    state = State()
    server = Server(create_app(options, state), state, options.limits, host, port, drain)
    server.run()
    return 0 if server.started else 1


def _start_log() -> None:
    """Log to standard error, one JSON object per line."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.raiseExceptions = logging.logThreads = logging.logProcesses = False
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Its warnings are caused by clients.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


class JsonLines(logging.Formatter):
    """Formatter that writes each record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        now = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": now.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
