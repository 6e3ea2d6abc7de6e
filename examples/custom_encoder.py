"""Use an image encoder of your own: train it two steps, save it, and export it.

python examples/custom_encoder.py

Registered in timm, it has a name like any other: also in `pretrain.model.image` of a preset."""

import tempfile
from pathlib import Path

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

import albef

IMAGE = {"timm": "tiny_convolutions", "pretrained": False, "image_size": 32}
TEXT = {"width": 32, "depth": 2, "fusion_depth": 1, "heads": 2, "intermediate": 64}
SIZES = {"image": IMAGE, "text": {**TEXT, "max_positions": 32, "dropout": 0.1}, "embed_dim": 16}
CAPTIONS = ["a dog left of an apple", "two frogs above a key", "a red fox", "three squids"]
NORMALIZATION = {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
default_cfgs = generate_default_cfgs({"tiny_convolutions": NORMALIZATION})


class TinyConvolutions(nn.Module):
    """Two convolutions; a state for each 8 x 8 patch, and their mean as the pooled state."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.num_features, self.feature_info = width, [{"reduction": 8}]
        self.blocks = nn.ModuleList(
            [nn.Conv2d(3, width, 4, stride=4), nn.Conv2d(width, width, 2, stride=2)]
        )

    def forward_features(self, images: Tensor) -> Tensor:
        """Return a map of features (B, D, S / 8, S / 8)."""
        return self.blocks[1](torch.relu(self.blocks[0](images)))

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the pooled state (B, D)."""
        return features.mean(dim=(2, 3))


@register_model
def tiny_convolutions(pretrained: bool = False, **options: object) -> nn.Module:
    """Return the network; timm's name for it is the name of this function."""
    return TinyConvolutions()


def main(folder: Path) -> None:
    """Train with ITC, then compare the saved checkpoint with its export."""
    torch.manual_seed(0)
    tokenizer = albef.TextTokenizer.train(CAPTIONS, vocab_size=80)
    model = albef.create_model(SIZES, tokenizer.vocab_size)
    temperature = nn.Parameter(torch.tensor(0.07))
    optimizer = torch.optim.AdamW([*model.parameters(), temperature], lr=1e-3)
    ids, mask = map(torch.from_numpy, tokenizer.encode(CAPTIONS, max_tokens=25))
    for step in range(2):
        image_feat = model.image_feat(model.encode_image(torch.randn(len(ids), 3, 32, 32)))
        feats = image_feat, model.text_feat(model.encode_text(ids, mask))
        queue, hard = image_feat[:0], albef.one_hot_targets(len(ids), len(ids), ids.device)
        loss = albef.itc_loss(*feats, *feats, queue, queue, temperature, hard, alpha=0.0).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"{step} itc {loss.item():.3f}")
    task = nn.ModuleDict({"model": model, "itm_head": nn.Linear(32, 2)})
    tensors = {**task.state_dict(), "temperature": temperature}
    values = {"max_tokens": 25, "itm": False}  # ITM was not trained.
    parts = {"model": model.sizes, "tensors": tensors, "tokenizer": tokenizer, "values": values}
    albef.save_checkpoint(folder / "model", kind="retrieval", **parts)
    albef.export_onnx(folder / "model", folder / "export")
    torch_text = albef.load(folder / "model").embed_text("a red fox")
    onnx_text = albef.runtime.load(folder / "export").embed_text("a red fox")
    print(f"torch and ONNX differ by at most {abs(torch_text - onnx_text).max():.0e}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
