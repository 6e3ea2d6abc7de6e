import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

import albef
from albef.io import file_digest
from albef.runtime import manifest, sessions
from albef.runtime.manifest import ExportError


def test_runs_on_what_is_really_there(tiny_export: Path) -> None:
    model = albef.runtime.load(tiny_export)
    expected = sessions.CUDA if sessions._has_cuda() else sessions.CPU
    assert model.backend.providers[0] == expected
    named = albef.runtime.load(tiny_export, providers=[sessions.CPU])
    assert named.backend.providers == [sessions.CPU]


def test_a_provider_that_is_not_there_is_refused(tiny_export: Path) -> None:
    with pytest.raises(ExportError, match=r"has no MagicProvider; it has .*CPUExecutionProvider"):
        albef.runtime.load(tiny_export, providers=["MagicProvider"])
    with pytest.raises(ExportError, match="empty list"):
        albef.runtime.load(tiny_export, providers=[])


@pytest.mark.skipif(
    sessions._has_cuda() or sessions.CUDA not in ort.get_available_providers(),
    reason="needs onnxruntime-gpu on a machine without a GPU",
)
def test_cuda_without_a_gpu_is_refused(tiny_export: Path) -> None:
    with pytest.raises(ExportError, match="there is no NVIDIA driver here"):
        albef.runtime.load(tiny_export, providers=[sessions.CUDA])


def test_a_session_that_fell_back_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    sessions._check_provider(sessions.CUDA, sessions.CUDA, named=True)
    with pytest.raises(ExportError, match="CUDAExecutionProvider does not work here"):
        sessions._check_provider(sessions.CPU, sessions.CUDA, named=True)
    assert caplog.text == ""
    sessions._check_provider(sessions.CPU, sessions.CUDA, named=False)
    assert "running on CPUExecutionProvider" in caplog.text


def test_a_graph_that_cannot_be_read_is_named(tiny_export: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_export, tmp_path / "retrieval"))
    name = manifest.graph_file("float32", "matcher")
    (folder / name).write_bytes(b"no graph")
    found = manifest.read(tiny_export)
    files = {**found.files, name: file_digest(folder / name)}
    manifest.write(folder, found.model_copy(update={"files": files}))
    with pytest.raises(ExportError, match=r"cannot load .*matcher/1/model\.onnx"):
        albef.runtime.load(folder)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("sys.modules['onnxruntime'] = None", "there is no ONNX Runtime here .*: install "),
        ("sys.path.insert(0, '.')", "onnxruntime and onnxruntime-gpu are both installed and .*: "),
    ],
)
def test_no_onnx_runtime_and_two_are_a_sentence(
    setting: str, sentence: str, tmp_path: Path
) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
    program = f"import sys; {setting}; import albef.runtime"
    environment = os.environ | {"PYTHONPATH": str(Path(albef.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert re.search(sentence + ".*extra cpu, or with gpu", done.stderr), done.stderr
    assert done.returncode == ("None" in setting)


def test_onnx_runtime_sends_and_keeps_nothing(tiny_export: Path, tmp_path: Path) -> None:
    program = f"import albef.runtime; albef.runtime.load({str(tiny_export)!r})"
    apart = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", program],
        env=apart | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
    )
    assert not list(tmp_path.iterdir())
