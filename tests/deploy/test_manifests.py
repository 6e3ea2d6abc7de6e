"""What the container's files say of a server is so of a real one."""

import json
import os
import re
import sys
from pathlib import Path

import httpx
from ruamel.yaml import YAML

from tests.deploy.test_rolling import process, wait_for

DEPLOY = Path(__file__).parents[2] / "deploy"
PORT = 8084


def test_a_server_answers_the_probes_as_it_is_started_there(
    tiny_export: Path, tmp_path: Path
) -> None:
    dockerfile = (DEPLOY / "serve.Dockerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", dockerfile, re.MULTILINE)
    deployment, service, _ = YAML(typ="safe").load_all(DEPLOY / "kubernetes.yaml")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = [*json.loads(entry), *container["args"]]
    there = {"/export": str(tiny_export), "0.0.0.0": "127.0.0.1", "/indexes": str(tmp_path)}
    started = [sys.executable, "-m", "albef.cli", *(there.get(each, each) for each in command[1:])]
    token = "a-token-of-a-test"
    with process([*started, "--port", str(PORT)], os.environ | {"ALBEF_TOKENS": token}):
        wait_for(PORT)
        base = f"http://127.0.0.1:{PORT}"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            path = container[probe]["httpGet"]["path"]
            assert httpx.get(base + path, headers={"host": "10.0.0.7:8080"}).status_code == 200
        assert httpx.get(f"{base}/v1/model").status_code == 401
        headers = {"authorization": f"Bearer {token}"}
        assert httpx.get(f"{base}/v1/model", headers=headers).status_code == 200
    (port,) = container["ports"]
    assert f"EXPOSE {port['containerPort']}\n" in dockerfile
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    compose = YAML(typ="safe").load(DEPLOY / "compose.yaml")["services"]["first"]
    drain, grace = int(command[command.index("--drain") + 1]), 30  # the command's default
    assert pod["terminationGracePeriodSeconds"] > drain + grace
    assert int(compose["stop_grace_period"].rstrip("s")) > drain + grace
