"""A canary answers its share of the requests, and a shadow's answers are only compared."""

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.io import file_digest
from albef.release.gate import ReleaseConfig
from albef.release.rollout import judge_trial, read_metrics
from albef.runtime.manifest import NAME, ExportError
from albef.serving.gradual import best_answers, is_chosen
from albef.serving.limits import Trial
from tests.serving.running import PATIENCE, Running, parts, running, wait_until

TEXTS = {"texts": ["two apples above a squid"]}
EVERY, ROUTE = 0.05, "/v1/embed/texts"


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_has_the_keys_of_a_smaller_one(key: str, one: float, two: float) -> None:
    assert is_chosen(key, min(one, two)) <= is_chosen(key, max(one, two))
    assert (is_chosen(key, 0), is_chosen(key, 1)) == (False, True)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_a_share_of_all_keys_is_chosen(share: float) -> None:
    chosen = sum(is_chosen(f"key {i}", share) for i in range(10_000)) / 10_000
    assert chosen == pytest.approx(share, rel=0.2)


def asked(server: Running, key: str = "") -> tuple[str, str]:
    """Version and model that answer about a text."""
    headers = {"X-Albef-Key": key} if key else {}
    answer = server.client.post(ROUTE, json=TEXTS, headers=headers).raise_for_status()
    return answer.headers["x-albef-version"], answer.json()["model"]


def test_a_key_always_gets_the_same_version_and_both_are_counted(
    exports: dict[str, Path], pictures: list[bytes]
) -> None:
    (stable, first), (canary, second) = exports.items()
    with running([first], canary=Trial(second, 0.5)) as server:
        keys = [f"user {i}" for i in range(20)] * 2
        answers = [asked(server, key) for key in keys]
        right = [("canary", canary) if is_chosen(k, 0.5) else ("stable", stable) for k in keys]
        assert answers == right
        own = is_chosen("127.0.0.1", 0.5)  # Without a key, the client's address decides.
        assert asked(server)[0] == ("canary" if own else "stable")
        # Features of two models do not mix, so one of them answers everything about indexes.
        chosen = {"X-Albef-Key": next(key for key in keys if is_chosen(key, 0.5))}
        client = server.client
        client.put("/v1/indexes/zoo", headers=chosen)
        for path in ("/v1/indexes/zoo/images", "/v1/indexes/zoo/search"):
            answer = client.post(path, files=parts("image", pictures[:1]), headers=chosen)
            assert (answer.is_success, answer.headers["x-albef-version"]) == (True, "stable")
        wait_until(lambda: not server.engine.open_requests)
        page = client.get("/metrics").text
        assert client.post(ROUTE, json={"texts": []}).status_code == 422
    counted = 'albef_requests_total{method="POST",route="/v1/embed/texts",status="200",version='
    expected = {version: sum(v == version for v, _ in right) for version in ("stable", "canary")}
    expected["canary" if own else "stable"] += 1
    for version, count in expected.items():
        assert f'{counted}"{version}"}} {count}.0' in page
        assert f'kind="retrieval",run="retrieval",version="{version}"}} 1.0' in page
    assert page.count("# TYPE albef_requests_total counter") == 1
    assert page.count("\nprocess_resident_memory_bytes") == 1


def test_an_export_that_cannot_be_tried_out_is_an_error(
    tiny_exports: dict[str, Path], exports: dict[str, Path], tmp_path: Path
) -> None:
    first, second = exports.values()
    (second / "float32/text_encoder/1/model.onnx").write_bytes(b"no graph")
    for trial, error, reason in (
        (second, ExportError, "second"),
        (tmp_path / "none", ExportError, "none"),
        (tiny_exports["vqa"], ValueError, r"--canary .* is an export of run vqa, .* has retrieval"),
    ):
        with pytest.raises(error, match=reason), running([first], canary=Trial(trial, 0.1)):
            pass


def test_a_canary_that_is_withdrawn_gets_no_requests_until_it_is_back(
    exports: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (stable, first), (canary, second) = exports.items()
    link = tmp_path / "next"
    link.symlink_to(second)
    trial = Trial(link, 1, ["true"])
    with running([first], canary=trial, follow=EVERY) as server:
        assert asked(server) == ("canary", canary)
        link.unlink()
        wait_until(lambda: server.metric("albef_version_share", "canary") == 0)
        assert asked(server) == ("stable", stable)
        assert server.metric("albef_looks_total", "canary", outcome="failed") == 0
        link.symlink_to(first)  # Another version is tried out, with new counts.
        wait_until(lambda: server.metric("albef_version_share", "canary") == 1)
        wait_until(lambda: asked(server) == ("canary", stable))
        labels = {"route": ROUTE, "method": "POST", "status": "200"}
        wait_until(lambda: server.metric("albef_requests_total", "canary", **labels) == 1)
        (first / "float32/text_encoder/1/model.onnx").write_bytes(b"no graph")
        assert asked(server) == ("canary", stable), "it is in memory"
    assert f"{canary} gets a share of 0 now" in caplog.text


def compared(server: Running, route: str) -> dict[str, float]:
    """Number of answers of the shadow by outcome."""
    name, counts = "albef_shadow_answers_total", {}
    for outcome in ("equal", "different", "failed", "dropped"):
        counts[outcome] = server.metric(name, "shadow", route=route, outcome=outcome)
    return {outcome: count for outcome, count in counts.items() if count}


@pytest.mark.parametrize("which", ["first", "second"])
def test_answers_of_a_shadow_are_compared_and_never_sent(
    exports: dict[str, Path], pictures: list[bytes], which: str
) -> None:
    stable, folders = next(iter(exports)), {path.name: path for path in exports.values()}
    with running([folders["first"]], shadow=Trial(folders[which], 1)) as server:
        labels = [("label", (None, f"{what}")) for what in ("a dog", "an apple", "a squid")]
        sent = parts("image", pictures)
        answer = server.client.post("/v1/zero-shot", files=[*sent, *labels])
        assert answer.json()["model"] == stable
        assert asked(server) == ("stable", stable)
        wait_until(lambda: sum(compared(server, "/v1/zero-shot").values()) == len(pictures))
        wait_until(lambda: server.metric("albef_shadow_cosine_count", "shadow", route=ROUTE))
        cosine = server.metric("albef_shadow_cosine_sum", "shadow", route=ROUTE)
        if which == "first":
            assert compared(server, "/v1/zero-shot") == {"equal": len(pictures)}
            assert cosine == pytest.approx(1, abs=1e-5)
        else:
            assert cosine < 0.99


def test_requests_that_wait_too_long_for_a_shadow_are_dropped(tiny_export: Path) -> None:
    with running([tiny_export], shadow=Trial(tiny_export, 1)) as server:
        model, go = server.app.state.followers["shadow"].engine.models[0].model, threading.Event()
        encode = model.encode_text
        model.encode_text = lambda *given: go.wait(PATIENCE) and encode(*given)
        for _ in range(40):
            assert asked(server)[0] == "stable"
        assert compared(server, ROUTE) == {"dropped": 8}
        go.set()
        wait_until(lambda: server.metric("albef_shadow_cosine_count", "shadow", route=ROUTE) == 32)


def test_a_canary_that_fails_is_refused_by_the_numbers_of_its_server(
    exports: dict[str, Path],
) -> None:
    first, second = exports.values()
    with running([first], canary=Trial(second, 0.5), shadow=Trial(second, 1)) as server:
        for version in ("canary", "shadow"):
            server.app.state.followers[version].engine.models[0].model.encode_text = None
        for i in range(12):
            answer = server.client.post(ROUTE, json=TEXTS, headers={"X-Albef-Key": f"{i}"})
            assert answer.status_code == (500 if is_chosen(f"{i}", 0.5) else 200)
        wait_until(lambda: compared(server, ROUTE).get("failed"))
        samples = read_metrics(f"http://127.0.0.1:{server.port}/")
    trial = judge_trial(ReleaseConfig(min_trial_requests=1, max_slower=1e6), "retrieval", samples)
    assert trial.early == []
    assert trial.digests == {file_digest(second / NAME)}
    refused = [row.refused for row in trial.rows if row.refused]
    assert [text.partition(":")[0] for text in refused] == ["canary", "shadow"]
    assert "100.00% of the requests fail, 0.00% of the stable version's" in refused[0]


@pytest.mark.parametrize(
    ("answer", "best"),
    [
        ({"probabilities": [0.7]}, [True]),
        ({"probabilities": [0.2, 0.7, 0.1]}, [1]),
        ({"answers": [[{"text": "two"}, {"text": "one"}], []]}, ["two", None]),
        ({"results": [{"label": "a dog", "probabilities": {}}, {"label": None}]}, ["a dog", None]),
        ({"results": [{"index": 3}, {"index": 1}]}, [3]),
        ({"results": [{"probability": 0.6, "best": 1, "heat": []}]}, [(True, 1)]),
        ({"embeddings": [[0.6, 0.8]]}, []),
    ],
)
def test_the_best_answer_to_each_item_is_compared(answer: Any, best: list[Any]) -> None:
    assert best_answers(answer) == best
