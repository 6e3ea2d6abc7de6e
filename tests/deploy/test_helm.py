"""The Helm chart, rendered by helm and compared with the schemas of Kubernetes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

DEPLOY = Path(__file__).parents[2] / "deploy"
EVERYTHING = {
    "claim": "exports",
    "follow": 30,
    "args": ["--precision", "int8"],
    "canary": "/export/next=0.05",
    "shadow": "/export/next",
    "autoscaling": {"enabled": True},
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {"matchLabels": {"app": "shop"}}}]},
    "serviceMonitor": {"enabled": True},
}


def helm(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("helm")
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(
        [script, *map(str, arguments)], capture_output=True, text=True, env=environment
    )


def rendered(tmp_path: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Objects of the chart, checked against the schemas of Kubernetes."""
    YAML(typ="safe").dump(values, file := tmp_path / "values.yaml")
    done = helm("template", "shop", DEPLOY / "helm", "--values", file)
    assert done.returncode == 0, done.stderr
    (objects := tmp_path / "objects.yaml").write_text(done.stdout)
    check = subprocess.run(
        [Path(sys.executable).with_name("kubernetes-validate"), "--strict", objects],
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stdout
    unknown = [line for line in check.stdout.splitlines() if "Couldn't find schema" in line]
    assert all("ServiceMonitor" in line for line in unknown), unknown
    return [each for each in YAML(typ="safe").load_all(done.stdout) if each]


def test_the_manifest_is_the_chart_with_its_default_values() -> None:
    text = (DEPLOY / "kubernetes.yaml").read_text()
    done = helm("template", "albef", DEPLOY / "helm")
    assert text[text.index("---\n") :] == done.stdout
    assert helm("lint", "--strict", DEPLOY / "helm").returncode == 0


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_kubernetes_knows_every_key_of_the_chart(tmp_path: Path, values: dict[str, Any]) -> None:
    objects = {each["kind"]: each for each in rendered(tmp_path, values)}
    kinds = {"Deployment", "Service", "PodDisruptionBudget"}
    more = {"HorizontalPodAutoscaler", "NetworkPolicy", "ServiceMonitor"}
    assert set(objects) == (kinds | more if values else kinds)
    pod = objects["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"] == labels == {"app": "shop"}
    memory = {key: each["memory"] for key, each in container["resources"].items()}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["spec"]["volumes"]}
    if not values:
        assert memory == {"requests": "2040Mi", "limits": "3400Mi"}
        assert container["args"] == ["--threads", "2"]
        return
    # Two exports of each version are in memory while a new one replaces the old one.
    assert memory == {"requests": "6120Mi", "limits": "20400Mi"}
    tried = ["--canary", "/export/next=0.05", "--shadow", "/export/next"]
    common = ["--threads", "2", "--follow", "30"]
    assert container["args"] == [*common, *tried, "--precision", "int8"]
    assert "replicas" not in objects["Deployment"]["spec"], "the autoscaler sets it"
    (metric,) = objects["HorizontalPodAutoscaler"]["spec"]["metrics"]
    adapter = YAML(typ="safe").load(DEPLOY / "prometheus-adapter.yaml")["rules"][0]
    assert metric["pods"]["metric"]["name"] == adapter["name"]["as"]
    (rule,) = objects["NetworkPolicy"]["spec"]["ingress"]
    assert rule["from"] == EVERYTHING["networkPolicy"]["from"]  # type: ignore[index]


def test_unknown_and_wrong_values_are_refused(tmp_path: Path) -> None:
    for setting in ("replica=3", "memoryMi=1.5Gi", "autoscaling.maximum=4", "canary=next"):
        done = helm("template", "shop", DEPLOY / "helm", "--set", setting)
        assert done.returncode
        assert setting.partition("=")[0].rpartition(".")[2] in done.stderr
