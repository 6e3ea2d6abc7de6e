"""What the tests of ingest share."""

from collections.abc import Iterator

import pytest

from tests.ingest.download.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running
