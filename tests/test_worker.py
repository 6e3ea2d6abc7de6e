import operator
import os
import signal
import subprocess
import sys

import pytest

from albef.worker import KilledError, Worker


def test_a_process_for_hostile_bytes_ends_alone_and_is_replaced() -> None:
    worker = Worker(60, memory=2**28)
    try:
        assert list(worker.run(range, 9)) == [*range(9)]
        with pytest.raises(ValueError, match="invalid literal"):
            list(worker.run(int, "a"))
        with pytest.raises(MemoryError):
            list(worker.run(bytearray, 2**30))
        with pytest.raises(MemoryError):  # as C++ code ends that may not throw
            list(worker.run(os.abort))
        with pytest.raises(KilledError, match="exit code 3"):
            list(worker.run(os._exit, 3))
        assert next(worker.run(range, 9)) == 0
        assert list(worker.run(range, 2)) == [0, 1]
    finally:
        worker.close()


def test_processor_time_of_a_call_is_bounded() -> None:
    worker = Worker(0.01)
    with pytest.raises(KilledError, match=r"more than 0\.01 s of processor") as caught:
        list(worker.run(filter, operator.not_, range(1, 10**18)))  # none of which passes
    assert caught.value.too_long
    worker.close()


def test_signals_to_all_processes_end_it_only_with_its_parent() -> None:
    worker = Worker(60)
    assert list(worker.run(range, 1)) == [0]
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker._process.pid, number)
    assert list(worker.run(range, 2)) == [0, 1]
    worker.close()
    code = "from albef.worker import Worker; worker = Worker(60); print(*worker.run(range, 3))"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"0 1 2\n"
