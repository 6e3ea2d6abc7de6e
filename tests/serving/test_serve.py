"""The command, as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.runtime.test_sessions import HEAVY

ROOT = str(Path(__file__).parents[2])
SERVE = [sys.executable, "-m", "albef.cli", "serve"]


def refused(*arguments: str, **environment: str) -> str:
    """What the command says before it gives up."""
    done = subprocess.run(
        [*SERVE, *arguments],
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 or "Usage" in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from albef.cli import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('numpy', 'fastapi', 'onnxruntime', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ALBEF_TOKENS" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_nobody_else_is_served_without_a_token(tiny_export: Path) -> None:
    told = refused(str(tiny_export), "--host", "0.0.0.0", ALBEF_TOKENS="")
    assert told.startswith("albef serve: --host 0.0.0.0: whoever reaches it could ask")
    told = refused(str(tiny_export), "--host", "0.0.0.0", ALBEF_TOKENS="short")
    assert "at least 16 characters" in told


def test_what_cannot_be_served_is_a_sentence(tiny_export: Path, tmp_path: Path) -> None:
    assert "holds no export" in refused(str(tmp_path))
    assert "there is no such folder" in refused(str(tiny_export), "--gallery", "/nowhere")
    assert "Invalid value for '--port'" in refused(str(tiny_export), "--port", "70000")
    assert "has no precision int9" in refused(str(tiny_export), "--precision", "int9")


def test_a_process_serves_without_torch_and_ends_well(tiny_export: Path, tmp_path: Path) -> None:
    program = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print([n for n in {HEAVY} if n in sys.modules]))\n"
        "from albef.cli import main\n"
        f"main(['serve', {str(tiny_export)!r}, '--port', '0'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": ROOT, "ALBEF_TOKENS": ""},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            line = json.loads(process.stderr.readline())
            address = line["message"].removeprefix("serving at ")
            body = {"texts": ["a dog"]}
            answer = httpx.post(f"{address}/v1/embed/texts", json=body, timeout=60)
            assert answer.is_success
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # else leaving the block would wait for a server that nobody stops
    assert process.returncode == 0
    assert out.strip() == "[]"
    lines = [json.loads(line) for line in err.splitlines()]
    messages = {line["message"] for line in lines}
    assert messages == {"request", "SIGTERM: finishing what was accepted"}
