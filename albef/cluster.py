"""Work on a Ray cluster (``runtime.engine: ray``), for what is done by processes of this machine
else. Nothing imports this module, nor Ray, where the engine is local.

What is read and written stays with the process that drives: tasks are given values and give values,
so nodes need the packages and no folder of it; its code is sent to them. A task whose node dies is
done again on another one.
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
"""Tasks that wait for each processor."""
_RETRIES = 3
"""How often a task is done again whose process or node died."""
_CONNECT_S = 10.0
_PACKAGE = Path(__file__).parent
_PACKAGES = (
    "ftfy", "imagehash", "numpy", "onnxruntime", "pillow", "scipy", "simplejpeg", "tokenizers",
    "torch",
)  # fmt: skip
"""What bytes depend on, as far as it is installed here: each node has to have the same versions."""


def connect() -> None:
    """Drive the cluster that this machine is a node of, whose head ``RAY_ADDRESS`` names.

    Raises:
        ConnectionError: no cluster answers there.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        ray.init(address, runtime_env={"py_modules": [str(_PACKAGE)]}, log_to_driver=False)
    except (ValueError, OSError) as error:  # Ray itself would try for long
        raise ConnectionError(
            f"the engine is ray, and no cluster answers at RAY_ADDRESS {address!r} ({error}): set "
            "it to HOST:PORT of the head, as `ray start --head` prints it"
        ) from None


class RayExecutor(Executor):
    """What ``concurrent.futures`` calls an executor, of the processors of a cluster.

    Args:
        gpu: whether each task has a GPU of its own.

    Raises:
        ConnectionError: there is no cluster.
    """

    def __init__(self, gpu: bool = False) -> None:
        connect()
        options = {"max_retries": _RETRIES, "num_gpus": int(gpu)}
        self._run = ray.remote(**options)(_run)
        self._resource = "GPU" if gpu else "CPU"

    def submit(self, make: Callable[..., Result], /, *args: Any, **kwargs: Any) -> "Future[Result]":
        """Have something done; ``BrokenExecutor`` where it ended each process that tried."""
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
        """How many tasks the nodes that are there now can do at once."""
        return max(1, int(ray.cluster_resources().get(self._resource, 1)))


def mapped(
    make: Callable[[Part], Result], parts: Iterable[Part], gpu: bool = False
) -> Iterator[Result]:
    """``make`` of each part, in order, so many parts ahead as keep the cluster at work."""
    waiting: deque[Future[Result]] = deque()
    with RayExecutor(gpu) as executor:
        for part in parts:
            waiting.append(executor.submit(make, part))
            if len(waiting) > _AHEAD * executor.processes():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def on_each_node(cls: type, *args: object, at_once: int) -> list[Any]:
    """An object of a class with ``async`` methods on each node, an actor of Ray's; one whose node
    dies comes up on another one, and what it was asked is asked again.

    Raises:
        ConnectionError: there is no cluster.
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
    """On a node: what a task does."""
    if differing := sorted(set(versions) - set(_versions())):
        mismatches = ", ".join(map(" ".join, differing))
        raise ValueError(f"node {platform.node()} has not the versions of the driver: {mismatches}")
    return make(*args)


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    """The versions of :data:`_PACKAGES`, and what stands for that of the code: a node may have a
    clone of its own."""
    code = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        code.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    versions = [("albef", code.hexdigest())]
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append((name, version(name)))
    return tuple(versions)
