import asyncio
import os
from pathlib import Path

import pytest

from albef.serving.batching import CLIENT
from albef.serving.engine import Decoders
from albef.serving.errors import ApiError
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.worker import KilledError


def test_pictures_wait_in_turns_of_clients_and_find_room_or_are_refused(tmp_path: Path) -> None:
    """The calls give one item each: the letter that is read from a pipe, or that is passed."""
    os.mkfifo(tmp_path / "pipe")
    done: list[str] = []

    async def inside() -> None:
        decoders = Decoders(1, Limits(queue=6), Metrics())

        async def decode(client: str, *call: object) -> None:
            CLIENT.set(client)
            with decoders.room(1):
                done.append(await decoders(*call))  # type: ignore[arg-type]

        held = asyncio.create_task(decode("a", Path.read_text, tmp_path / "pipe"))
        pipe = await asyncio.to_thread((tmp_path / "pipe").open, "w")  # when the process reads
        gone, *rest = (
            asyncio.create_task(decode(client, list, letter))
            for client, letter in (("a", "0"), ("a", "1"), ("a", "2"), ("a", "3"), ("b", "4"))
        )
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="6 images wait") as refused, decoders.room(1):
            pass
        assert refused.value.status == 429
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        pipe.write("h")
        pipe.close()
        await asyncio.gather(held, *rest)
        with decoders.room(6), pytest.raises(KilledError):
            await decoders(os._exit, 1)
        await decode("a", list, "5")
        decoders.close()

    asyncio.run(inside())
    assert done == ["h", "4", "1", "2", "3", "5"]
