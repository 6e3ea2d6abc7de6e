import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albef.preprocessing.transforms import Square
from albef.serving.decoding import Decoders
from albef.serving.engine import Engine, Resources
from albef.serving.errors import ApiError
from albef.serving.limits import Limits, Options
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import CLIENT, Client
from albef.serving.model_queues import ModelQueues
from albef.worker import KilledError


def test_pictures_wait_in_turns_of_clients_and_find_room_or_are_refused(tmp_path: Path) -> None:
    """The calls give one item each: the letter that is read from a pipe, or that is passed."""
    os.mkfifo(tmp_path / "pipe")
    done: list[str] = []

    async def inside() -> None:
        decoders = Decoders(1, Limits(queue=6), Metrics())

        async def decode(client: str, *call: object) -> None:
            CLIENT.set(Client(client))
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


def test_images_of_a_request_are_decoded_a_few_at_a_time_and_stay_in_order(
    tiny_export: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = most = 0

    async def decode(self: ModelQueues, *arguments: Any, **options: Any) -> Square:
        nonlocal started, most
        started += 1
        most = max(most, started)
        try:
            return await original(self, *arguments, **options)
        finally:
            started -= 1

    async def inside() -> None:
        resources = Resources(Options([tiny_export], Limits(queue=32)), Metrics())
        engine = Engine(resources)
        alone = [await engine.embed_images([picture]) for picture in pictures]
        together = await engine.embed_images(pictures)
        np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
        with pytest.raises(ApiError, match="file 0 cannot be decoded"):
            await engine.embed_images([b"", *pictures])
        with engine.decoders.room(32):  # all of it was given back
            pass
        await engine.stop()
        await resources.close()

    original = ModelQueues.decode
    monkeypatch.setattr(ModelQueues, "decode", decode)
    asyncio.run(inside())
    assert most == 4
