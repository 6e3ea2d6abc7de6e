"""A model repository for Triton, read by Triton's own schema."""

import json
import subprocess
from pathlib import Path

import pytest

from albef.commands.triton import main
from albef.io import file_digest
from albef.runtime import manifest as manifests
from albef.runtime.manifest import ExportError, graph_file

READ = """
import json, sys
from pathlib import Path
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

texts = [path.read_text() for path in sorted(Path(sys.argv[1]).glob("*/config.pbtxt"))]
configs = [text_format.Parse(text, ModelConfig()) for text in texts]
print(json.dumps([json_format.MessageToDict(config) for config in configs]))
"""


def test_a_repository_has_each_graph_with_its_tensors(
    tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(tiny_export, out := tmp_path / "triton", "int8", 4)
    manifest = manifests.read(tiny_export)
    assert capsys.readouterr().out.endswith(f"repository with {', '.join(manifest.graphs)}\n")
    assert {path.name for path in out.iterdir()} == set(manifest.graphs)
    for graph in manifest.graphs:
        source = tiny_export / graph_file("int8", graph)
        assert file_digest(out / graph / "1" / "model.onnx") == file_digest(source)
    text = (out / "text_encoder" / "config.pbtxt").read_text()
    assert 'input { name: "ids" data_type: TYPE_INT64 dims: [-1] }' in text
    assert 'output { name: "text_feat" data_type: TYPE_FP32 dims: [8] }' in text
    assert "max_batch_size: 4\n" in text


def test_it_refuses_what_it_cannot_write(tiny_export: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no precision float16; known: float32, int8"):
        main(tiny_export, tmp_path / "new", "float16", 8)
    with pytest.raises(ValueError, match="exists; remove it"):
        main(tiny_export, tmp_path, None, 8)
    with pytest.raises(ExportError, match="is not an export"):
        main(tmp_path, tmp_path / "new", None, 8)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retrieval", "vqa"])
def test_tritons_own_schema_reads_the_configurations(
    tiny_exports: dict[str, Path], kind: str, tmp_path: Path, triton_client: Path
) -> None:
    main(tiny_exports[kind], out := tmp_path / "triton", None, 8)
    done = subprocess.run([triton_client, "-c", READ, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    configs = {each["name"]: each for each in json.loads(done.stdout)}
    assert set(configs) == {path.name for path in out.iterdir()}
    for config in configs.values():
        assert config["platform"] == "onnxruntime_onnx"
        assert config["maxBatchSize"] == 8
        assert config["input"]
        assert config["output"]
