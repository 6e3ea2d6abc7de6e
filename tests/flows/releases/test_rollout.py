"""`albef release --from-canary`: what servers try out is promoted or rolled back."""

import json
import shutil
import threading
from pathlib import Path

import httpx
import pytest

from albef.io import file_digest
from albef.release.attestation import CARD, verify
from albef.runtime.manifest import NAME
from albef.serving.limits import Trial
from flows.releases import release
from flows.releases.registry import Registry
from tests.data.toy import picture
from tests.flows.shop import alter, another, set_params
from tests.flows.toy import ROOT, Toy
from tests.release.test_attestation import keys
from tests.serving.running import PATIENCE, running, wait_until

EXPORT = Path("products/exports/retrieval")
LABELS = ("a dog", "an apple", "a squid", "a frog", "a key")


def ask(address: str, key: str) -> str:
    """The model that classifies a picture."""
    files = [("image", ("a.png", picture(len(key), (16, 16))))]
    files += [("label", (None, label)) for label in LABELS]  # type: ignore[misc]
    url, headers = f"{address}/v1/zero-shot", {"X-Albef-Key": key}
    answer = httpx.post(url, files=files, headers=headers, timeout=PATIENCE)
    return str(answer.raise_for_status().json()["model"])


def holders() -> tuple[str | None, str | None]:
    registry = Registry("retrieval")
    return registry.holder("prod"), registry.holder("next")


def put(stage: str, key: Path | None = None) -> Path:
    """Release the export to a stage, and return a copy of it."""
    release.main("retrieval", stage, approve=True, key=key)
    return Path(shutil.copytree(EXPORT, f"../{stage}-{Registry('retrieval').last}"))


@pytest.mark.usefixtures("judged")
def test_what_is_tried_out_is_rolled_back_or_promoted(
    project: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = keys(tmp_path, "ours")
    replaced: list[str | None] = []
    monkeypatch.setattr(
        "flows.releases.release.emit",
        lambda event, *_, **payload: event == "released" and replaced.append(payload["replaces"]),
    )

    def limit(least: float) -> None:
        few = {"min_trial_requests": 8, "min_equal_answers": least}
        set_params(project.path, **few, max_slower=1e6)  # a busy machine may slow down either
        project.checked()
        project.sh("git commit -qam limits && git push -q")

    limit(1)
    first = put("prod", private)
    alter(project.path / "made/exports/retrieval", "image_encoder", worse=True)
    another(project)
    project.sh("git push -q")
    second = put("next", private)
    assert replaced == [None, None], "prod keeps its version"
    folder = Registry("retrieval").release_folder("v0.2.0")
    with running([first], canary=Trial(second, 0.5), shadow=Trial(second, 1)) as server:
        decide = f"release retrieval --from-canary http://127.0.0.1:{server.port}"
        said = project.albef(f"{decide} --approve", fails=True)
        assert "- canary has answered 0 of 8 requests (release.min_trial_requests)" in said
        assert f"- {folder} is signed; set --key or ALBEF_SIGNING_KEY" in said
        assert said.rstrip().endswith("v0.2.0 still holds next")
        for i in range(40):
            ask(f"http://127.0.0.1:{server.port}", f"{i}")
        shadow = server.engine.metrics.trials["shadow"].registry
        name, labels = "albef_shadow_answers_total", {"route": "/v1/zero-shot"}
        labels["outcome"] = "different"
        wait_until(lambda: (shadow.get_sample_value(name, labels) or 0) >= 8)
        decide = f"{decide} --key {private}"
        before = project.sh("git rev-parse HEAD; git tag; git status --porcelain")
        said = project.albef(decide, fails=True)
        assert "retrieval is not released:\n" in said
        assert "\n- shadow: 0.00% of " in said
        assert "would be decided: v0.2.0 no longer holds next; run again with --approve" in said
        assert project.sh("git rev-parse HEAD; git tag; git status --porcelain") == before
        said = project.albef(f"{decide} --approve", fails=True)
        assert "v0.2.0 no longer holds next: retrieval#next!#3, pushed to origin" in said
        assert holders() == ("v0.1.0", None)
        said = project.albef(decide, fails=True)
        assert "no version of retrieval holds next" in said
        assert "choose another --stage" in project.albef(f"{decide} --stage next", fails=True)

        Registry("retrieval").assign("v0.1.0", "next")
        said = project.albef(decide, fails=True)
        assert f"servers try out sha256:{file_digest(second / NAME)}, not v0.1.0; wait" in said
        release.main("retrieval", "next", approve=True)
        limit(0)
        said = project.albef(f"{decide} --approve")
    assert "v0.2.0 holds prod: retrieval#prod#" in said
    assert holders() == ("v0.2.0", None)
    card = (folder / CARD).read_text()
    assert card.count("\n## Trial\n\nv0.2.0 no longer holds next after this trial on servers.") == 1
    assert card.count("\n## Trial\n\nv0.2.0 holds prod after this trial on servers.") == 1
    assert "| equal answers | shadow |  | 0.00% |" in card
    verify(folder, public, folder / "release.sig")
    assert project.sh("git status --porcelain; git log origin/main..") == ""


@pytest.mark.slow
@pytest.mark.usefixtures("judged")
def test_a_server_tries_out_next_and_then_serves_it(project: Toy, tmp_path: Path) -> None:
    """The commands of the page, in the clone of a server and in that of the project."""
    page = (ROOT / "docs/how-to/release-gradually.md").read_text()

    def typed(command: str) -> str:
        assert f"\n{command}" in page
        return command.removeprefix("albef ")

    private, _ = keys(tmp_path, "ours")
    project.env["ALBEF_SIGNING_KEY"] = str(private)
    set_params(project.path, min_trial_requests=8)
    project.checked()
    project.sh("git commit -qam limits && git push -q")
    put("prod", private)
    another(project)
    project.sh("dvc push -q && git push -q")
    put("next", private)
    names = [f"retrieval@{file_digest(path / NAME)[:12]}" for path in sorted(tmp_path.glob("*-v*"))]
    new, old = names  # next, prod
    project.sh("git clone -q ../project.git ../server")
    clone = Toy(tmp_path / "server", tmp_path)
    clone.checked()
    serve = typed("albef serve retrieval#prod --canary retrieval#next=0.05 --shadow retrieval#next")
    serve = f"{serve.replace('0.05', '0.5')} --key ../ours.pub --port 0"
    with clone.start(serve) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "serving at " in line)
        drained = threading.Thread(target=process.stdout.read)
        drained.start()
        try:
            address = json.loads(line)["message"].removeprefix("serving at ")
            assert {ask(address, f"{i}") for i in range(40)} == {old, new}
            decide = typed("albef release retrieval --from-canary http://127.0.0.1:8080 --approve")
            said = project.sh(f"albef {decide.replace('http://127.0.0.1:8080', address)}")
            assert "v0.2.0 holds prod: " in said

            def share() -> str:
                return httpx.get(f"{address}/metrics", timeout=PATIENCE).text

            wait_until(lambda: 'albef_version_share{version="canary"} 0.0' in share())
            wait_until(lambda: {ask(address, f"{i}") for i in range(10)} == {new})
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            drained.join()
