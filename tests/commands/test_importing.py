"""Checkpoints in the original code's format, imported, put to use, and written back."""

import os
import re
import subprocess
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
from albef.models.weights import CheckpointError, load_checkpoint
from tests import original as originals
from tests.original import TOKENS, run_values

HEADS = (3, 4)
POSITIONS = "image_encoder.vit.pos_embed"


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
        export_original(folder, tmp_path / "back.pth")
        back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
        assert set(back) == set(state)
        for key, tensor in state.items():
            assert torch.equal(back[key], tensor), key
    assert not list(tmp_path.glob("*.part"))


def test_an_imported_checkpoint_is_put_to_use(
    save: Save, vocabulary: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text('["w8", "w9 w10"]')
    vqa: dict[str, Any] = {"heads": (2, 4)}
    for name, call, options in (
        ("pretrain", "match", {}),
        ("retrieval", "ground", {"kind": "grounding"}),
        ("vqa", "ask", vqa | {"answers": answers}),
        ("entailment", "entail", {}),
        ("nlvr2", "compare", {}),
    ):
        how: dict[str, Any] = {"tokenizer": vocabulary, "heads": HEADS, **options}
        write(import_original(save(original(name)), **how), tmp_path / name)
        model = albef.load(tmp_path / name)
        assert model.main == call
        images = [pictures[:1]] * (2 if name == "nlvr2" else 1)
        assert len(getattr(model, call)(*images, ["w8 w9"])) == 1
    write(import_original(save(original("vqa")), tokenizer=vocabulary, **vqa), tmp_path / "without")
    with pytest.raises(CheckpointError, match="has no list of answers"):
        albef.load(tmp_path / "without")


def test_a_run_of_no_epochs_evaluates_an_imported_checkpoint_as_it_is(
    save: Save, vocabulary: Path
) -> None:
    """As `init` of a run of its kind, head and momentum model included."""
    for kind in ("entailment", "nlvr2", "text_assignment"):
        imported = import_original(save(original(kind)), tokenizer=vocabulary, heads=HEADS)
        module = import_module(f"albef.tasks.{kind}")
        values = run_values(kind, image_size=32)
        task = module.Task.start(validate(module.Config, values, where="test"), imported)
        state = task.state_dict()
        assert state.keys() == imported.tensors.keys()
        for name, tensor in imported.tensors.items():
            assert torch.equal(state[name], tensor), name


def test_position_embeddings_of_student_and_twin_are_resized(save: Save, vocabulary: Path) -> None:
    state = original("retrieval")
    taken = import_original(save(state), tokenizer=vocabulary, heads=HEADS, image_size=48)
    expected = originals.fixture("retrieval")["pos_embed/outputs/32to48"]
    assert taken.model.image.image_size == 48
    for twin in ("model.", "model_m.model."):
        resized = taken.tensors[twin + POSITIONS]
        assert resized.shape == expected.shape
        mine = state["visual_encoder_m.pos_embed" if "_m" in twin else "visual_encoder.pos_embed"]
        assert torch.equal(resized[:, 0], mine[:, 0])  # [CLS] is kept apart


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
        (
            retrieval | {"lm_head.weight": torch.zeros(1)},
            "1 tensors left over: lm_head.weight",
        ),
        (without(pretrain, "_m."), "tensors missing: visual_encoder_m.cls_token"),
        (pretrain | words, "1 tensors that must equal others differ: text_encoder.cls.predictions"),
        (
            original("nlvr2") | pair,
            r"1 tensors that must equal others differ: \S+layer.3.\S+ is not \S+layer.2.\S+",
        ),
        (
            {"conv1.weight": torch.zeros(2, 2)},
            "is no checkpoint of the original code: it has conv1.weight",
        ),
        (
            retrieval | {"text_proj.weight": torch.zeros(16, 31)},
            r"1 tensors of another shape: model.text_proj.weight \(16, 31\) for \(16, 32\)",
        ),
        ([1, 2], "holds no weights by name"),
        ({"a": torch.zeros(1), "b": 3}, "holds no weights by name"),
    ]
    for state, message in cases:
        with pytest.raises(CheckpointError, match=message):
            import_original(save(state), tokenizer=vocabulary, heads=HEADS)


def test_options_that_do_not_fit_are_named(save: Save, vocabulary: Path) -> None:
    path = save(original("retrieval"))
    for options, message in (
        ({"heads": None}, "0 heads do not divide the image encoder's width 48"),
        ({"heads": (3, 5)}, "5 heads do not divide the text encoder's width 32"),
        ({"image_size": 40}, "image_size 40 is not a multiple of patch_size 16"),
        ({"kind": "pretraining"}, "does not fit kind pretraining: .* missing"),
        ({"kind": "retrieve"}, "no kind 'retrieve'; did you mean retrieval"),
    ):
        with pytest.raises(ValueError, match=message):
            import_original(path, **{"tokenizer": vocabulary, "heads": HEADS, **options})  # type: ignore[arg-type]
    vocabulary.write_text("\n".join(TOKENS[:200]) + "\n")
    with pytest.raises(CheckpointError, match=r"embeds 211 tokens, but .* has 200"):
        import_original(path, tokenizer=vocabulary, heads=HEADS)


class Code:
    """What a pickle can hold besides data."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_a_file_with_code_is_refused_and_nothing_is_run(
    save: Save, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds code besides tensors \(posix.system\)"):
        import_original(save({"model": original("retrieval"), "x": Code()}), tokenizer=vocabulary)
    assert not (tmp_path / "executed").exists()


def test_a_file_that_is_cut_off_is_named(save: Save, vocabulary: Path) -> None:
    path = save(original("retrieval"))
    for kept in (100_000, 40, 0):
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
    assert "tracked by models/mine.dvc" in done
    assert (tmp_path / "models/mine.dvc").is_file()

    assert command(source.name, "models/mine", *options) == 2
    again = capsys.readouterr()
    assert again.out == ""
    assert "models/mine is there already" in again.err

    source.write_bytes(b"")
    assert command(source.name, "models/cut", *options) == 2
    cut = capsys.readouterr().err
    assert cut.startswith("albef import: original.pth is no checkpoint of torch")
    assert sorted(p.name for p in (tmp_path / "models").iterdir() if p.name != ".gitignore") == [
        "mine", "mine.dvc"
    ]  # fmt: skip


def test_what_is_not_tracked_is_told(tmp_path: Path) -> None:
    assert track(tmp_path / "models" / "mine") == "not tracked: it lies in no DVC project"
    project(tmp_path)
    (tmp_path / ".gitignore").write_text("models\n")
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert track(tmp_path / "models" / "mine").startswith("not tracked: repeat `dvc")
