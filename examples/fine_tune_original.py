"""Fine-tune a checkpoint of the original code for retrieval, in a loop of your own.

python examples/fine_tune_original.py ALBEF.pth photos fine-tuned

The folder has images and, for each, a file of the same name with a caption: a.jpg and a.txt."""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import albef


class Retrieval(nn.Module):
    """The parts of a checkpoint that retrieval trains; names are those of the checkpoint."""

    def __init__(self, checkpoint: albef.Checkpoint) -> None:
        super().__init__()
        vocab_size = checkpoint.tokenizer.vocab_size
        self.model = albef.create_model(checkpoint.model, vocab_size, pretrained=False)
        self.model.load_state_dict(checkpoint.part("model"))
        self.itm_head = nn.Linear(checkpoint.model.fused.width, 2)
        self.itm_head.load_state_dict(checkpoint.part("itm_head"))
        self.temperature = nn.Parameter(checkpoint.tensors["temperature"].clone())

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return ITC over the batch, and ITM with hard negatives, of B pairs."""
        model, size = self.model, len(ids)
        states, texts = model.encode_image(images), model.encode_text(ids, mask)
        feats = model.image_feat(states), model.text_feat(texts)
        queue, hard = feats[0][:0], albef.one_hot_targets(size, size, ids.device)
        itc = albef.itc_loss(*feats, *feats, queue, queue, self.temperature, hard, alpha=0.0)
        i = torch.arange(size, device=ids.device)
        image, has_image = albef.hard_negatives(itc.sim_t2i, i[:, None] == i)
        text, has_text = albef.hard_negatives(itc.sim_i2t, i[:, None] == i)
        rows, columns = torch.cat([i, i, text]), torch.cat([i, image, i])
        layers = model.fusion_encoder.image_key_values(states)
        pairs = [(keys[columns], values[columns]) for keys, values in layers]
        logits = self.itm_head(model.fused_cls(texts[rows], mask[rows], pairs))
        labels = torch.cat([i >= 0, i < 0, i < 0]).long()  # The first B pairs match.
        valid = torch.cat([i >= 0, has_image, has_text])
        return itc.loss, albef.itm_loss(logits, labels, valid)


def main(arguments: list[str] | None = None) -> None:
    """Fine-tune, print the losses, and save a checkpoint that albef.load and albef run read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("original", "photos", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--tokenizer", default="bert-base-uncased")
    parser.add_argument("--heads", type=int, nargs=2, help="for sizes other than the paper's")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args(arguments)
    checkpoint = albef.import_original(args.original, tokenizer=args.tokenizer, heads=args.heads)
    task, tokenizer, rng = Retrieval(checkpoint), checkpoint.tokenizer, np.random.default_rng(0)
    texts = sorted(args.photos.glob("*.txt"))
    files = [next(p for p in text.parent.glob(f"{text.stem}.*") if p != text) for text in texts]
    transform = albef.Transform(albef.AugmentConfig(), checkpoint.model.image.image_size)
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-5, weight_decay=0.02)
    for step in range(args.steps):
        batch = rng.permutation(len(files))[:32]
        pixels = np.stack([transform(files[i].read_bytes(), rng) for i in batch])
        captions = [tokenizer.clean(texts[i].read_text(), max_words=30) for i in batch]
        ids, mask = map(torch.from_numpy, tokenizer.encode(captions, max_tokens=30))
        itc, itm = task(albef.normalize_pixels(torch.from_numpy(pixels)), ids, mask)
        optimizer.zero_grad()
        (itc + itm).backward()
        optimizer.step()
        print(f"{step} itc {itc.item():.3f} itm {itm.item():.3f}")
    values = {"max_tokens": 30, "image_size": checkpoint.model.image.image_size}
    parts = {"model": checkpoint.model, "tensors": task.state_dict(), "tokenizer": tokenizer}
    albef.save_checkpoint(args.out, kind="retrieval", values=values, **parts)


if __name__ == "__main__":
    main()
