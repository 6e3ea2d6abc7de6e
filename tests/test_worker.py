import itertools
import os

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
        with pytest.raises(KilledError, match="exit code 3"):
            list(worker.run(os._exit, 3))
        assert next(worker.run(range, 9)) == 0
        assert list(worker.run(range, 2)) == [0, 1]
    finally:
        worker.close()


def test_processor_time_of_a_call_is_bounded() -> None:
    worker = Worker(0.01)
    with pytest.raises(KilledError, match=r"more than 0\.01 s of processor") as caught:
        list(worker.run(filter, None, itertools.repeat(0)))
    assert caught.value.too_long
    worker.close()
