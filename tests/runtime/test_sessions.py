import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import albef
from albef.export.calibration import sketched
from albef.export.folder import export
from albef.io import file_digest
from albef.models.weights import load_checkpoint
from albef.runtime import manifest, sessions
from albef.runtime.manifest import ExportError
from tests.conftest import CAPTIONS, KINDS, NEEDS_CUDA, tiny_validation

OPENVINO = "OpenVINOExecutionProvider"


def test_runs_on_what_is_really_there_and_refuses_the_rest(tiny_export: Path) -> None:
    named = albef.runtime.load(tiny_export, providers=[sessions.CPU])
    assert named.backend.providers == [sessions.CPU]
    with pytest.raises(ExportError, match=r"MagicProvider.*has .*CPUExecutionProvider"):
        albef.runtime.load(tiny_export, providers=["MagicProvider"])
    with pytest.raises(ExportError, match=r"providers \[\]"):
        albef.runtime.load(tiny_export, providers=[])


def test_a_session_that_fell_back_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    sessions._check_provider(sessions.CUDA, sessions.CUDA, explicit=True)
    with pytest.raises(ExportError, match="CUDAExecutionProvider does not work"):
        sessions._check_provider(sessions.CPU, sessions.CUDA, explicit=True)
    assert caplog.text == ""
    sessions._check_provider(sessions.CPU, sessions.CUDA, explicit=False)
    assert "run on CPUExecutionProvider" in caplog.text


def test_a_graph_that_cannot_be_read_is_named(tiny_export: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_export, tmp_path / "retrieval"))
    name = manifest.graph_file("float32", "matcher")
    (folder / name).write_bytes(b"no graph")
    found = manifest.read(tiny_export)
    files = {**found.files, name: file_digest(folder / name)}
    manifest.write(folder, found.model_copy(update={"files": files}))
    with pytest.raises(ExportError, match=r"cannot load .*matcher/1/model\.onnx"):
        albef.runtime.load(folder)


def asked(model: Any, pictures: list[bytes], *, one: bool = False) -> np.ndarray:
    """What a model of any kind says of three pictures, or of one three times, as numbers."""
    images = [pictures[0 if one else i] for i in range(3)]
    again = [images[::-1]] if model.main == "compare" else []
    said = getattr(model, model.main)(images, *again, CAPTIONS[:3])
    if model.main == "ground":
        said = [(found.probability, *found.heat.flat) for found in said]
    elif model.main == "ask":
        said = [[answer.probability for answer in best] for best in said]
    elif model.main != "match":
        said = [list(each.values()) for each in said]
    return np.asarray(said)


def test_states_that_stay_where_they_were_computed_give_equal_answers(
    tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    for kind in KINDS:
        model = albef.runtime.load(tiny_exports[kind], providers=[sessions.CPU])
        for one in (False, True):
            model.backend.device = None
            expected = asked(model, pictures, one=one)
            model.backend.device = "cpu"  # as on a card, but for the copies
            np.testing.assert_array_equal(asked(model, pictures, one=one), expected, kind)
    states = model.encode_image(model.pixels(pictures[:2]))
    assert isinstance(states.keys, sessions.OnDevice)
    assert states.take([0, 1]).keys is states.keys
    assert states.keys.nbytes == np.asarray(states.keys).nbytes
    model.backend.device = None
    swapped = model.encode_image(model.pixels(pictures[:2])).keys[[1, 0]]
    np.testing.assert_array_equal(states.take([1, 0]).keys, swapped)


@NEEDS_CUDA
def test_a_card_answers_as_the_processor_does(
    tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    for folder in tiny_exports.values():
        card = albef.runtime.load(folder, providers=[sessions.CUDA, sessions.CPU])
        assert card.backend.device == albef.runtime.load(folder).backend.device == "cuda"
        expected = asked(albef.runtime.load(folder, providers=[sessions.CPU]), pictures)
        np.testing.assert_allclose(asked(card, pictures), expected, atol=1e-3)


@pytest.mark.skipif(
    OPENVINO not in sessions.ort.get_available_providers(), reason="needs onnxruntime-openvino"
)
def test_openvino_answers_as_the_default_does(
    tiny_checkpoint: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    export(
        load_checkpoint(tiny_checkpoint), tmp_path, run="retrieval", opset=22, tolerance=1e-3,
        precisions=("float32",),
        sketch=partial(sketched, records=tiny_validation("retrieval", pictures)),
    )  # fmt: skip
    model = albef.runtime.load(tmp_path, providers=[OPENVINO, sessions.CPU])
    assert model.backend.providers[0] == OPENVINO
    expected = asked(albef.runtime.load(tmp_path, providers=[sessions.CPU]), pictures)
    np.testing.assert_allclose(asked(model, pictures), expected, atol=1e-3)


def test_no_onnx_runtime_and_two_are_a_sentence(tmp_path: Path) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(albef.__file__).parents[1])}
    for setting, sentence, code in (
        ("sys.modules['onnxruntime'] = None", "ONNX Runtime is not installed ", 1),
        ("sys.path.insert(0, '.')", "onnxruntime and onnxruntime-gpu are both installed ", 0),
    ):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {setting}; import albef.runtime"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            check=False,
        )
        assert re.search(sentence + ".*extra cpu, or gpu", done.stderr), done.stderr
        assert done.returncode == code


def test_onnx_runtime_sends_and_keeps_nothing(tiny_export: Path, tmp_path: Path) -> None:
    program = f"import albef.runtime; albef.runtime.load({str(tiny_export)!r})"
    apart = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", program],
        env=apart | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
    )
    assert not list(tmp_path.iterdir())
