"""The wheel in an empty environment, from pip's index: what serves, and nothing that trains."""

import os
import subprocess
import venv
from pathlib import Path

import httpx
import numpy as np
import pytest

import albef.runtime
from tests.deploy.test_nginx import process, wait_for

ROOT = Path(__file__).parents[2]
PORT = 8083


@pytest.mark.slow
def test_the_wheel_serves_without_torch(tiny_export: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    apart = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments: object, code: int = 0) -> str:
        command = [str(each) for each in (python, *arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=apart, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    make = ["make", "--directory", str(ROOT), "wheel", f"PYTHON={python}", f"WHEELS={tmp_path}"]
    subprocess.run(make, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    run("-m", "pip", "install", "-c", ROOT / "constraints.txt", f"{wheel}[serving]")
    missing = run("-m", "albef.cli", "serve", tiny_export, code=2)
    assert missing.startswith("albef serve: ONNX Runtime is not installed"), missing
    assert len(missing.splitlines()) == 1
    run("-m", "pip", "install", "-c", ROOT / "constraints.txt", f"{wheel}[serving,cpu]")
    listed = run("-m", "pip", "list")
    assert "onnxruntime " in listed
    assert not {"torch", "onnxruntime-gpu", "prefect", "dvc"} & set(listed.split())
    command = [str(python.with_name("albef")), "serve", str(tiny_export), "--port", str(PORT)]
    with process(command, apart):
        wait_for(PORT)
        base = f"http://127.0.0.1:{PORT}"
        answer = httpx.post(f"{base}/v1/embed/texts", json={"texts": ["two frogs"]}).json()
        page = httpx.get(f"{base}/page.js").status_code
    ours = albef.runtime.load(tiny_export).embed_text(["two frogs"])
    np.testing.assert_allclose(answer["embeddings"], ours, atol=1e-6)
    assert page == 200
