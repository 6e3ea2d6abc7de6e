"""Automations of the repository on a real server, and what they tell."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Failed, Running

from flows.train import TAG, train
from tests.flows.shop import build
from tests.flows.toy import ROOT
from tests.serving.running import PATIENCE

pytestmark = pytest.mark.slow
AUTOMATIONS = ROOT / "deploy/automations"
BLOCK = """
from prefect.blocks.notifications import CustomWebhookNotificationBlock
told = {"subject": "{{subject}}", "body": "{{body}}"}
print(CustomWebhookNotificationBlock(name="told", url="%s", json_data=told).save("told"))
"""


@contextmanager
def webhook() -> Iterator[tuple[str, "queue.Queue[dict[str, str]]"]]:
    came: queue.Queue[dict[str, str]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/", came
        listening.shutdown()
        thread.join()


def fail(server: str, home: Path, *names: str) -> str:
    """Have a flow run with these tags fail; its name."""
    with (
        temporary_settings({PREFECT_API_URL: server, PREFECT_HOME: home}),
        get_client(sync_client=True) as client,
    ):
        run = client.create_flow_run(train, tags=names, state=Running())
        client.set_flow_run_state(run.id, Failed(message="loss is NaN"), force=True)
        return run.name


def test_releases_and_failed_flows_are_reported(
    server: str, home: Path, tmp_path: Path, tiny_checkpoint: Path, tiny_export: Path
) -> None:
    store = str(tmp_path / "store")
    project = build(tmp_path / "project", home, store, tiny_checkpoint, tiny_export)
    project.env["PREFECT_API_URL"] = server
    with webhook() as (url, came):
        block = project.sh(f"python -c '{BLOCK % url}'").split()[-1]
        for file in ("notify.yaml", "heartbeats.yaml"):
            text = (AUTOMATIONS / file).read_text()
            (project.path / file).write_text(text.replace("BLOCK", block))
            project.sh(f"prefect automation create --from-file {file}")
        try:
            project.sh("albef release retrieval --approve")
            told = came.get(timeout=PATIENCE)
            assert told["subject"] == "albef.released"
            assert told["body"].startswith("release.retrieval: ")
            assert "v0.1.0" in told["body"]
            project.sh("echo '# edited' >> dvc.yaml && albef release retrieval", fails=True)
            assert came.get(timeout=PATIENCE)["subject"] == "albef.refused"
            fail(server, home, "another-project")
            name = fail(server, home, TAG)
            told = came.get(timeout=PATIENCE)
            assert told == {"subject": "prefect.flow-run.Failed", "body": f"{name}: loss is NaN"}
        finally:
            for name in ("notify", "failures", "heartbeats"):  # the server is shared
                project.sh(f"prefect --no-prompt automation delete albef-{name}")
