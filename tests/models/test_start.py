"""Start weights against the libraries they come from, on tiny random models; nothing is fetched."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel

from albef.models.albef import ALBEF
from albef.models.bert import attention_bias
from albef.models.start import StartConfig, start_image, start_text
from albef.models.text import MLMHead
from albef.models.weights import CheckpointError
from tests.conftest import tiny_model

VOCABULARY = 50
SIZES = BertConfig(
    vocab_size=VOCABULARY,
    hidden_size=16,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
    initializer_range=0.3,
)


def ours() -> tuple[ALBEF, MLMHead]:
    torch.manual_seed(1)
    config = tiny_model()
    return ALBEF(config, VOCABULARY).eval(), MLMHead(config.text.width, VOCABULARY)


def vit() -> torch.nn.Module:
    torch.manual_seed(0)
    values = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    made = timm.models.vision_transformer.VisionTransformer(**values, num_classes=5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.eval()


def bert(cls: type, folder: Path) -> Any:
    torch.manual_seed(0)
    made = cls(SIZES).eval()
    made.save_pretrained(folder)
    return made


@pytest.mark.parametrize("name", ["vit.pth", "vit.safetensors"])
def test_the_image_encoder_computes_what_timms_model_does(name: str, tmp_path: Path) -> None:
    theirs = vit()
    if name.endswith("safetensors"):
        save_file(theirs.state_dict(), tmp_path / name)
    else:
        torch.save({"model": theirs.state_dict()}, tmp_path / name)
    model, _ = ours()
    start_image(model, str(tmp_path / name))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = theirs.forward_features(images)
        torch.testing.assert_close(model.encode_image(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("cls", "old"), [(BertForMaskedLM, True), (BertForPreTraining, False)])
def test_text_and_fusion_compute_what_bert_does(cls: type, old: bool, tmp_path: Path) -> None:
    theirs = bert(cls, tmp_path)
    if old:  # the names and the file of the first releases
        state = load_file(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        renamed = {
            n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): t
            for n, t in state.items()
        }
        torch.save(renamed, tmp_path / "pytorch_model.bin")
    model, head = ours()
    before = {n: t.clone() for n, t in model.state_dict().items() if "crossattention" in n}
    start_text(model, head, str(tmp_path))
    ids = torch.randint(1, VOCABULARY, (2, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    with torch.no_grad():
        states = model.encode_text(ids, mask)
        for layer in model.fusion_encoder.layer:
            states = layer(states, attention_bias(mask))
        expected = theirs.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        seen = mask.bool()
        torch.testing.assert_close(states[seen], expected[seen], rtol=1e-4, atol=1e-5)
        if cls is BertForMaskedLM:  # the other one keeps its logits under another name
            logits = head(states, model.text_encoder.embeddings.word_embeddings.weight)
            wanted = theirs(input_ids=ids, attention_mask=mask).logits
            torch.testing.assert_close(logits[seen], wanted[seen], rtol=1e-4, atol=1e-5)
    for name, tensor in before.items():  # nothing of BERT belongs there
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_vit_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    state, path = vit().state_dict(), tmp_path / "vit.pth"
    for changed, message in (
        (state | {"dist_token": torch.zeros(1, 1, 24)}, "left over: image_encoder.vit.dist_token"),
        ({n: t for n, t in state.items() if n != "norm.bias"}, "missing: .*norm.bias"),
        (state | {"cls_token": torch.zeros(1, 1, 12)}, r"of another shape: .*cls_token \(1, 1, 12"),
    ):
        torch.save(changed, path)
        with pytest.raises(CheckpointError, match=message):
            start_image(ours()[0], str(path))


def test_a_bert_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    deeper = BertConfig(**(SIZES.to_dict() | {"num_hidden_layers": 5}))
    BertModel(deeper).save_pretrained(tmp_path / "deep")
    with pytest.raises(CheckpointError, match=r"16 tensors left over: bert.encoder.layer.4"):
        start_text(*ours(), str(tmp_path / "deep"))
    larger = BertConfig(**(SIZES.to_dict() | {"vocab_size": 60}))
    BertModel(larger).save_pretrained(tmp_path / "large")
    with pytest.raises(CheckpointError, match="embeds 60 tokens, but the tokenizer has 50; set "):
        start_text(*ours(), str(tmp_path / "large"))


NOWHERE = "http://127.0.0.1:9"
OFFLINE = """
import sys
import torch
from albef.config import validate
from albef.models.albef import ALBEF, ModelConfig
from albef.models.start import start_image, start_text
from albef.models.text import MLMHead
from albef.preprocessing.text import TextTokenizer
try:
    TextTokenizer.load("other/bert")
except ValueError as error:
    print(error, file=sys.stderr)
image = {"image_size": 32, "patch_size": 16, "width": 192, "depth": 12, "heads": 3}
text = {"width": 16, "depth": 4, "fusion_depth": 2, "heads": 2, "intermediate": 32,
        "max_positions": 16, "dropout": 0.1}
sizes = {"image": image, "text": text, "embed_dim": 8}
tokenizer = TextTokenizer.load("some/bert")
model = ALBEF(validate(ModelConfig, sizes, where="test"), tokenizer.vocab_size)
start_image(model, "deit_tiny_patch16_224.fb_in1k")
start_text(model, MLMHead(16, tokenizer.vocab_size), "some/bert")
print(model.image_encoder.vit.cls_token.sum().item())
print(model.text_encoder.embeddings.word_embeddings.weight.sum().item())
"""


def test_without_a_network_the_cache_is_enough_and_an_error_names_the_remedies_at_once(
    tmp_path: Path,
) -> None:
    def cached(name: str) -> Path:
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        snapshot = repository / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        return snapshot

    vit = timm.create_model("deit_tiny_patch16_224", pretrained=False).state_dict()
    save_file(vit, cached("timm/deit_tiny_patch16_224.fb_in1k") / "model.safetensors")
    folder = cached("some/bert")
    words = bert(BertForMaskedLM, folder).bert.embeddings.word_embeddings.weight
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *(f"word{i}" for i in range(VOCABULARY - len(special)))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    sums = [vit["cls_token"].sum().item(), words.sum().item()]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": NOWHERE}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", OFFLINE]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert [float(line) for line in ended.stdout.split()] == pytest.approx(sums, rel=1e-4)
    assert "tokenizer other/bert is neither local nor at the Hugging Face Hub" in ended.stderr
    assert "tokenizer.source: corpus" in ended.stderr
    assert f"{NOWHERE} cannot be reached" in ended.stderr
    assert "HF_HUB_OFFLINE=1" in ended.stderr
    assert "Retrying" not in ended.stderr


def test_what_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="vit_of_nobody is neither a file nor a model"):
        start_image(ours()[0], "vit_of_nobody")
    with pytest.raises(CheckpointError, match=r"has neither model.safetensors nor"):
        start_text(*ours(), str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        start_text(*ours(), str(tmp_path))


def test_the_momentum_model_starts_at_the_student_and_the_digest_depends_on_the_weights(
    tmp_path: Path,
) -> None:
    from albef.tasks.pretraining import Task
    from tests.original import vocabulary
    from tests.tasks.test_pretraining_parity import config

    sizes = BertConfig(
        vocab_size=211, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=40,
    )  # fmt: skip
    theirs = BertForMaskedLM(sizes)
    theirs.save_pretrained(tmp_path)
    start = StartConfig(image=None, text=str(tmp_path))
    task = Task(config(0.4).model_copy(update={"start": start}), vocabulary())
    digests = task.load_start_weights()
    for student, momentum_model in ((task.model, task.model_m), (task.mlm_head, task.mlm_head_m)):
        for name, tensor in student.state_dict().items():
            assert torch.equal(momentum_model.model.state_dict()[name], tensor), name
    assert set(digests) == {"text"}
    assert task.load_start_weights() == digests
    with torch.no_grad():
        theirs.cls.predictions.bias.add_(1)
    theirs.save_pretrained(tmp_path)
    assert task.load_start_weights() != digests
