import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from albef.serving.batching import Batcher, Threads
from albef.serving.errors import ApiError
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import CLIENT, Client


class Upper:
    """Computes upper case, one batch whenever it is let."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.let = threading.Semaphore(0)

    def __call__(self, items: Sequence[str]) -> list[str]:
        self.batches.append(list(items))
        self.let.acquire()
        if "poison" in items:
            raise RuntimeError("cannot compute this")
        return [item.upper() for item in items]

    async def begun(self, batches: int = 1) -> None:
        """Wait until so many batches are being computed or done."""
        while len(self.batches) < batches:
            await asyncio.sleep(0.001)


class Asked(Batcher[str, str]):
    """A batcher of up to four, one of whose items is being computed."""

    async def ask(self, *requests: Sequence[str]) -> "list[asyncio.Task[list[str]]]":
        """Requests that wait now."""
        tasks = [asyncio.create_task(self(items)) for items in requests]
        await asyncio.sleep(0)
        return tasks


Go = Callable[[Asked, Upper], Awaitable[None]]


def run(go: Go, *, busy: bool = True, **limits: float) -> list[list[str]]:
    """The batches of a test in an event loop, in which ``a`` is computed if it is ``busy``."""
    compute = Upper()

    async def inside() -> None:
        threads = Threads(1)
        bounds = Limits(**{"batch": 4, "queue": 8, "stragglers": 0, **limits})  # type: ignore[arg-type]
        batcher = Asked("run", "things", compute, threads, bounds, Metrics(), length=len)
        first = await batcher.ask(["a"] if busy else [])
        await compute.begun(busy)
        try:
            await go(batcher, compute)
            assert await first[0] == ["A"] * busy
        finally:
            compute.let.release(100)
            threads.shutdown()

    asyncio.run(inside())
    return compute.batches


def test_what_arrives_while_one_is_computed_is_the_next_batch() -> None:
    async def go(batcher: Asked, compute: Upper) -> None:
        others = await batcher.ask(*"bcdef")
        assert len(batcher) == 5
        compute.let.release(3)
        assert await asyncio.gather(*others) == [["B"], ["C"], ["D"], ["E"], ["F"]]

    assert run(go) == [["a"], ["b", "c", "d", "e"], ["f"]]


def test_the_oldest_goes_with_those_of_like_length() -> None:
    async def go(batcher: Asked, compute: Upper) -> None:
        (rest,) = await batcher.ask(["1" * 20, "1", "1" * 15, "1", "1" * 12])
        compute.let.release(3)
        assert list(map(len, await rest)) == [20, 1, 15, 1, 12]

    assert [sorted(map(len, batch)) for batch in run(go)] == [[1], [12, 15, 20], [1, 1]]


def test_more_than_can_be_computed_in_time_is_refused() -> None:
    async def go(batcher: Asked, compute: Upper) -> None:
        await asyncio.sleep(0.1)  # which the first takes
        compute.let.release()
        (second,) = await batcher.ask(["b"])
        await compute.begun(2)
        (rest,) = await batcher.ask("1234")
        with pytest.raises(ApiError, match="4 items wait"):
            await batcher(["c"])
        compute.let.release(2)
        await asyncio.gather(second, rest)

    run(go, seconds=0.05)


def test_what_nobody_waits_for_is_not_computed() -> None:
    async def go(batcher: Asked, compute: Upper) -> None:
        gone, stays = await batcher.ask("bc", "d")
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert len(batcher) == 1
        compute.let.release(2)
        assert await stays == ["D"]

    assert run(go) == [["a"], ["d"]]


def test_only_the_item_that_fails_fails() -> None:
    async def go(batcher: Asked, compute: Upper) -> None:
        good, bad = await batcher.ask(["sugar"], ["poison"])
        compute.let.release(4)
        assert await good == ["SUGAR"]
        with pytest.raises(RuntimeError, match="cannot compute this"):
            await bad

    run(go)


def test_clients_that_wait_for_answers_form_one_batch_instead_of_two_that_alternate() -> None:
    async def go(batcher: Asked, compute: Upper) -> None:
        (queued,) = await batcher.ask("b")
        compute.let.release()  # "a" is answered, so its client can send its next item
        while batcher._expected < 2:
            await asyncio.sleep(0.001)
        assert compute.batches == [["a"]]
        compute.let.release()
        (next_item,) = await batcher.ask("c")
        assert await asyncio.gather(queued, next_item) == [["B"], ["C"]]

    assert run(go, stragglers=1e9) == [["a"], ["b", "c"]]


def test_a_batch_does_not_wait_for_others_longer_than_it_may() -> None:
    async def one_client(batcher: Asked, compute: Upper) -> None:
        compute.let.release(3)
        for _ in range(3):
            await batcher(["b"])

    async def one_of_two_has_gone(batcher: Asked, compute: Upper) -> None:
        compute.let.release(2)
        await batcher("bc")
        await batcher("d")

    run(one_client, busy=False, stragglers=1e9)
    assert run(one_of_two_has_gone, busy=False, stragglers=0.1) == [["b", "c"], ["d"]]


def test_items_of_one_client_leave_room_for_another() -> None:
    async def go(batcher: Asked, compute: Upper) -> None:
        (rest,) = await batcher.ask("b" * 102)
        with pytest.raises(ApiError, match="102 items wait"):
            batcher.check_room(1)
        CLIENT.set(Client("other"))
        batcher.check_room(102)
        rest.cancel()
        await asyncio.gather(rest, return_exceptions=True)
        compute.let.release()

    run(go, queue=204, clients=2)
