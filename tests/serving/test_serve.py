"""The command, in this process where it refuses, and as a process of its own."""

import inspect
import json
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from albef.cli import main
from albef.serving.serve import serve
from tests.serving.running import PATIENCE, error, running, serving

BODY = {"texts": ["a dog"]}
HEAVY = ("torch", "timm", "transformers", "prefect", "dvc", "onnx", "pandas", "pyarrow")


def test_nobody_else_is_served_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for tokens, message in (
        ("", r"--host 0\.0\.0\.0 .* set ALBEF_TOKENS"),
        ("short", "at least 16 characters"),
    ):
        monkeypatch.setenv("ALBEF_TOKENS", tokens)
        with pytest.raises(ValueError, match=message):
            serve([Path("export")], host="0.0.0.0")


def test_the_command_has_few_options() -> None:
    assert len(inspect.signature(serve).parameters) - 1 <= 20  # all but the exports


def test_what_cannot_be_served_is_an_error(
    tiny_exports: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="--gallery /nowhere is not a folder"):
        serve([tmp_path], gallery=Path("/nowhere"))
    with pytest.raises(ValueError, match=r"--key .* only RUN#STAGE has a signature"):
        serve([Path("retrieval#prod"), tmp_path], key=Path("albef.pub"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 is in use"):
            serve([tiny_exports["vqa"]], port=port)
        with pytest.raises(ValueError, match=f"^{tmp_path}"):  # whatever else is wrong
            serve([tmp_path], port=port)
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(tmp_path)])
    assert ended.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err
    with pytest.raises(ValueError, match=str(tmp_path)), running([tmp_path]):
        pass
    server = running([tiny_exports["vqa"]], gallery=tmp_path)
    with pytest.raises(ValueError, match="--gallery needs an export"), server:
        pass
    server = running([tiny_exports["retrieval"]], indexes=Path("/proc/none"))
    with pytest.raises(ValueError, match="--indexes /proc/none: cannot write"), server:
        pass


def test_a_process_serves_without_torch_and_ends_well(tiny_export: Path, tmp_path: Path) -> None:
    program = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print([n for n in {HEAVY} if n in sys.modules]))\n"
        "from albef.cli import main\n"
        f"main(['serve', {str(tiny_export)!r}, '--port', '0'])\n"
    )
    with serving("-W", "error", "-c", program, cwd=tmp_path) as (process, address):
        answer = httpx.post(f"{address}/v1/embed/texts", json=BODY, timeout=PATIENCE)
        assert answer.is_success
        assert error(httpx.get(f"{address}/nothing")) == (404, "not_found")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert out.strip() == "[]"
    messages = {json.loads(line)["message"] for line in err.splitlines()}
    assert messages == {"request", "SIGTERM: finishing accepted requests"}


def test_a_span_of_opentelemetry_belongs_to_the_trace_of_the_client(
    tiny_export: Path, tmp_path: Path
) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    start = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
    albef = Path(sys.executable).with_name("albef")
    command = ["-c", start, albef, "serve", tiny_export, "--port", 0]
    told = {f"OTEL_{what}_EXPORTER": "none" for what in ("METRICS", "LOGS")}
    told["OTEL_TRACES_EXPORTER"] = "console"
    with serving(*command, cwd=tmp_path, **told) as (process, address):
        asked = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        answer = httpx.post(f"{address}/v1/embed/texts", json=BODY, headers=asked, timeout=PATIENCE)
        assert answer.is_success
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert '"name": "POST /v1/embed/texts"' in out
    assert f'"trace_id": "0x{trace}"' in out
    assert trace in {json.loads(line).get("trace") for line in err.splitlines()}
