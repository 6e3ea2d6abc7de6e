import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from albef.data.record import Record
from albef.data.shards import Shards
from albef.ingest.shard_writer import write
from tests.conftest import CAPTIONS


@pytest.fixture(scope="session")
def scenes() -> list[Record]:
    """Forty pictures, some of which have several captions."""
    rng = np.random.default_rng(1)
    records = []
    for i in range(40):
        buffer = io.BytesIO()
        noise = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((16, 16)).save(buffer, "PNG")
        captions = (f"{CAPTIONS[i % 4]} <{i}>", *CAPTIONS[: i % 3])
        records.append(Record(f"k{i:02}", buffer.getvalue(), captions, i, "test", "made"))
    return records


@pytest.fixture
def shards(scenes: list[Record], tmp_path: Path) -> Shards:
    """They, as a data set."""
    write(tmp_path / "scenes", "scenes", scenes, shard_mb=1, licences=[], sources=[])
    return Shards(tmp_path / "scenes", "test")
