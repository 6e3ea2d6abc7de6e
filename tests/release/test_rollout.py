"""What is decided about an export that servers try out, and with which message."""

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from albef.config import ParamsError
from albef.release.gate import ReleaseConfig
from albef.release.rollout import judge_trial, read_metrics
from albef.serving.metrics import Metrics
from tests.conftest import free_port

LIMITS = ReleaseConfig(min_trial_requests=10, max_slower=1.5)


def samples(version: str, *, failed: int = 0, slower: float = 1, different: int = 0) -> list[Any]:
    """Metrics of a server that has answered a hundred requests, twenty of them with a trial."""
    stable = Metrics()
    trial = Metrics(trial_of=stable, name=version)
    stable.model.labels("retrieval", "retrieval", "old").set(1)
    trial.model.labels("retrieval", "retrieval", "new").set(1)
    for metrics, factor, counts in ((stable, 1, (90, 10)), (trial, slower, (2, 18))):
        for route, seconds, count in zip(("/v1/match", "/v1/ask"), (1, 9), counts, strict=True):
            metrics.requests.labels(route, "POST", "200").inc(count)
            for _ in range(count):
                metrics.seconds.labels(route).observe(seconds * factor)
    trial.requests.labels("/v1/ask", "POST", "500").inc(failed)
    stable.requests.labels("/v1/ground", "POST", "500").inc(50)  # The trial was not asked this.
    if version == "shadow":
        trial.compared.labels("/v1/match", "equal").inc(20 - different)
        trial.compared.labels("/v1/match", "different").inc(different)
    families = text_string_to_metric_families(stable.page().decode())
    return [sample for family in families for sample in family.samples]


@pytest.mark.parametrize(
    ("version", "numbers", "reason"),
    [
        ("canary", {}, ""),
        ("canary", {"slower": 1.4}, ""),
        ("canary", {"slower": 2}, "2.00 times as long, more than release.max_slower 1.5"),
        ("canary", {"failed": 5}, "20.00% of the requests fail, 0.00% of the stable version's"),
        ("shadow", {"different": 4}, ""),
        ("shadow", {"slower": 2}, ""),
        ("shadow", {"different": 5}, "75.00% of 20 best answers are equal, less than release.min_"),
    ],
)
def test_a_limit_that_is_exceeded_is_a_reason(
    version: str, numbers: dict[str, Any], reason: str
) -> None:
    trial = judge_trial(LIMITS, "retrieval", samples(version, **numbers))
    refused = [row.refused for row in trial.rows if row.refused]
    assert (trial.digests, trial.early) == ({"new"}, [])
    assert len(refused) == bool(reason)
    assert reason in "".join(refused)


def test_a_few_requests_decide_nothing_and_a_server_without_a_trial_is_an_error() -> None:
    limits = LIMITS.model_copy(update={"min_trial_requests": 21})
    (early,) = judge_trial(limits, "retrieval", samples("canary")).early
    assert early == "canary has answered 20 of 21 requests (release.min_trial_requests)"
    two = [*samples("canary"), *samples("canary")]  # of two servers
    assert judge_trial(limits, "retrieval", two).early == []
    with pytest.raises(ParamsError, match="the servers try out no export of vqa"):
        judge_trial(LIMITS, "vqa", samples("canary"))


def test_a_server_without_metrics_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for url, reason in ((f"http://127.0.0.1:{free_port()}", "refused"), ("127.0.0.1", "http")):
        with pytest.raises(ParamsError, match=f"cannot read the metrics of {url}: .*{reason}"):
            read_metrics(url)

    def get(url: str, headers: dict[str, str], timeout: float) -> httpx.Response:
        status = 200 if headers == {"authorization": "Bearer right"} else 401
        return httpx.Response(status, text="<html>\n")

    monkeypatch.setattr(httpx, "get", get)
    for token, reason in (
        ("wrong", "status 401; set ALBEF_TOKEN to a token with the scope `metrics`"),
        ("right", ""),
    ):
        monkeypatch.setenv("ALBEF_TOKEN", token)
        with pytest.raises(ParamsError, match=f"cannot read the metrics of a: .*{reason}"):
            read_metrics("a")
