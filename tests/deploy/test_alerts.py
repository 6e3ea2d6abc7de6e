"""The rules of alarms are of numbers that the server has, and fire when they should."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from albef.config import read_yaml
from albef.serving.metrics import Metrics
from tests.serving.running import running

RULES = Path(__file__).parents[2] / "deploy" / "alerts.yaml"
NEEDS_PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Prometheus's own tool reads its rules"
)


def rules() -> list[dict[str, Any]]:
    (group,) = read_yaml(RULES)["groups"]
    return list(group["rules"])


def test_rules_are_of_numbers_that_a_server_has() -> None:
    page = Metrics().page().decode()
    names = {name for rule in rules() for name in re.findall(r"albef_\w+", rule["expr"])}
    assert names == {"albef_drift", "albef_looks_total"}
    for name in names:
        assert f"# TYPE {name.removesuffix('_total')}" in page
    assert 'albef_looks_total{outcome="failed"} 0.0' in page, "the first failure is an increase"


def promtool(*arguments: object, told: bytes = b"") -> None:
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, input=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()


@NEEDS_PROMTOOL
def test_prometheus_reads_what_a_server_tells(tiny_export: Path) -> None:
    with running([tiny_export]) as server:
        assert server.client.post("/v1/embed/texts", json={"texts": ["a dog"]}).is_success
        promtool("check", "metrics", told=server.client.get("/metrics").content)


@NEEDS_PROMTOOL
def test_alarms_fire_of_what_lasts_and_of_a_failure(tmp_path: Path) -> None:
    labels = 'run="retrieval",what="words"'
    series = {
        f"albef_drift{{{labels}}}": "0.1x9 0.6x60",
        f"albef_drift{{{labels.replace('words', 'width')}}}": "NaN 0.4x60",
        'albef_looks_total{outcome="failed",instance="a:8080"}': "0x60 1x9",
    }
    summary = "words of requests to retrieval diverges by 0.6 nats from validation data"
    alarm = {
        "exp_labels": {"run": "retrieval", "what": "words"},
        "exp_annotations": {"summary": summary},
    }
    failed = {
        "exp_labels": {"outcome": "failed", "instance": "a:8080"},
        "exp_annotations": {
            "summary": "a:8080 cannot load the new export and keeps serving the old one"
        },
    }
    drifts, follows = (rule["alert"] for rule in rules())
    expected = [
        {"eval_time": "39m", "alertname": drifts},
        {"eval_time": "41m", "alertname": drifts, "exp_alerts": [alarm]},
        {"eval_time": "60m", "alertname": follows},
        {"eval_time": "62m", "alertname": follows, "exp_alerts": [failed]},
    ]
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": k, "values": v} for k, v in series.items()],
                "alert_rule_test": expected,
            }
        ],
    }
    YAML(typ="safe").dump(tests, file := tmp_path / "tests.yaml")
    promtool("check", "rules", RULES)
    promtool("test", "rules", file)
