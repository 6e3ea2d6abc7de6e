"""Two frozen encoders, two projections and a contrastive loss: the plain script to compare with.

    python -m benchmarks.two_towers products/flickr8k/data/flickr8k --image tf_efficientnet_lite0 \
        --text sentence-transformers/all-MiniLM-L6-v2

It reads a dataset of this project, but uses no model, loss or train loop of it.
"""

import argparse
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from albef.data.image_decoding import decode
from albef.data.shards import Shards
from albef.models.matching import first_rank
from albef.tasks.rates import recalls


@torch.inference_mode()
def features(shards: Shards, args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Return features of I images (I, D) and T captions (T, W), and the image of each caption."""
    network = timm.create_model(args.image, pretrained=not args.weights, num_classes=0).eval()
    if args.weights:
        network.load_state_dict(load_file(args.weights), strict=False)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    tokenizer, bert = AutoTokenizer.from_pretrained(args.text), AutoModel.from_pretrained(args.text)
    images, texts, owner = [], [], []
    for start in range(0, len(shards), 32):
        rows = [shards[i] for i in range(start, min(start + 32, len(shards)))]
        images.append(network(torch.stack([transform(decode(it.image, it.key)) for it in rows])))
        captions = [text for it in rows for text in it.captions]
        owner += [start + i for i, it in enumerate(rows) for _ in it.captions]
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        mask = tokens["attention_mask"][..., None]
        states = bert.eval()(**tokens).last_hidden_state
        texts.append((states * mask).sum(1) / mask.sum(1))
    return torch.cat(images), torch.cat(texts), torch.tensor(owner)


def towers_of(data: dict[str, Any], args: argparse.Namespace) -> nn.ModuleList:
    """Return projections of images and of texts, trained with several positives."""
    image, text, owner = data["train"]
    widths = image.shape[1], text.shape[1]
    towers = nn.ModuleList(
        nn.Sequential(nn.Dropout(args.dropout), nn.Linear(n, 256)) for n in widths
    )
    scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    optimizer = torch.optim.AdamW([*towers.parameters(), scale], lr=1e-3, weight_decay=0.1)
    for _ in range(args.epochs):
        for rows in torch.randperm(len(owner)).split(args.batch):
            a, b = towers[0](image[owner[rows]]), towers[1](text[rows])
            same = (owner[rows][:, None] == owner[rows]).float()
            targets = same / same.sum(1, keepdim=True)
            sim = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T * scale.exp()
            loss = F.cross_entropy(sim, targets) + F.cross_entropy(sim.T, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return towers.eval()


def main() -> None:
    """Train on the train split, and print the recalls on val and test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    for name in ("image", "text", "weights"):
        parser.add_argument(f"--{name}", required=name != "weights")
    for name, default in (("epochs", 10), ("batch", 512), ("dropout", 0.3), ("seed", 1)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()
    data = {name: features(Shards(args.dataset, name), args) for name in ("train", "val", "test")}
    torch.manual_seed(args.seed)
    towers = towers_of(data, args).requires_grad_(False)
    for name in ("val", "test"):
        image, text, owner = data[name]
        sim = F.normalize(towers[0](image), dim=1) @ F.normalize(towers[1](text), dim=1).T
        right = torch.arange(len(image))[:, None] == owner
        ranks = first_rank(sim, right).tolist(), first_rank(sim.T, right.T).tolist()
        print(name, "  ".join(f"{key} {value:.1f}" for key, value in recalls(*ranks).items()))


if __name__ == "__main__":
    main()
