"""``albef serve EXPORT``: exported models over HTTP, with a page; no torch.

Options are read before anything heavy is imported, so that ``--help`` answers at once.
"""

import argparse
import atexit
import logging
import logging.handlers
import os
import queue
import sys
from collections.abc import Callable
from pathlib import Path

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LINES = 10_000  # of the log that wait to be written


def main(arguments: list[str] | None = None) -> None:
    """Serve until told to stop."""
    options = _parser().parse_args(arguments)
    try:
        if options.gallery is not None and not options.gallery.is_dir():
            raise ValueError(f"--gallery {options.gallery}: there is no such folder")
        _serve(options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"albef serve: {error}") from None


def _serve(options: argparse.Namespace) -> None:
    from albef.serving.assembly import TOKENS, assembled, clients
    from albef.serving.gate import JsonLines, State
    from albef.serving.limits import MIB, Limits
    from albef.serving.server import Server

    tokens = clients(os.environ.get(TOKENS, ""))
    if not tokens and options.host not in _LOOPBACK:
        raise ValueError(
            f"--host {options.host}: whoever reaches it could ask; put tokens into {TOKENS}, or "
            "serve on 127.0.0.1"
        )
    # Written in a thread, so that whoever reads the log slowly stops no request; what does not
    # fit is lost.
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = _Lines(lines)
    handler.setFormatter(JsonLines())
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    writer = logging.handlers.QueueListener(lines, logging.StreamHandler(sys.stderr))
    writer.start()
    atexit.register(writer.stop)
    limits = Limits(
        body=round(options.body_mib * MIB),
        pixels=round(options.megapixels * 1e6),
        requests=options.requests,
        queue=options.queue,
        batch=options.batch,
        wait=options.wait_ms / 1000,
        seconds=options.seconds,
        grace=options.grace,
    )
    state = State()
    app = assembled(
        options.export,
        limits,
        state,
        tokens=tokens,
        hosts=options.host_name,
        indexes=options.indexes,
        gallery=options.gallery,
        threads=options.threads,
        providers=options.provider,
        precision=options.precision,
        workers=options.workers,
    )
    server = Server(app, state, limits, options.host, options.port, options.drain)
    server.run()
    if not server.started:
        raise SystemExit(1)


class _Lines(logging.handlers.QueueHandler):
    """Hands lines on to who writes them, as long as not too many wait.

    Its queue must be a ``SimpleQueue``: a signal's handler logs too, and may interrupt a line that
    is being handed on, where a ``Queue`` would wait for itself.
    """

    def __init__(self, lines: "queue.SimpleQueue[logging.LogRecord]") -> None:
        super().__init__(lines)
        self._waiting = lines

    def enqueue(self, record: logging.LogRecord) -> None:
        """Hand on a line, or lose it."""
        if self._waiting.qsize() < _LINES:
            self._waiting.put_nowait(record)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="albef serve",
        description="Serve exported models over HTTP. Of several exports the first that has a call "
        "answers it. Tokens of clients stand in the environment variable ALBEF_TOKENS.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("export", nargs="+", type=Path, metavar="EXPORT", help="folder of an exported run")
    add("--host", default="127.0.0.1", help="address to listen at")
    add("--port", type=_number(int, 0, 65535), default=8080, help="0 takes a free one")
    add(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name under which it is asked without a token, as behind a proxy",
    )
    add("--indexes", type=Path, metavar="FOLDER", help="keep indexes of pictures here")
    add("--gallery", type=Path, metavar="FOLDER", help="pictures to be found, as index gallery")
    add("--precision", help="of the weights; the export's first")
    add("--provider", action="append", help="of ONNX Runtime, first choice first; what works here")
    add("--threads", type=_number(int, 0), default=0, help="of a computation; 0 takes all cores")
    add("--workers", type=_number(int, 1), default=1, help="computations at a time")
    add("--batch", type=_number(int, 1), default=8, help="most items computed together")
    add(
        "--wait-ms",
        type=_number(float, 0),
        default=4,
        help="longest that an item waits for company, under load",
    )
    add("--queue", type=_number(int, 32), default=256, help="most items that wait, of each kind")
    add("--requests", type=_number(int, 1), default=128, help="most requests worked on")
    add("--seconds", type=_number(float, 0.001), default=30, help="until an answer is given up")
    add("--body-mib", type=_number(float, 0.001), default=16, help="largest body, in MiB")
    add("--megapixels", type=_number(float, 0.001), default=16, help="largest picture")
    add(
        "--drain",
        type=_number(float, 0),
        default=0,
        help="seconds in which a server that is told to stop still accepts, but is not ready",
    )
    add("--grace", type=_number(float, 1), default=30, help="seconds to finish what was accepted")
    return parser


def _number(
    kind: type[int] | type[float], least: float, most: float = float("inf")
) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:g}")
        return value

    return number


if __name__ == "__main__":
    main()
