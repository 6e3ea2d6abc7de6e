"""Checkpoints in the original code's format, imported, put to use, and written back."""

import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import albef
from albef.cli import main
from albef.commands.importing import export_original, import_original, track, write
from albef.config import validate
from albef.models.original import sizes_of
from albef.models.weights import CheckpointError, load_checkpoint
from tests import original as originals
from tests.conftest import save_task, tiny_task
from tests.original import TOKENS, run_values

HEADS = (3, 4)


def original(name: str) -> dict[str, Tensor]:
    """A checkpoint as the original code saves it: with what it ties, shares and counts."""
    state = originals.weights(originals.fixture(name))
    for key, tensor in list(state.items()):
        if key.endswith(".position_embeddings.weight"):
            stem = key.removesuffix("position_embeddings.weight")
            state[f"{stem}position_ids"] = torch.arange(len(tensor))[None]
        if key.endswith(".cls.predictions.bias"):
            stem = key.removesuffix(".cls.predictions.bias")
            words = state[f"{stem}.bert.embeddings.word_embeddings.weight"]
            state[f"{stem}.cls.predictions.decoder.weight"] = words
            state[f"{stem}.cls.predictions.decoder.bias"] = tensor
        layer = re.fullmatch(r"(.+\.layer\.)(\d+)(\.crossattention\.self\.(?:key|value)\..+)", key)
        if layer and name in ("nlvr2", "text_assignment"):  # the second of a pair has the same
            state[f"{layer[1]}{int(layer[2]) + 1}{layer[3]}"] = tensor
    return state


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(TOKENS) + "\n")
    return path


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(state: object, name: str = "original.pth") -> Path:
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return save


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_there_and_back_again_nothing_changes(save: Save, vocabulary: Path, tmp_path: Path) -> None:
    for name, kind, size, max_tokens in (
        ("pretrain", "pretraining", 48, 25),
        ("retrieval", "retrieval", 32, 30),
        ("vqa", "vqa", 32, 25),
        ("entailment", "entailment", 32, 30),
        ("text_assignment", "text_assignment", 32, 25),
        ("nlvr2", "nlvr2", 32, 30),
    ):
        state = original(name)
        width = state["visual_encoder.cls_token"].shape[-1]
        heads = (2, 4) if name == "vqa" else HEADS
        path = save({"model": state, "epoch": 3})
        folder = tmp_path / name
        write(import_original(path, tokenizer=vocabulary, heads=heads), folder)
        checkpoint = load_checkpoint(folder)
        assert checkpoint.kind == kind
        assert checkpoint.model.image.model_dump() == {
            "image_size": size, "patch_size": 16, "width": width, "depth": 3, "heads": heads[0]
        }  # fmt: skip
        assert checkpoint.model.text.model_dump() == {
            "width": 32, "depth": 4, "fusion_depth": 2, "heads": 4, "intermediate": 64,
            "max_positions": 40, "dropout": 0.1,
        }  # fmt: skip
        assert checkpoint.config["values"]["max_tokens"] == max_tokens
        assert checkpoint.config["text"] == {"sep": False}
        if kind in ("entailment", "nlvr2", "text_assignment"):  # `init` of a run of its kind
            module = import_module(f"albef.tasks.{kind}")
            values = run_values(kind, image_size=32)
            started = module.Task.start(validate(module.Config, values, where="test"), checkpoint)
            assert_equal(started.state_dict(), checkpoint.tensors)
        export_original(folder, tmp_path / "back.pth")
        assert_equal(torch.load(tmp_path / "back.pth", weights_only=True)["model"], state)
    assert not list(tmp_path.glob("*.part"))


def test_a_stem_that_the_original_lacks_is_not_written(tmp_path: Path) -> None:
    task = tiny_task()
    task.sizes = task.sizes.model_copy(
        update={"image": task.sizes.image.model_copy(update={"stem": "convolutions"})}
    )
    save_task(task, tmp_path)
    with pytest.raises(CheckpointError, match="convolutions"):
        export_original(tmp_path, tmp_path / "back.pth")


def test_an_imported_checkpoint_is_put_to_use(
    save: Save, vocabulary: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text('["w8", "w9 w10"]')
    vqa: dict[str, Any] = {"heads": (2, 4)}
    for name, call, options in (
        ("pretrain", "match", {}),
        ("retrieval", "ground", {"kind": "grounding", "image_size": 48}),
        ("vqa", "ask", vqa | {"answers": answers}),
        ("entailment", "entail", {}),
        ("nlvr2", "compare", {}),
    ):
        how: dict[str, Any] = {"tokenizer": vocabulary, "heads": HEADS, **options}
        write(import_original(save(original(name)), **how), tmp_path / name)
        model = albef.load(tmp_path / name)
        assert model.main == call
        assert model.facts.image_size == options.get("image_size", 48 if name == "pretrain" else 32)
        images = [pictures[:1]] * (2 if name == "nlvr2" else 1)
        assert len(getattr(model, call)(*images, ["w8 w9"])) == 1
    write(import_original(save(original("vqa")), tokenizer=vocabulary, **vqa), tmp_path / "without")
    with pytest.raises(CheckpointError, match="has no list of answers"):
        albef.load(tmp_path / "without")


def without(state: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {n: t for n, t in state.items() if not any(part in n for part in parts)}


def test_what_does_not_fit_is_named(save: Save, vocabulary: Path) -> None:
    pretrain, retrieval = original("pretrain"), original("retrieval")
    words = {"text_encoder.cls.predictions.decoder.weight": torch.zeros(211, 32)}
    pair = {"text_encoder.encoder.layer.3.crossattention.self.key.bias": torch.ones(32)}
    cases: list[tuple[object, str]] = [
        (
            without(retrieval, "itm_head.bias"),
            "does not fit kind retrieval: 1 tensors missing: itm_head.bias",
        ),
        (retrieval | {"lm_head.weight": torch.zeros(1)}, "1 tensors left over: lm_head.weight"),
        (without(pretrain, "_m."), "tensors missing: visual_encoder_m.cls_token"),
        (pretrain | words, "1 tensors that must equal others differ: text_encoder.cls.predictions"),
        (
            original("nlvr2") | pair,
            r"1 tensors that must equal others differ: \S+layer.3.\S+ is not \S+layer.2.\S+",
        ),
        (
            {"conv1.weight": torch.zeros(2, 2)},
            "is not a checkpoint of the original code: it has conv1.weight",
        ),
        (
            retrieval | {"text_proj.weight": torch.zeros(16, 31)},
            r"1 tensors of another shape: model.text_proj.weight \(16, 31\), expected \(16, 32\)",
        ),
        ([1, 2], "no mapping of names to weights"),
        ({"a": torch.zeros(1), "b": 3}, "no mapping of names to weights"),
    ]
    for state, message in cases:
        with pytest.raises(CheckpointError, match=message):
            import_original(save(state), tokenizer=vocabulary, heads=HEADS)


def test_options_that_do_not_fit_are_named(save: Save, vocabulary: Path) -> None:
    path = save(original("retrieval"))
    for options, message in (
        ({"heads": None}, "heads of 64 do not divide the image encoder's width 48"),
        ({"heads": (3, 5)}, "5 heads do not divide the text encoder's width 32"),
        ({"image_size": -32}, "--image-size is -32; it must be 1 to 4096"),
        ({"image_size": 0}, "--image-size is 0"),
        ({"image_size": 1_600_000}, "--image-size is 1600000"),
        ({"image_size": 40}, "image_size 40 is not a multiple of patch_size 16"),
        ({"kind": "pretraining"}, "does not fit kind pretraining: .* missing"),
        ({"kind": "retrieve"}, "no kind 'retrieve'; did you mean retrieval"),
        ({"answers": vocabulary}, "--answers is for vqa, but .* is of kind retrieval"),
    ):
        with pytest.raises(ValueError, match=message):
            import_original(path, **{"tokenizer": vocabulary, "heads": HEADS, **options})  # type: ignore[arg-type]
    vocabulary.write_text("\n".join(TOKENS[:200]) + "\n")
    with pytest.raises(CheckpointError, match=r"embeds 211 tokens, but .* has 200"):
        import_original(path, tokenizer=vocabulary, heads=HEADS)


class Code:
    """What a pickle can hold besides data."""

    def __init__(self, function: Any, argument: str) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> Any:
        return self.call


def test_a_file_with_code_is_refused_and_nothing_is_run(
    save: Save, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for function, argument, name in (
        (os.system, "touch executed", "posix.system"),
        (eval, "open('executed', 'w')", "eval"),
    ):
        state = {"model": original("retrieval"), "x": Code(function, argument)}
        with pytest.raises(CheckpointError, match=rf"code besides tensors \({name}\)"):
            import_original(save(state), tokenizer=vocabulary)
    assert not (tmp_path / "executed").exists()


def test_damaged_and_compressed_bytes_are_refused(
    save: Save, vocabulary: Path, tmp_path: Path
) -> None:
    path = save(original("retrieval"))
    whole = path.read_bytes()
    weights = original("retrieval")["visual_encoder.cls_token"].numpy().tobytes()
    at = whole.index(weights)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CheckpointError, match="is damaged; download the file again"):
        import_original(path, tokenizer=vocabulary, heads=HEADS)
    path.write_bytes(whole)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed"):
        import_original(packed, tokenizer=vocabulary, heads=HEADS)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_unusual_tensors_are_named(save: Save, vocabulary: Path) -> None:
    state = original("retrieval")
    bias, positions = "itm_head.bias", "visual_encoder.pos_embed"
    bad = state[bias].clone()
    bad[1] = torch.nan
    for change, message in (
        ({bias: bad}, f"{bias} contains NaN or Inf"),
        ({bias: bad / 0}, f"{bias} contains NaN or Inf"),
        ({bias: torch.ones(2).to_sparse()}, f"{bias} is sparse"),
        ({bias: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "is .* quantized"),
        ({bias: torch.ones(2, device="meta")}, f"{bias} is .* without values"),
        ({bias: torch.ones(2, dtype=torch.complex64)}, "has type torch.complex64"),
        ({bias: torch.ones(2, dtype=torch.int64)}, "has type torch.int64"),
        ({bias: torch.ones(1).expand(10**6, 1000)}, "fewer values than its shape"),
        ({"temp": torch.zeros(())}, "temp is 0.0; it must be above 0"),
        ({positions: torch.zeros(1, 7, 48)}, "pos_embed has 7 positions"),
        ({positions: torch.zeros(5)}, r"pos_embed has shape \(5,\), not 3 dimensions"),
        ({"visual_encoder_m.pos_embed": torch.zeros(1, 7, 48)}, "of another shape: model_m"),
        ({"idx_queue": torch.zeros((), dtype=torch.int64)}, "of another shape: queue.ids"),
        ({"image_queue": torch.zeros(16)}, "of another shape: queue.image"),
        ({"\x1b[31mred": torch.zeros(1)}, r"left over: \\u001b\[31mred"),
    ):
        with pytest.raises(CheckpointError, match=message):
            import_original(save(state | change), tokenizer=vocabulary, heads=HEADS)
    imported = import_original(
        save(state | {"queue_ptr": torch.tensor(8)}), tokenizer=vocabulary, heads=HEADS
    )
    assert imported.tensors["queue.pointer"] == 8


def test_a_file_that_is_cut_off_or_missing_is_named(save: Save, vocabulary: Path) -> None:
    path = save(original("retrieval"))
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist"):
        import_original(path.with_name("nowhere.pth"))
    with pytest.raises(CheckpointError, match=r"is a folder, and .* add --back"):
        import_original(path.parent)
    for kept in (100_000, 20_000, 40, 0):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(CheckpointError, match="damaged or cut off"):
            import_original(path, tokenizer=vocabulary, heads=HEADS)


def command(*arguments: object) -> object:
    """The exit code of `albef import` in the working folder."""
    with pytest.raises(SystemExit) as caught:
        main(["import", *map(str, arguments)])
    return caught.value.code


def project(folder: Path) -> None:
    """A git and DVC project."""
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n")


def test_the_command_imports_tracks_and_refuses(
    save: Save,
    vocabulary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    source = save(original("retrieval"))
    project(tmp_path)
    (tmp_path / "models").mkdir()
    options = ("--tokenizer", vocabulary.name, "--heads", 3, 4)
    assert command(source.name, "models/mine", *options) == 0
    done = capsys.readouterr().out
    assert "models/mine: kind retrieval, 277 tensors" in done
    assert "add models/mine.dvc to git" in done
    assert (tmp_path / "models/mine.dvc").is_file()

    assert command(source.name, "models/mine", *options) == 2
    again = capsys.readouterr()
    assert again.out == ""
    assert "models/mine exists already" in again.err

    assert command("models/mine/model.safetensors", "models/again", *options) == 2
    ours = capsys.readouterr().err
    assert "is a safetensors file, not a checkpoint of the original code" in ours
    assert "set `init`" in ours

    below = f"{source.name}/mine"
    for target, reason in ((below, "Not a directory"), ("/proc/mine", "No such file")):
        assert command(source.name, target, *options) == 2
        error = capsys.readouterr().err
        assert "Errno" not in error
        assert ".part" not in error
        assert reason in error

    kept = source.read_bytes()
    assert command("models/mine", source.name, "--back") == 2
    assert f"{source.name} exists already" in capsys.readouterr().err
    assert source.read_bytes() == kept

    source.write_bytes(b"")
    assert command(source.name, "models/cut", *options) == 2
    cut = capsys.readouterr().err
    assert cut.startswith("albef import: original.pth is not a checkpoint of torch")
    assert sorted(p.name for p in (tmp_path / "models").iterdir() if p.name != ".gitignore") == [
        "mine", "mine.dvc"
    ]  # fmt: skip


def test_what_is_not_tracked_is_reported(tmp_path: Path) -> None:
    assert (
        track(tmp_path / "models" / "mine")
        == "not tracked by DVC: the folder is outside a DVC project"
    )
    project(tmp_path)
    (tmp_path / ".gitignore").write_text("models\n")
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert track(tmp_path / "models" / "mine").startswith("not tracked by DVC: run `dvc add")


def test_a_tensor_with_and_without_its_prefix_is_refused(save: Save, vocabulary: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in original("retrieval").items()}
    path = save(state | {"itm_head.bias": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"itm_head\.bias twice.*prefix module"):
        import_original(path, tokenizer=vocabulary, heads=HEADS)


def test_a_pointer_outside_the_queue_is_refused(save: Save, vocabulary: Path) -> None:
    state = original("retrieval")
    size = state["image_queue"].shape[1]
    for pointer in (-1, size):
        path = save(state | {"queue_ptr": torch.tensor([pointer])})
        with pytest.raises(CheckpointError, match=rf"queue_ptr is {pointer}.*has {size} entries"):
            import_original(path, tokenizer=vocabulary, heads=HEADS)


@pytest.mark.parametrize(("blocks", "layers"), [(12, 12), (11, 12), (12, 11)])
def test_a_checkpoint_without_a_layer_is_refused_unless_it_is_so_by_design(
    blocks: int, layers: int
) -> None:
    shapes = {
        "visual_encoder.patch_embed.proj.weight": (768, 3, 16, 16),
        "visual_encoder.pos_embed": (1, 197, 768),
        "text_encoder.embeddings.position_embeddings.weight": (512, 768),
        "vision_proj.weight": (256, 768),
    }
    shapes |= {f"visual_encoder.blocks.{i}.norm1.weight": (768,) for i in range(blocks)}
    layer = "text_encoder.encoder.layer"
    shapes |= {f"{layer}.{i}.intermediate.dense.weight": (3072, 768) for i in range(layers)}
    shapes |= {f"{layer}.{i}.crossattention.self.key.bias": (768,) for i in range(6, layers)}
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found = sizes_of(tensors, "retrieval", where="x.pth", heads=(12, 12))
    assert (found.image.depth, found.text.depth) == (blocks, layers)
    if (blocks, layers) == (12, 12):
        assert sizes_of(tensors, "retrieval", where="x.pth", heads=None) == found
    else:
        with pytest.raises(CheckpointError, match=f"has {blocks} layers.*and {layers}.*--heads"):
            sizes_of(tensors, "retrieval", where="x.pth", heads=None)
