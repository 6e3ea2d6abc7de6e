"""The command, in this process where it refuses, and as a process of its own."""

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from albef.serving.serve import serve
from tests.serving.running import PATIENCE, running, serving

BODY = {"texts": ["a dog"]}
HEAVY = ("torch", "timm", "transformers", "prefect", "dvc", "onnx", "pandas", "pyarrow")


def test_nobody_else_is_served_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for tokens, sentence in (
        ("", r"--host 0\.0\.0\.0: whoever reaches it could ask"),
        ("short", "at least 16 characters"),
    ):
        monkeypatch.setenv("ALBEF_TOKENS", tokens)
        with pytest.raises(ValueError, match=sentence):
            serve([Path("export")], host="0.0.0.0")


def test_what_cannot_be_served_is_a_sentence(tiny_exports: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such folder"):
        serve([tmp_path], gallery=Path("/nowhere"))
    with pytest.raises(ValueError, match=r"only RUN#STAGE comes with signatures, and .* is a fold"):
        serve([Path("retrieval#prod"), tmp_path], key=Path("albef.pub"))
    with pytest.raises(ValueError, match="holds no export"), running([tmp_path]):
        pass
    server = running([tiny_exports["vqa"]], gallery=tmp_path)
    with pytest.raises(ValueError, match="no export here embeds pictures"), server:
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
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert out.strip() == "[]"
    messages = {json.loads(line)["message"] for line in err.splitlines()}
    assert messages == {"request", "SIGTERM: finishing what was accepted"}


@contextlib.contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Where OpenTelemetry sends spans by HTTP, and what came."""
    spans: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                spans.append(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", spans
        finally:
            server.shutdown()


def test_a_span_of_opentelemetry_belongs_to_the_trace_of_the_client(
    tiny_export: Path, tmp_path: Path
) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    start = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
    albef = Path(sys.executable).with_name("albef")
    with (
        collector() as (endpoint, spans),
        serving(
            *("-c", start, albef, "serve", tiny_export, "--port", 0),
            cwd=tmp_path,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        ) as (process, address),
    ):
        asked = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        answer = httpx.post(f"{address}/v1/embed/texts", json=BODY, headers=asked, timeout=PATIENCE)
        assert answer.is_success
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert any(b"POST /v1/embed/texts" in sent and bytes.fromhex(trace) in sent for sent in spans)
    assert trace in {json.loads(line).get("trace") for line in err.splitlines()}
