"""Work on a Ray cluster (``runtime.engine: ray``) instead of local processes.

If the engine is local, neither this module nor Ray is imported. Only the driver reads and writes
files; tasks receive and return values. Nodes need the packages, and receive the driver's code. If a
node dies, its tasks run again on another node.
"""

import contextlib
import functools
import hashlib
import os
import platform
import socket
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import AuthenticationError, RayError, RayTaskError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Result = TypeVar("Result")
_RETRIES = 3  # of a task whose process or node died
_CONNECT_S = 10.0
_PACKAGE = Path(__file__).parent
_PACKAGES = (
    "ftfy", "imagehash", "numpy", "onnxruntime", "pillow", "scipy", "simplejpeg", "tokenizers",
    "torch",
)  # fmt: skip
"""Packages that output bytes depend on, if installed. Each node must have the same versions."""


def connect() -> None:
    """Connect to the cluster of this machine, whose head ``RAY_ADDRESS`` names.

    Raises:
        ConnectionError: no cluster responds at that address, or it refuses the token.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        ray.init(address, runtime_env={"py_modules": [str(_PACKAGE)]}, log_to_driver=False)
    except AuthenticationError:
        raise ConnectionError(
            "RAY_AUTH_MODE is token, but there is no token; set RAY_AUTH_TOKEN_PATH or copy the "
            "head's ~/.ray/auth_token"
        ) from None
    except (ValueError, OSError) as error:  # Ray itself would retry for a long time.
        raise ConnectionError(
            f"no Ray cluster responds at RAY_ADDRESS {address!r} ({error}). Set it to HOST:PORT of "
            "the head, as `ray start --head` prints it. If the head requires a token, set "
            "RAY_AUTH_MODE=token and use the head's token"
        ) from None


class RayExecutor(Executor):
    """``concurrent.futures`` executor on the processors of a cluster."""

    def __init__(self) -> None:
        connect()
        self._run = ray.remote(max_retries=_RETRIES)(_run)

    def submit(self, call: Callable[..., Result], /, *args: Any, **kwargs: Any) -> "Future[Result]":
        """Submit a call; it raises ``BrokenExecutor`` if each process that tried it died."""
        future: Future[Result] = Future()

        def end(task_future: "Future[Result]") -> None:
            error = task_future.exception()
            if isinstance(error, RayTaskError):
                error = error.cause
            elif isinstance(error, WorkerCrashedError):
                error = BrokenExecutor(str(error))
            elif isinstance(error, RayError):
                error = ConnectionError(f"a Ray task was lost with its node: {error}")
            if error is None:
                future.set_result(task_future.result())
            else:
                future.set_exception(error)

        task = self._run.remote(_versions(), functools.partial(call, **kwargs), *args)
        task.future().add_done_callback(end)
        return future

    def processes(self) -> int:
        """Return the number of tasks that the current nodes can run at once."""
        return max(1, int(ray.cluster_resources().get("CPU", 1)))


def on_each_node(cls: type, *args: object, at_once: int) -> list[Any]:
    """Return an actor of a class with ``async`` methods on each node.

    If a node dies, its actor restarts on another one, and pending calls are repeated.
    """
    connect()
    options = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": at_once}
    actor = ray.remote(num_cpus=0, **options)(cls)
    nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
    strategies = (NodeAffinitySchedulingStrategy(node, soft=True) for node in nodes)
    return [actor.options(scheduling_strategy=each).remote(*args) for each in strategies]


def _run(versions: tuple[tuple[str, str], ...], call: Callable[..., Result], *args: Any) -> Result:
    """Run a task on a node after checking that the node has the driver's versions."""
    if differing := sorted(set(versions) - set(_versions())):
        required = ", ".join(map(" ".join, differing))
        raise ValueError(
            f"node {platform.node()} differs from the driver, which has {required}; install the "
            "same packages on all nodes"
        )
    return call(*args)


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    """Return the versions of :data:`_PACKAGES` and a digest of the code."""
    code = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        code.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    versions = [("albef", code.hexdigest())]
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append((name, version(name)))
    return tuple(versions)
