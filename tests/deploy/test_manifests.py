"""Files for containers: validated, and true of a real server. Helm renders the chart."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

import albef.layout
from albef.serving.limits import Limits
from tests.serving.running import serving

DEPLOY = Path(__file__).parents[2] / "deploy"
EVERYTHING: dict[str, Any] = {
    "claim": "exports",
    "follow": 30,
    "args": ["--precision", "int8"],
    "autoscaling": {"enabled": True},
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {"matchLabels": {"app": "shop"}}}]},
    "serviceMonitor": {"enabled": True},
}


def read(text: str) -> list[Any]:
    """The documents of a YAML file."""
    return [each for each in YAML(typ="safe").load_all(text) if each]


def entry_point(dockerfile: str) -> list[str]:
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", (DEPLOY / dockerfile).read_text(), re.MULTILINE)
    return list(json.loads(entry))


def program(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name(name), *map(str, arguments)]
    apart = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}  # from the user's own settings
    return subprocess.run(command, capture_output=True, text=True, env=apart, check=False)


def check_schemas(objects: list[Any], folder: Path) -> None:
    """Compare objects with the schemas of Kubernetes, which know no ServiceMonitor."""
    YAML(typ="safe").dump_all(objects, file := folder / "objects.yaml")
    check = program("kubernetes-validate", "--strict", file)
    assert check.returncode == 0, check.stdout
    unknown = [line for line in check.stdout.splitlines() if "Couldn't find schema" in line]
    assert all("ServiceMonitor" in line for line in unknown), unknown


def test_images_of_others_are_pinned_by_digest() -> None:
    texts = [(DEPLOY / f"{name}.Dockerfile").read_text() for name in ("serve", "train")]
    named = re.findall(r"^(?:ARG BASE=|FROM )(.*)$", "\n".join(texts), re.MULTILINE)
    (compose,) = read((DEPLOY / "compose.yaml").read_text())
    named += [each["image"] for each in compose["services"].values() if "build" not in each]
    others = [image for image in named if image != "${BASE}"]
    assert len(others) == 3
    assert all(re.fullmatch(r"[\w.:-]+@sha256:[0-9a-f]{64}", image) for image in others)


def test_the_manifest_is_the_chart_with_its_default_values() -> None:
    text = (DEPLOY / "kubernetes.yaml").read_text()
    assert (
        text[text.index("---\n") :] == program("helm", "template", "albef", DEPLOY / "helm").stdout
    )
    assert program("helm", "lint", "--strict", DEPLOY / "helm").returncode == 0


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_kubernetes_knows_every_key_of_the_chart(tmp_path: Path, values: dict[str, Any]) -> None:
    YAML(typ="safe").dump(values, file := tmp_path / "values.yaml")
    done = program("helm", "template", "shop", DEPLOY / "helm", "--values", file)
    assert done.returncode == 0, done.stderr
    check_schemas(read(done.stdout), tmp_path)
    objects = {each["kind"]: each for each in read(done.stdout)}
    kinds = {"Deployment", "Service", "PodDisruptionBudget"}
    more = {"HorizontalPodAutoscaler", "NetworkPolicy", "ServiceMonitor"}
    assert set(objects) == (kinds | more if values else kinds)
    pod = objects["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert objects["Service"]["spec"]["selector"] == pod["metadata"]["labels"] == {"app": "shop"}
    memory = {key: each["memory"] for key, each in container["resources"].items()}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["spec"]["volumes"]}
    if not values:
        assert memory == {"requests": "2040Mi", "limits": "3400Mi"}
        assert container["args"] == ["--threads", "2"]
        return
    # Two exports are in memory while a new one replaces the old one.
    assert memory == {"requests": "2040Mi", "limits": "6800Mi"}
    assert container["args"] == ["--threads", "2", "--follow", "30", "--precision", "int8"]
    assert "replicas" not in objects["Deployment"]["spec"], "the autoscaler sets it"
    (metric,) = objects["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (adapter,) = read((DEPLOY / "prometheus-adapter.yaml").read_text())
    assert metric["pods"]["metric"]["name"] == adapter["rules"][0]["name"]["as"]
    (rule,) = objects["NetworkPolicy"]["spec"]["ingress"]
    assert rule["from"] == EVERYTHING["networkPolicy"]["from"]


def test_indexes_that_last_belong_to_one_server(tmp_path: Path) -> None:
    command = ["template", "shop", DEPLOY / "helm", "--set", "indexes=zoo"]
    refused = program("helm", *command)
    assert "set replicas to 1" in refused.stderr
    done = program("helm", *command, "--set", "replicas=1")
    check_schemas(read(done.stdout), tmp_path)
    (deployment,) = [each for each in read(done.stdout) if each["kind"] == "Deployment"]
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    pod = deployment["spec"]["template"]["spec"]
    claims = {
        each["name"]: each["persistentVolumeClaim"]["claimName"]
        for each in pod["volumes"]
        if "persistentVolumeClaim" in each
    }
    (mount,) = [
        each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == "/indexes"
    ]
    assert claims[mount["name"]] == "zoo"


def test_nginx_is_confined_as_the_servers_are() -> None:
    services = read((DEPLOY / "compose.yaml").read_text())[0]["services"]
    for key in ("read_only", "cap_drop", "security_opt", "tmpfs"):
        assert services["nginx"][key] == services["first"][key], key
    assert services["nginx"]["healthcheck"]["test"][-1].endswith("/healthz")


def test_the_containers_share_their_indexes_and_believe_nginx() -> None:
    (compose,) = read((DEPLOY / "compose.yaml").read_text())
    (network,) = compose["networks"]["default"]["ipam"]["config"]
    for name in ("first", "second"):
        server = compose["services"][name]
        assert "indexes:/indexes" in server["volumes"]
        assert server["command"] == ["--proxy", network["subnet"]]
    assert "indexes" in compose["volumes"]


def test_unknown_and_wrong_values_are_refused() -> None:
    for setting in ("replica=3", "memoryMi=1.5Gi", "autoscaling.maximum=4"):
        done = program("helm", "template", "shop", DEPLOY / "helm", "--set", setting)
        assert done.returncode
        assert setting.partition("=")[0].rpartition(".")[2] in done.stderr


def test_a_server_answers_the_probes_as_it_is_started_there(
    tiny_export: Path, tmp_path: Path
) -> None:
    _, service, deployment = read((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = [*entry_point("serve.Dockerfile"), *container["args"]]
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
    assert f"EXPOSE {port['containerPort']}\n" in (DEPLOY / "serve.Dockerfile").read_text()
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    (compose,) = read((DEPLOY / "compose.yaml").read_text())
    drain, grace = int(command[command.index("--drain") + 1]), Limits().grace
    assert pod["terminationGracePeriodSeconds"] > drain + grace
    assert int(compose["services"]["first"]["stop_grace_period"].rstrip("s")) > drain + grace


def test_the_containers_run_the_same_configuration_of_nginx() -> None:
    (compose,) = read((DEPLOY / "compose.yaml").read_text())
    replaced = re.findall(r"s/([^/]+)/([^/]+)/", compose["services"]["nginx"]["command"][2])
    assert [new for _, new in replaced] == ["first:8080", "second:8080", "listen "]
    text = (DEPLOY / "nginx.conf").read_text()
    assert all(text.count(old) == 1 for old, _ in replaced)
    assert compose["configs"]["nginx"]["file"] == "nginx.conf"


def test_the_job_on_ray_is_of_values_and_an_image_that_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = (DEPLOY / "rayjob.yaml").read_text()
    job = read(text)[0]["spec"]
    cluster = job["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    specs = [pod["template"]["spec"] for pod in pods]
    common = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}}
    check_schemas([common | {"spec": spec} for spec in specs], tmp_path)
    (head,), *nodes = (spec["containers"] for spec in specs)
    assert {container["image"] for (container,) in nodes} == {head["image"]}
    for variable in head["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    assert albef.layout.runtime({}).engine == "ray"
    assert job["entrypoint"].split()[:3] == entry_point("train.Dockerfile")
    (extras,) = re.findall(r"EXTRAS=(\S+)", text)
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
