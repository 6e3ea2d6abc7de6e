"""A list of downloads: order, hosts, retries, and nothing asked for twice."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from albef.data.rejection import Reason
from albef.ingest.download import downloads, store
from albef.ingest.download.downloads import Downloads
from albef.ingest.download.limits import Limits
from albef.ingest.download.store import Outcome
from tests.data import toy
from tests.ingest.download.server import Server
from tests.ingest.download.test_client import limits

Ended = dict[int, bytes | str]


def download(
    folder: Path, addresses: Sequence[str], bounds: Limits, chunk: int = 10
) -> tuple[Ended, dict[int, Outcome]]:
    rows = list(enumerate(addresses))
    lists = [(rows[i : i + chunk], addresses[i : i + chunk]) for i in range(0, len(rows), chunk)]
    ended: Ended = {}
    outcomes: dict[int, Outcome] = {}
    with Downloads(folder, bounds) as running:
        for part, kept in running.chunks(lists):
            for row, address in part:
                outcomes[row] = outcome = kept[address]
                ended[row] = outcome.reason or running.store.body(outcome)
    return ended, outcomes


def test_a_server_that_asks_for_a_long_rest_is_left_alone(server: Server, tmp_path: Path) -> None:
    bounds = limits(max_wait_s=60, per_host=2)
    addresses = [server.url(f"asks/3600/{i}") for i in range(20)]
    ended, outcomes = download(tmp_path, addresses, bounds)
    assert set(ended.values()) == {Reason.HTTP_ERROR}
    said = "pauses of 3600 s, max_wait_s is 60"
    assert sum(said in outcome.detail for outcome in outcomes.values()) >= 18
    assert sum(server.asked.values()) <= 2
    assert not any(outcome.is_final(bounds) for outcome in outcomes.values()), "later runs retry"


def test_a_host_has_a_budget_of_attempts_and_of_seconds(server: Server, tmp_path: Path) -> None:
    addresses = [server.url(f"status/429/{i}") for i in range(64)] + [server.url("status/404")]
    ended, outcomes = download(tmp_path / "rows", addresses, limits(give_up_after=9, per_host=4))
    assert set(ended.values()) == {Reason.HTTP_ERROR}
    assert sum(server.asked.values()) <= 9 + 4
    assert "429 Too Many Requests; attempts at its host failed 9 times" in outcomes[63].detail
    assert not outcomes[63].is_final(limits()), "later runs retry"
    server.asked.clear()
    addresses = [server.url(f"asks/1/{i}") for i in range(64)]
    _, outcomes = download(tmp_path / "pauses", addresses, limits(max_wait_s=1.5, per_host=1))
    assert sum(server.asked.values()) == 2
    assert "pauses of 2 s, max_wait_s is 1.5" in outcomes[63].detail
    server.asked.clear()
    addresses = [server.url(f"{kind}/{i}") for i in range(9) for kind in ("asks/2", "status/404")]
    bounds = limits(max_wait_s=2.5, per_host=1, attempts=1)
    _, outcomes = download(tmp_path / "between", addresses, bounds)
    assert sum(server.asked.values()) == 3, "another response between the pauses takes off a second"
    assert "pauses of 3 s, max_wait_s is 2.5" in outcomes[17].detail


def test_progress_names_the_hosts_that_asked_for_a_pause(
    server: Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downloads, "_LOG_EVERY_S", 0.05)
    with caplog.at_level("INFO", "albef"):
        download(tmp_path, [server.url("asks/1/0")], limits(attempts=2, max_wait_s=5))
    assert f"; pausing as requested by 127.0.0.1:{server.port} (1 s)" in caplog.text


def test_no_more_than_so_many_of_a_host_at_once(server: Server, tmp_path: Path) -> None:
    server.slow_s = 0.01
    addresses = [server.url(f"ok/{i}") for i in range(40)]
    download(tmp_path, addresses, limits(connections=30, per_host=3))
    assert server.at_once == 3


def test_a_slow_host_holds_up_no_other(server: Server, tmp_path: Path) -> None:
    with Server() as slow:
        slow.slow_s = 0.4
        addresses = [slow.url(f"ok/{i}") for i in range(8)]
        addresses += [server.url(f"ok/{i}") for i in range(30)]
        quick = []
        real = server.ok

        async def ok(path: str, writer: object) -> object:
            quick.append(sum(slow.asked.values()))
            return await real(path, writer)

        server.ok = ok  # type: ignore[assignment, method-assign]
        ended, _ = download(tmp_path, addresses, limits(connections=4, per_host=2), chunk=50)
        assert len(ended) == 38
        assert max(quick) < 8, "all of the quick ones came before the last of the slow ones"


def test_a_host_without_an_answer_is_given_up(server: Server, tmp_path: Path) -> None:
    dead = [f"http://127.0.0.1:9/{i}" for i in range(50)]
    bounds = limits(attempts=2, give_up_after=5, connections=1)
    ended, outcomes = download(tmp_path, [*dead, server.url("ok/1")], bounds)
    assert ended[50] == toy.picture(1)
    assert {ended[i] for i in range(50)} == {Reason.UNREACHABLE}
    assert sum("failed 5 times in a row" in outcomes[i].detail for i in range(50)) >= 45
    assert all(outcome.is_final(bounds) for outcome in outcomes.values())
    assert not outcomes[49].is_final(limits(attempts=3))


def test_a_disk_that_is_full_stops_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_SETUP", f"{store._SETUP} PRAGMA max_page_count = 9;")
    with pytest.raises(OSError, match=r"No space left on device: .*downloads.sqlite"):
        download(tmp_path, [server.url("large")], limits(max_mb=3))


def test_who_stops_reading_stops_the_download(server: Server, tmp_path: Path) -> None:
    server.slow_s = 0.02
    lists = [("", [server.url(f"ok/{i}")]) for i in range(500)]
    with Downloads(tmp_path, limits(connections=2, per_host=2)) as running:
        next(running.chunks(lists))
    assert sum(server.asked.values()) < 100
