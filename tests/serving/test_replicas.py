"""Two replicas under Ray Serve answer as one server does; needs the extra ``ray``."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import albef.runtime
from tests.serving.running import PATIENCE, wait_until

PORT = 8000  # Ray Serve's


@pytest.mark.slow
@pytest.mark.skipif(
    None in map(importlib.util.find_spec, ("ray", "grpc_reflection")), reason="needs the extra ray"
)
def test_two_replicas_answer_as_the_runtime_does(tiny_export: Path, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "ray.serve.scripts", "run", "--blocking"]
    given = [f"exports={tiny_export}", "replicas=2", "threads=1"]
    environment = os.environ | {
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*run, "albef.serving.replicas:application", *given],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=PATIENCE) as client:

            def is_ready() -> bool:
                assert process.poll() is None, (tmp_path / "log").read_text()
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(is_ready, PATIENCE * 5)
            right = albef.runtime.load(tiny_export, threads=1).embed_text(["two frogs"])
            asked = 0

            def is_answered_by_both() -> bool:
                nonlocal asked
                answer = client.post("/v1/embed/texts", json={"texts": ["two frogs"]})
                asked += 1
                assert answer.status_code == 200
                assert answer.json()["embeddings"][0] == pytest.approx(right[0].tolist(), abs=1e-5)
                counted = re.search(
                    '/v1/embed/texts",status="200"} (.+)', client.get("/metrics").text
                )
                return (float(counted[1]) if counted else 0) < asked

            wait_until(is_answered_by_both)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
