"""What the container's files say of a server is so of a real one."""

import json
import re
import tomllib
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

import albef.layout
from tests.serving.running import serving

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_a_server_answers_the_probes_as_it_is_started_there(
    tiny_export: Path, tmp_path: Path
) -> None:
    dockerfile = (DEPLOY / "serve.Dockerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", dockerfile, re.MULTILINE)
    objects = YAML(typ="safe").load_all(DEPLOY / "kubernetes.yaml")
    _, service, deployment = filter(None, objects)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = [*json.loads(entry), *container["args"]]
    there = {"/export": str(tiny_export), "0.0.0.0": "127.0.0.1", "/indexes": str(tmp_path)}
    started = ["-m", "albef.cli", *(there.get(each, each) for each in command[1:]), "--port", 0]
    token = "a-token-of-a-test"
    with serving(*started, cwd=tmp_path, ALBEF_TOKENS=token) as (_, base):
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


def test_the_job_on_ray_is_of_values_and_an_image_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (DEPLOY / "rayjob.yaml").read_text()
    job = YAML(typ="safe").load(text)["spec"]
    cluster = job["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    (head,), *nodes = (pod["template"]["spec"]["containers"] for pod in pods)
    assert {container["image"] for (container,) in nodes} == {head["image"]}
    for variable in head["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    assert albef.layout.runtime({}).engine == "ray"
    entry = re.findall(
        r"^ENTRYPOINT (.*)$", (DEPLOY / "train.Dockerfile").read_text(), re.MULTILINE
    )
    assert job["entrypoint"].split()[:3] == json.loads(entry[0])
    (extras,) = re.findall(r"EXTRAS=(\S+)", text)
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
