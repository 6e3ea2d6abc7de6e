import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from albef.serving.decoding import Decoders
from albef.serving.errors import Problem
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import CLIENT


def run(
    go: Callable[[Decoders, threading.Event], Awaitable[None]],
    metrics: Metrics | None = None,
    **limits: int,
) -> None:
    """Run a test beside a decoder of one thread, which is held up until the event is set."""
    held, let_go = threading.Event(), threading.Event()

    async def inside() -> None:
        decoders = Decoders(1, Limits(**limits), metrics or Metrics())
        first = asyncio.create_task(decoders(lambda: (held.set(), let_go.wait())))
        await asyncio.to_thread(held.wait)
        try:
            await go(decoders, let_go)
        finally:
            let_go.set()
            await first
            decoders.pool.shutdown()

    asyncio.run(inside())


def ask(decoders: Decoders, client: str, count: int, done: list[str]) -> "list[asyncio.Task[None]]":
    """Calls of a client, which note its name."""
    CLIENT.set(client)  # as a task has it that begins now
    return [
        asyncio.create_task(decoders(lambda: done.append(client)))  # type: ignore[arg-type]
        for _ in range(count)
    ]


def test_clients_have_their_turns_however_many_calls_one_sends() -> None:
    done: list[str] = []
    metrics = Metrics()

    async def go(decoders: Decoders, let_go: threading.Event) -> None:
        tasks = [*ask(decoders, "many", 6, done), *ask(decoders, "one", 1, done)]
        tasks += ask(decoders, "two", 2, done)
        await asyncio.sleep(0)
        waiting = {"run": "", "step": "decode"}
        assert metrics.registry.get_sample_value("albef_waiting_items", waiting) == 9
        let_go.set()
        await asyncio.gather(*tasks)

    run(go, metrics)
    assert done == ["many", "one", "two", "many", "two", "many", "many", "many", "many"]


def test_more_than_find_room_are_refused_and_what_nobody_waits_for_is_left_out() -> None:
    done: list[str] = []

    async def go(decoders: Decoders, let_go: threading.Event) -> None:
        gone, stays = ask(decoders, "gone", 1, done), ask(decoders, "stays", 1, done)
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="2 pictures wait") as refused:
            decoders.check_room(1)
        assert refused.value.status == 429
        gone[0].cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        let_go.set()
        await asyncio.gather(*stays)
        decoders.check_room(2)

    run(go, queue=2)
    assert done == ["stays"]


def test_a_call_that_fails_fails_alone() -> None:
    def fail() -> None:
        raise RuntimeError("cannot decode this")

    async def go(decoders: Decoders, let_go: threading.Event) -> None:
        bad, done = asyncio.create_task(decoders(fail)), list[str]()
        good = ask(decoders, "good", 1, done)
        let_go.set()
        with pytest.raises(RuntimeError, match="cannot decode this"):
            await bad
        await asyncio.gather(*good)
        assert done == ["good"]

    run(go)
