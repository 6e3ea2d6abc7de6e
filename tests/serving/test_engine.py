import asyncio
import threading

import pytest

from albef.serving.engine import Decoders
from albef.serving.errors import ApiError
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics


def test_images_that_find_no_room_are_refused_and_those_nobody_waits_for_left_out() -> None:
    held, let_go = threading.Event(), threading.Event()
    done: list[str] = []

    def hold() -> None:
        held.set()
        let_go.wait()

    async def inside() -> None:
        decoders = Decoders(1, Limits(queue=3), Metrics())
        first = asyncio.create_task(decoders(hold))
        gone = asyncio.create_task(decoders(lambda: done.append("gone")))
        stays = asyncio.create_task(decoders(lambda: done.append("stays")))
        await asyncio.to_thread(held.wait)
        with pytest.raises(ApiError, match="3 images wait") as refused:
            decoders.check_room(1)
        assert refused.value.status == 429
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        let_go.set()
        await asyncio.gather(first, stays)
        decoders.check_room(3)
        decoders.pool.shutdown()

    asyncio.run(inside())
    assert done == ["stays"]
