"""Work on a Ray cluster (``runtime.engine: ray``) instead of local processes.

If the engine is local, neither this module nor Ray is imported. The driving process does all
reading and writing. Tasks receive and return values, so nodes need the packages but no folder of
the driver; its code is sent to them. If a node dies, its tasks run again on another node.
"""

import contextlib
import functools
import hashlib
import os
import platform
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Part = TypeVar("Part")
Result = TypeVar("Result")
_AHEAD = 3
"""Number of tasks that wait for each processor."""
_RETRIES = 3
"""Number of retries of a task whose process or node died."""
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
        ConnectionError: no cluster answers at that address.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        ray.init(address, runtime_env={"py_modules": [str(_PACKAGE)]}, log_to_driver=False)
    except (ValueError, OSError) as error:  # Ray itself would retry for a long time.
        raise ConnectionError(
            f"the engine is ray, and no cluster answers at RAY_ADDRESS {address!r} ({error}): set "
            "it to HOST:PORT of the head, as `ray start --head` prints it"
        ) from None


class RayExecutor(Executor):
    """``concurrent.futures`` executor on the processors of a cluster.

    Args:
        gpu: whether each task gets a separate GPU.

    Raises:
        ConnectionError: no cluster answers.
    """

    def __init__(self, gpu: bool = False) -> None:
        connect()
        options = {"max_retries": _RETRIES, "num_gpus": int(gpu)}
        self._run = ray.remote(**options)(_run)
        self._resource = "GPU" if gpu else "CPU"

    def submit(self, make: Callable[..., Result], /, *args: Any, **kwargs: Any) -> "Future[Result]":
        """Submit a call. Its result is ``BrokenExecutor`` if each process that tried it died."""
        future: Future[Result] = Future()

        def end(task_future: "Future[Result]") -> None:
            error = task_future.exception()
            if isinstance(error, RayTaskError):
                future.set_exception(error.cause)
            elif isinstance(error, WorkerCrashedError):
                future.set_exception(BrokenExecutor(str(error)))
            elif isinstance(error, RayError):
                future.set_exception(ConnectionError(f"a task was lost with its node: {error}"))
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(task_future.result())

        task = self._run.remote(_versions(), functools.partial(make, **kwargs), *args)
        task.future().add_done_callback(end)
        return future

    def processes(self) -> int:
        """Return the number of tasks that the current nodes can run at once."""
        return max(1, int(ray.cluster_resources().get(self._resource, 1)))


def mapped(
    make: Callable[[Part], Result], parts: Iterable[Part], gpu: bool = False
) -> Iterator[Result]:
    """Yield ``make`` of each part in order, with enough parts ahead to keep the cluster busy."""
    waiting: deque[Future[Result]] = deque()
    with RayExecutor(gpu) as executor:
        for part in parts:
            waiting.append(executor.submit(make, part))
            if len(waiting) > _AHEAD * executor.processes():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def on_each_node(cls: type, *args: object, at_once: int) -> list[Any]:
    """Return an actor of a class with ``async`` methods on each node.

    If a node dies, its actor restarts on another one, and pending calls are repeated.

    Raises:
        ConnectionError: no cluster answers.
    """
    connect()
    options = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": at_once}
    nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
    return [
        ray.remote(cls)
        .options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True),
            **options,
        )
        .remote(*args)
        for node in nodes
    ]


def _run(versions: tuple[tuple[str, str], ...], make: Callable[..., Result], *args: Any) -> Result:
    """Run a task on a node after checking that the node has the driver's versions."""
    if differing := sorted(set(versions) - set(_versions())):
        mismatches = ", ".join(map(" ".join, differing))
        raise ValueError(f"node {platform.node()} has not the versions of the driver: {mismatches}")
    return make(*args)


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    """Return the versions of :data:`_PACKAGES` and a digest of the code.

    The digest replaces a version, because a node may have a different clone.
    """
    code = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        code.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    versions = [("albef", code.hexdigest())]
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append((name, version(name)))
    return tuple(versions)
