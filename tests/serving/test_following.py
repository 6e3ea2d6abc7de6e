"""A server whose exports are replaced while clients ask."""

import gc
import itertools
import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import albef
from albef.io import file_digest
from albef.runtime.manifest import NAME, ExportError
from albef.serving.indexes.index import About, Entry
from albef.serving.indexes.store import Store
from tests.data.toy import picture
from tests.serving.running import PATIENCE, Running, describe, parts, running, wait_until

TEXT = "two apples above a squid"
CLIENTS = 4
EVERY = 0.05


def lead(link: Path, folder: Path) -> None:
    part = link.with_name("part")
    part.symlink_to(folder)
    part.replace(link)


def served(server: Running) -> str:
    name: str = server.engine.models[0].name
    return name


def test_clients_notice_nothing_of_a_swap_and_back_but_the_models_name(
    exports: dict[str, Path], tmp_path: Path, pictures: list[bytes]
) -> None:
    feats, hits = {}, {}
    for name, folder in exports.items():
        model = albef.runtime.load(folder)
        feats[name] = model.embed_text([TEXT])[0]
        hits[name] = np.sort(model.embed_image(pictures) @ feats[name])[::-1]
    first, second = exports
    assert np.abs(feats[first] - feats[second]).max() > 0.01
    link, indexes = tmp_path / "link", tmp_path / "indexes"
    lead(link, exports[first])
    answers: list[tuple[str, str, Any]] = []
    failed: list[Any] = []
    end = threading.Event()

    def add(address: str) -> None:
        """What was added is found by who asks next, whichever model that is."""
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            client.put("/v1/indexes/own")
            for i in itertools.takewhile(lambda _: not end.is_set(), itertools.count()):
                sent = parts("image", [picture(i, (16, 16))])
                added = client.post("/v1/indexes/own/images", files=sent, data={"id": f"p{i}"})
                found = client.post("/v1/indexes/own/search", files=sent)
                if f"p{i}" not in [hit["id"] for hit in found.json().get("results", [])]:
                    failed.append((added, found))

    def ask(address: str) -> None:
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            while not end.is_set():
                embedded = client.post("/v1/embed/texts", json={"texts": [TEXT]})
                search = client.post("/v1/indexes/zoo/search", files={"text": (None, TEXT)})
                for answer, field in ((embedded, "embeddings"), (search, "results")):
                    if answer.is_success:
                        answers.append((answer.json()["model"], field, answer.json()[field]))
                    else:
                        failed.append(answer)

    with running([link], indexes=indexes, follow=EVERY) as server:
        client = server.client
        client.put("/v1/indexes/zoo")
        client.post("/v1/indexes/zoo/images", files=parts("image", pictures))
        address = f"http://127.0.0.1:{server.port}"
        calls = [add, *[ask] * CLIENTS]
        clients = [threading.Thread(target=call, args=[address]) for call in calls]
        for each in clients:
            each.start()
        models = [weakref.ref(server.engine.models[0].model.backend)]
        engine = weakref.ref(server.engine)
        for i, name in enumerate([second, first]):
            before = len(answers)
            wait_until(lambda before=before: len(answers) > before + 4 * CLIENTS)
            lead(link, exports[name])
            wait_until(lambda i=i: server.metric("albef_looks_total", outcome="replaced") > i)
            models.append(weakref.ref(server.engine.models[0].model.backend))
            before = len(answers)
            wait_until(lambda before=before: len(answers) > before + 4 * CLIENTS)
            assert served(server) == name == answers[-1][0]
            digest = client.get("/v1/model").json()["models"][0]["digest"]
            assert f"retrieval@{digest[:12]}" == name
            told = {"run": "retrieval", "kind": "retrieval", "digest": digest}
            assert server.metric("albef_model_info", **told) == 1
        end.set()
        for each in clients:
            each.join(PATIENCE)
        wait_until(lambda: [m() is None for m in models] == [True, True, False])
        wait_until(lambda: gc.collect() >= 0 and engine() is None)
    assert failed == []
    assert {name for name, *_ in answers} == {first, second}
    for name, field, value in answers:
        if field == "embeddings":
            np.testing.assert_allclose(value[0], feats[name], atol=1e-5)
        else:
            found = [hit["similarity"] for hit in value]
            np.testing.assert_allclose(found, hits[name], atol=1e-5)


def test_what_cannot_be_served_changes_nothing(
    exports: dict[str, Path],
    tmp_path: Path,
    pictures: list[bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = exports
    link = tmp_path / "link"
    damaged = describe(shutil.copytree(exports[second], tmp_path / "damaged"), kind="other")
    (damaged / "float32/text_encoder/1/model.onnx").write_bytes(b"no graph")
    mute = describe(shutil.copytree(exports[second], tmp_path / "mute"), image_size=32)
    lead(link, exports[first])
    pinned = [f"sha256:{file_digest(path / NAME)}" for path in (exports[first], damaged, mute)]

    def failures() -> float:
        return server.metric("albef_looks_total", outcome="failed")

    with running([link], follow=EVERY, expect=pinned) as server:
        for folder in (damaged, mute, exports[second], tmp_path / "nowhere"):
            before = failures()
            caplog.clear()
            lead(link, folder)
            wait_until(lambda before=before: failures() > before + 1)
            assert served(server) == first
            sent = parts("image", pictures)
            assert server.client.post("/v1/embed/images", files=sent).json()["model"] == first
            assert server.client.get("/readyz").is_success
            logged = [each for each in caplog.messages if "still serving" in each]
            assert len(logged) == 1, "the same error is counted, and logged once"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"image_size": 32}, "cannot answer a test request of"),
        ({"max_tokens": 900, "max_words": 900}, "cannot answer a test request of"),
        ({"temperature": 1e-300}, "NaN or Inf"),
        ({"surface": "classifying"}, "cannot answer a test request of classify"),
    ],
)
def test_a_model_that_cannot_answer_is_never_ready(
    tiny_export: Path, tmp_path: Path, facts: dict[str, Any], reason: str
) -> None:
    folder = describe(shutil.copytree(tiny_export, tmp_path / "export"), **facts)
    with np.errstate(all="ignore"), pytest.raises(ExportError, match=reason), running([folder]):
        pass


@pytest.mark.slow
def test_a_server_that_is_killed_resumes_reading_where_it_was(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    count, indexes = 400, tmp_path / "indexes"
    folder = list(exports.values())[1]
    space = f"{file_digest(folder / NAME)}/float32"
    feats = np.eye(8, dtype=np.float32)
    store, squares = Store(indexes), [picture(i, (16, 16)) for i in range(count)]
    zoo = store.create(About("zoo", "old/float32", "retrieval", 8))
    entries = [Entry(f"p{i}", f"{i}", feats[i % 8], b"", each) for i, each in enumerate(squares)]
    zoo.add("old/float32", entries)

    def without_feature() -> int:
        return len(zoo.without_feature(space, 0, count))

    for least in (count - 1, 0):  # killed when it has begun, then at the end
        command = ["serve", f"{folder}", "--indexes", f"{indexes}", "--port", "0", "--batch", "1"]
        with subprocess.Popen([sys.executable, "-m", "albef.cli", *command]) as process:
            wait_until(lambda least=least: without_feature() <= least)
            process.kill()
        assert (without_feature() > 0) == (least > 0)
    hits = zoo.search(space, feats[0], count)
    right = albef.runtime.load(folder).embed_image(squares) @ feats[0]
    assert [hit.similarity for hit in hits] == pytest.approx(np.sort(right)[::-1], abs=1e-5)
    assert len(zoo.without_feature("old/float32", 0, 1)) == 0
    store.close()
