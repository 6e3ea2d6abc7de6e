"""A server's application, put together of its parts."""

from collections.abc import Sequence
from pathlib import Path

from albef.serving.app import build
from albef.serving.engine import Engine
from albef.serving.gate import Gate, State
from albef.serving.index import Store
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.serving.served import Served

TOKENS = "ALBEF_TOKENS"
"""Environment variable with the tokens of clients, separated by commas or spaces."""
_SHORTEST = 16  # characters of a token


def clients(given: str) -> list[str]:
    """The tokens in the value of :data:`TOKENS`.

    Raises:
        ValueError: one is too short to be a secret.
    """
    tokens = given.replace(",", " ").split()
    if any(len(token) < _SHORTEST for token in tokens):
        raise ValueError(f"{TOKENS}: a token has at least {_SHORTEST} characters")
    return tokens


def assembled(
    exports: Sequence[Path],
    limits: Limits,
    state: State,
    *,
    tokens: Sequence[str] = (),
    hosts: Sequence[str] = (),
    indexes: Path | None = None,
    gallery: Path | None = None,
    threads: int = 0,
    providers: Sequence[str] | None = None,
    precision: str | None = None,
    workers: int = 1,
) -> Gate:
    """The application that serves some exports.

    Args:
        exports: their folders; of those that have a call the first one answers it.
        limits: of the server.
        state: kept up to date by the application, and told when the server is to stop.
        tokens: of clients; without any, only those on this machine are answered.
        hosts: further names under which the server may be asked without a token.
        indexes: folder that keeps indexes of pictures; None keeps them in memory.
        gallery: folder of pictures that the index of this name follows.
        threads: of a computation; 0 takes all cores.
        providers: ONNX Runtime's, first choice first; None takes what works here.
        precision: of the weights; None takes each export's first.
        workers: computations at a time.

    Raises:
        ExportError: a folder holds no export, a changed one, or cannot run as asked.
        ValueError: there is a gallery, but no export embeds pictures.
    """
    own = [
        Served.load(folder, threads=threads, providers=providers, precision=precision)
        for folder in exports
    ]
    metrics = Metrics()
    engine = Engine(own, Store(indexes), limits, metrics, workers)
    if gallery and "embed_image" not in engine.calls:
        raise ValueError("--gallery: no export here embeds pictures; name one of a retrieval run")
    app = build(engine, state, gallery=gallery, tokens=bool(tokens))
    return Gate(app, limits, metrics, state, tokens, hosts)
