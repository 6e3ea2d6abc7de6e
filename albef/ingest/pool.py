"""Preparation of rows by several processes, in the order of the rows."""

import contextlib
import multiprocessing
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor

from albef.data.record import Record
from albef.data.rejection import Reason, Rejection
from albef.ingest.prepare import Prepared, Rules, prepare
from albef.io import die_with_parent
from albef.layout import Engine
from albef.worker import KilledError, Worker, limit_processor

NumberedRow = tuple[int, Record | Rejection]
"""Row with its position in its source."""
Result = Prepared | Rejection

_ROWS, _BYTES = 16, 2**22  # rows, or bytes of images, that a process receives at once
_AHEAD = 3  # such portions that wait for each process
_SECONDS = 60.0  # of processor time for a row; far more than any image within the bounds takes
_ATTEMPTS = 2  # alone, for a row whose process was ended, such as by the kernel to free memory


def prepare_rows(
    rows: Iterable[NumberedRow], rules: Rules, processes: int, engine: Engine = "local"
) -> Iterator[Result]:
    """Yield the result of each row, in order, for any number of processes.

    With 0 processes, this process does the work, and no row is stopped. The engine ``ray`` uses all
    processors of its cluster. A row that ends its process is rejected.
    """
    if not processes and engine == "local":
        for portion in portions(rows, _ROWS, _BYTES):
            yield from _prepare(portion, rules)
        return
    pool = _Pool(rules, processes, engine)
    waiting: deque[tuple[list[NumberedRow], Future[list[Result]]]] = deque()
    try:
        for portion in portions(rows, _ROWS, _BYTES):
            waiting.append((portion, pool.submit(portion)))
            if len(waiting) > _AHEAD * pool.processes():
                yield from pool.result(*waiting.popleft())
        while waiting:
            yield from pool.result(*waiting.popleft())
    finally:
        pool.close()


class _Pool:
    """Processes that prepare rows; they are restarted if one of them ends."""

    def __init__(self, rules: Rules, processes: int, engine: Engine) -> None:
        self._rules = rules
        self._engine = engine
        self.processes: Callable[[], int] = lambda: processes
        self._start()

    def _start(self) -> None:
        if self._engine == "ray":
            from albef.cluster import RayExecutor  # Ray is imported only if it is requested.

            on_cluster = RayExecutor()
            self._executor: Executor = on_cluster
            self.processes = on_cluster.processes  # The cluster may grow.
            return
        # A fork is not safe because this process has threads, such as Arrow's.
        spawn = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(self.processes(), spawn, initializer=die_with_parent)

    def submit(self, portion: list[NumberedRow]) -> "Future[list[Result]]":
        try:
            return self._executor.submit(_prepare, portion, self._rules, _SECONDS)
        except BrokenExecutor:
            self._start()
            return self._executor.submit(_prepare, portion, self._rules, _SECONDS)

    def result(self, portion: list[NumberedRow], future: "Future[list[Result]]") -> list[Result]:
        with contextlib.suppress(BrokenExecutor, MemoryError):
            return future.result()
        # This portion or another one ended a process, and so all of them. Each row is tried alone.
        worker = Worker(_SECONDS)
        try:
            return [self._alone(worker, line, row) for line, row in portion]
        finally:
            worker.close()

    def _alone(self, worker: Worker, line: int, row: Record | Rejection) -> Result:
        attempts = _ATTEMPTS
        while True:
            try:
                [result] = worker.run(_prepare, [(line, row)], self._rules, _SECONDS)
                return result
            except (KilledError, MemoryError) as error:
                attempts -= 1
                if not attempts or getattr(error, "too_long", False):
                    end = error if isinstance(error, KilledError) else "lacked memory"
                    detail = f"the process that decoded the image {end}"
                    return Rejection(row.source, line, row.key, Reason.KILLED, detail)

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


def portions(
    rows: Iterable[NumberedRow], max_rows: int, max_bytes: int
) -> Iterator[list[NumberedRow]]:
    """Yield lists of at most ``max_rows`` rows; each is closed at ``max_bytes`` bytes of images."""
    portion: list[NumberedRow] = []
    size = 0
    for line, row in rows:
        portion.append((line, row))
        size += 0 if isinstance(row, Rejection) else sum(map(len, row.images))
        if len(portion) == max_rows or size >= max_bytes:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _prepare(rows: Sequence[NumberedRow], rules: Rules, seconds: float = 0) -> list[Result]:
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about many damaged files.
        for line, row in rows:
            limit_processor(seconds)
            results.append(prepare(line, row, rules))
    limit_processor(0)
    return results
