import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from albef.serving.batching import Batcher
from albef.serving.errors import Problem
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics

Go = Callable[["Batcher[str, str]", "Slow"], Awaitable[None]]


class Slow:
    """Computes upper case, one batch whenever it is let."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.let = threading.Semaphore(0)

    def __call__(self, items: Sequence[str]) -> list[str]:
        self.batches.append(list(items))
        assert self.let.acquire(timeout=10)
        if "poison" in items:
            raise RuntimeError("cannot compute this")
        return [item.upper() for item in items]


def run(go: Go, **limits: float) -> Slow:
    """Run a test inside an event loop, with a batcher of up to four."""
    compute = Slow()

    async def inside() -> None:
        with ThreadPoolExecutor(1) as executor:
            own = Limits(**{"batch": 4, "queue": 8, "wait": 0, **limits})  # type: ignore[arg-type]
            batcher = Batcher("run", "things", compute, executor, own, Metrics(), length=len)
            task = asyncio.create_task(batcher.run())
            try:
                await go(batcher, compute)
            finally:
                compute.let.release(100)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(inside())
    return compute


async def begun(compute: Slow, batches: int = 1) -> None:
    """Wait until so many batches are being computed or done."""
    while len(compute.batches) < batches:
        await asyncio.sleep(0.001)


def test_what_arrives_while_one_is_computed_is_the_next_batch() -> None:
    async def go(batcher: Batcher[str, str], compute: Slow) -> None:
        first = asyncio.create_task(batcher(["a"]))
        await begun(compute)
        others = [asyncio.create_task(batcher([x])) for x in "bcdef"]
        await asyncio.sleep(0)
        assert batcher.waiting == 5
        compute.let.release(3)
        assert await first == ["A"]
        assert [await other for other in others] == [["B"], ["C"], ["D"], ["E"], ["F"]]

    assert run(go).batches == [["a"], ["b", "c", "d", "e"], ["f"]]


def test_the_oldest_goes_with_those_of_like_length() -> None:
    async def go(batcher: Batcher[str, str], compute: Slow) -> None:
        first = asyncio.create_task(batcher(["a"]))
        await begun(compute)
        rest = asyncio.create_task(batcher(["1" * 20, "1", "1" * 15, "1", "1" * 12]))
        await asyncio.sleep(0)
        compute.let.release(10)
        assert await first == ["A"]
        assert list(map(len, await rest)) == [20, 1, 15, 1, 12]

    assert [sorted(map(len, batch)) for batch in run(go).batches] == [[1], [12, 15, 20], [1, 1]]


def test_a_full_queue_refuses_with_the_time_to_come_back() -> None:
    async def go(batcher: Batcher[str, str], compute: Slow) -> None:
        first = asyncio.create_task(batcher(["a"]))
        await begun(compute)
        rest = asyncio.create_task(batcher(list("12345678")))
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="8 items wait for things") as refused:
            await batcher(["b"])
        assert refused.value.status == 429
        assert int(refused.value.response().headers["retry-after"]) >= 1
        compute.let.release(10)
        await asyncio.gather(first, rest)
        compute.let.release()
        assert await batcher(["b"]) == ["B"]

    run(go)


def test_more_than_can_be_computed_in_time_is_refused() -> None:
    async def go(batcher: Batcher[str, str], compute: Slow) -> None:
        first = asyncio.create_task(batcher(["a"]))
        await begun(compute)
        await asyncio.sleep(0.1)
        compute.let.release()
        await first
        second = asyncio.create_task(batcher(["b"]))
        await begun(compute, 2)
        rest = asyncio.create_task(batcher(list("1234")))
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="4 items wait"):
            await batcher(["c"])
        compute.let.release(10)
        await asyncio.gather(second, rest)

    run(go, seconds=0.05)


def test_what_nobody_waits_for_is_not_computed() -> None:
    async def go(batcher: Batcher[str, str], compute: Slow) -> None:
        first = asyncio.create_task(batcher(["a"]))
        await begun(compute)
        gone, stays = asyncio.create_task(batcher(["b", "c"])), asyncio.create_task(batcher(["d"]))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert batcher.waiting == 1
        compute.let.release(2)
        assert await first == ["A"]
        assert await stays == ["D"]

    assert run(go).batches == [["a"], ["d"]]


def test_only_the_item_that_fails_fails() -> None:
    async def go(batcher: Batcher[str, str], compute: Slow) -> None:
        first = asyncio.create_task(batcher(["a"]))
        await begun(compute)
        good, bad = (
            asyncio.create_task(batcher(["sugar"])),
            asyncio.create_task(batcher(["poison"])),
        )
        await asyncio.sleep(0)
        compute.let.release(10)
        await first
        assert await good == ["SUGAR"]
        with pytest.raises(RuntimeError, match="cannot compute this"):
            await bad

    run(go)


def test_a_lone_client_never_waits_for_company() -> None:
    async def go(batcher: Batcher[str, str], compute: Slow) -> None:
        compute.let.release(10)
        start = time.perf_counter()
        for _ in range(3):
            await batcher(["a"])
        assert time.perf_counter() - start < 5

    run(go, wait=60)


def test_after_a_batch_of_several_the_next_waits_for_company() -> None:
    async def go(batcher: Batcher[str, str], compute: Slow) -> None:
        compute.let.release(10)
        await batcher(["a", "b"])
        one = asyncio.create_task(batcher(["c"]))
        await asyncio.sleep(0.01)
        assert len(compute.batches) == 1
        rest = asyncio.create_task(batcher(["d", "e", "f"]))
        assert await one == ["C"]
        await rest

    assert run(go, wait=60).batches[1] == ["c", "d", "e", "f"]


def test_company_is_not_waited_for_longer_than_said() -> None:
    async def go(batcher: Batcher[str, str], compute: Slow) -> None:
        compute.let.release(10)
        await batcher(["a", "b"])
        start = time.perf_counter()
        await batcher(["c"])
        assert 0.04 < time.perf_counter() - start < 5

    run(go, wait=0.05)
