"""Plain PyTorch to compare with: two frozen encoders, two projections, a contrastive loss.

    python -m benchmarks.two_towers products/flickr8k/data/flickr8k --image tf_efficientnet_lite0 \
        --text sentence-transformers/all-MiniLM-L6-v2
"""

import argparse
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from albef.data.image_decoding import decode
from albef.data.shards import Shards
from albef.models.matching import first_rank
from albef.tasks.rates import recalls

Data = tuple[Tensor, Tensor, Tensor]  # images (I, D), texts (T, W), the image of each text
TRAINING = {"epochs": 10, "batch": 512, "dropout": 0.3, "seed": 1}


@torch.inference_mode()
def features(shards: Shards, args: argparse.Namespace) -> Data:
    """Return what the frozen encoders make of images and captions."""
    file = {"pretrained_cfg_overlay": {"file": args.weights}} if args.weights else {}
    network = timm.create_model(args.image, pretrained=True, num_classes=0, **file).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    tokenizer, bert = AutoTokenizer.from_pretrained(args.text), AutoModel.from_pretrained(args.text)
    images, texts, owner = [], [], []
    for i, record in enumerate(shards):
        images.append(network(transform(decode(record.image, record.key))[None]))
        tokens = tokenizer([*record.captions], padding=True, truncation=True, return_tensors="pt")
        mask = tokens["attention_mask"][..., None]
        texts.append((bert.eval()(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1))
        owner += [i] * len(record.captions)
    return torch.cat(images), torch.cat(texts), torch.tensor(owner)


def train(data: Data, args: argparse.Namespace) -> tuple[nn.Linear, nn.Linear]:
    """Return projections of images and of texts, trained with several positives."""
    torch.manual_seed(args.seed)
    image, text, owner = data
    a, b = nn.Linear(image.shape[1], 256), nn.Linear(text.shape[1], 256)
    scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    optimizer = torch.optim.AdamW([*a.parameters(), *b.parameters(), scale], 1e-3, weight_decay=0.1)
    for _ in range(args.epochs):
        for rows in torch.randperm(len(owner)).split(args.batch):
            x = F.normalize(a(F.dropout(image[owner[rows]], args.dropout)), dim=1)
            y = F.normalize(b(F.dropout(text[rows], args.dropout)), dim=1)
            same = (owner[rows][:, None] == owner[rows]).float()
            sim, targets = x @ y.T * scale.exp(), same / same.sum(1, keepdim=True)
            loss = F.cross_entropy(sim, targets) + F.cross_entropy(sim.T, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return a.requires_grad_(False), b.requires_grad_(False)


def main() -> None:
    """Train on the train split, and print the recalls on val and test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    for name, default in {"image": "", "text": "", "weights": "", **TRAINING}.items():
        needed = name in ("image", "text")
        parser.add_argument(f"--{name}", type=type(default), default=default, required=needed)
    args = parser.parse_args()
    a, b = train(features(Shards(args.dataset, "train"), args), args)
    for name in ("val", "test"):
        image, text, owner = features(Shards(args.dataset, name), args)
        sim = F.normalize(a(image), dim=1) @ F.normalize(b(text), dim=1).T
        right = torch.arange(len(image))[:, None] == owner
        ranks = first_rank(sim, right).tolist(), first_rank(sim.T, right.T).tolist()
        print(name, "  ".join(f"{key} {value:.1f}" for key, value in recalls(*ranks).items()))


if __name__ == "__main__":
    main()
