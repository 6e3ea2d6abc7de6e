"""Alert rules and the dashboard use metrics that a server has, and alerts fire when they should."""

import json
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

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "alerts.yaml"
NEEDS_PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Prometheus's own tool reads its rules"
)


def rules() -> list[dict[str, Any]]:
    (group,) = read_yaml(RULES)["groups"]
    return list(group["rules"])


def expressions() -> list[str]:
    """Expressions of the dashboard, with the variables that Grafana fills in."""
    panels = json.loads((DEPLOY / "dashboard.json").read_text())["panels"]
    texts = [target["expr"] for panel in panels for target in panel["targets"]]
    return [re.sub(r"\$__\w+", "5m", text) for text in texts]


def test_rules_the_dashboard_and_the_adapter_use_metrics_that_a_server_has() -> None:
    page = Metrics().page().decode()
    known = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "sum", "count")}
    (adapter,) = read_yaml(DEPLOY / "prometheus-adapter.yaml")["rules"]
    texts = [rule["expr"] for rule in rules()] + expressions() + [adapter["metricsQuery"]]
    for text in texts:
        names = re.findall(r"\b(?:albef|process)_\w+", text)
        assert names, text
        assert set(names) <= known, text
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


SERIES = {
    'albef_request_seconds_bucket{route="/v1/ask",le="2"}': "0+90x90",
    'albef_request_seconds_bucket{route="/v1/ask",le="5"}': "0+100x90",
    'albef_request_seconds_bucket{route="/v1/ask",le="+Inf"}': "0+100x90",
    'albef_requests_total{route="/v1/ask",status="200"}': "0+90x90",
    'albef_requests_total{route="/v1/ask",status="500"}': "0x30 6+6x60",
    'albef_requests_total{route="/v1/ask",status="429"}': "0x30 10+10x60",
    'albef_requests_total{route="/readyz",status="503"}': "0+30x90",  # not a refusal
    'albef_drift{run="retrieval",what="words"}': "0.1x9 0.6x90",
    'albef_drift{run="retrieval",what="width"}': "NaN 0.4x90",
    'albef_looks_total{outcome="failed",instance="a:8080"}': "0x60 1x30",
    'albef_model_written_timestamp_seconds{run="retrieval"}': "-7774200x90",  # 89 days, 23.5 hours
}
"""Series for each alert, one value a minute."""
FIRES = {  # first minute at which an alert fires, its labels, and its summary
    "AlbefIsSlow": (12, {"route": "/v1/ask"}, "99 % of the requests to /v1/ask take up to 4.7 s"),
    "AlbefFails": (38, {"route": "/v1/ask"}, "5.66% of the requests to /v1/ask fail"),
    "AlbefRefuses": (46, {}, "9.434% of the requests are refused because of load"),
    "AlbefTrafficDrifts": (
        41,
        {"run": "retrieval", "what": "words"},
        "words of requests to retrieval diverges by 0.6 nats from validation data",
    ),
    "AlbefCannotFollow": (
        62,
        {"outcome": "failed", "instance": "a:8080"},
        "a:8080 cannot load the new export and keeps serving the old one",
    ),
    "AlbefReleaseIsOld": (
        31,
        {"run": "retrieval"},
        "the served export of retrieval is 90d 0h 1m 0s old",
    ),
}


@NEEDS_PROMTOOL
def test_each_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    assert [rule["alert"] for rule in rules()] == list(FIRES)
    cases = []
    for alert, (minute, labels, summary) in FIRES.items():
        fires = {"exp_labels": labels, "exp_annotations": {"summary": summary}}
        cases.append({"eval_time": f"{minute - 5}m", "alertname": alert})
        cases.append({"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": [fires]})
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": k, "values": v} for k, v in SERIES.items()],
                "alert_rule_test": cases,
            }
        ],
    }
    YAML(typ="safe").dump(tests, file := tmp_path / "tests.yaml")
    promtool("check", "rules", RULES)
    promtool("test", "rules", file)


@NEEDS_PROMTOOL
def test_the_dashboard_counts_requests_by_the_version_that_answers(tmp_path: Path) -> None:
    series = {
        f"{name}{{instance='{instance}',{labels}}}": values
        for instance, digest, count in (("a", "old", 9), ("b", "old", 9), ("c", "new", 2))
        for name, labels, values in (
            ("albef_requests_total", "route='/v1/match',status='200'", f"0+{60 * count}x9"),
            ("albef_model_info", f"run='retrieval',kind='retrieval',digest='{digest}'", "1x9"),
        )
    }
    (expression,) = (
        text for text in expressions() if "requests_total[5m]" in text and "digest" in text
    )
    samples = [
        {"labels": f'{{run="retrieval", digest="{digest}"}}', "value": value}
        for digest, value in (("new", 2), ("old", 18))
    ]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": value} for name, value in series.items()],
        "promql_expr_test": [{"expr": expression, "eval_time": "8m", "exp_samples": samples}],
    }
    YAML(typ="safe").dump({"tests": [case]}, file := tmp_path / "tests.yaml")
    promtool("test", "rules", file)


@NEEDS_PROMTOOL
def test_prometheus_reads_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    records = [{"record": f"panel:{i}", "expr": text} for i, text in enumerate(expressions())]
    groups = {"groups": [{"name": "dashboard", "rules": records}]}
    YAML(typ="safe").dump(groups, file := tmp_path / "dashboard.yaml")
    promtool("check", "rules", file)
