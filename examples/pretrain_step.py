"""Pre-train in a loop of your own: ITC, ITM with hard negatives, MLM, and the momentum model.

python examples/pretrain_step.py"""

import numpy as np
import torch
from torch import Tensor, nn

import albef

IMAGE = {"image_size": 32, "patch_size": 8, "width": 64, "depth": 2, "heads": 4}
TEXT = {"width": 64, "depth": 4, "fusion_depth": 2, "heads": 4, "intermediate": 128}
SIZES = {"image": IMAGE, "text": {**TEXT, "max_positions": 32, "dropout": 0.1}, "embed_dim": 32}
CAPTIONS = ["a dog left of an apple", "two frogs above a key", "a red fox", "three squids"]


class Pretraining(nn.Module):
    """The model, and the parts that only pre-training needs."""

    def __init__(self, sizes: albef.ModelConfig | dict, vocab_size: int, queue_size: int) -> None:
        super().__init__()
        self.model = albef.create_model(sizes, vocab_size)
        width = self.model.sizes.fused.width
        self.itm_head, self.mlm_head = nn.Linear(width, 2), albef.MLMHead(width, vocab_size)
        self.model_m, self.mlm_head_m = map(albef.MomentumModel, (self.model, self.mlm_head))
        self.queue = albef.FeatureQueue(queue_size, self.model.sizes.embed_dim)
        self.temperature = nn.Parameter(torch.tensor(0.07))

    def forward(self, batch: dict[str, Tensor], alpha: float = 0.4) -> tuple[dict, tuple]:
        """Return the three losses of B pairs, and their momentum features."""
        model, queue, mask, size = self.model, self.queue, batch["text_mask"], len(batch["ids"])
        images, texts, feats, words = encode(model, self.mlm_head, batch)
        _, _, feats_m, words_m = encode(self.model_m.model, self.mlm_head_m, batch)
        options = self.temperature, albef.one_hot_targets(size, size + len(queue.ids), mask.device)
        itc = albef.itc_loss(*feats, *feats_m, queue.image, queue.text, *options, alpha)
        i = torch.arange(size, device=mask.device)
        image, has_image = albef.hard_negatives(itc.sim_t2i[:, :size], i[:, None] == i)
        text, has_text = albef.hard_negatives(itc.sim_i2t[:, :size], i[:, None] == i)
        rows, columns = torch.cat([i, i, text]), torch.cat([i, image, i])
        pairs = [(keys[columns], values[columns]) for keys, values in images]
        logits = self.itm_head(model.fused_cls(texts[rows], mask[rows], pairs))
        labels = torch.cat([i >= 0, i < 0, i < 0]).long()  # The first B pairs match.
        itm = albef.itm_loss(logits, labels, torch.cat([i >= 0, has_image, has_text]))
        mlm = albef.mlm_loss(words, batch["ids"][batch["chosen"]], words_m, alpha)
        return {"itc": itc.loss, "itm": itm, "mlm": mlm}, feats_m


def encode(model: albef.ALBEF, mlm_head: nn.Module, batch: dict[str, Tensor]) -> tuple:
    """Return images as fusion reads them, texts, the features of both, and masked words' logits."""
    mask, states = batch["text_mask"], model.encode_image(batch["image"])
    images = model.fusion_encoder.image_key_values(states)
    texts = model.encode_text(batch["ids"], mask)
    fused = model.fuse(model.encode_text(batch["masked_ids"], mask), mask, images)
    words = mlm_head(fused[batch["chosen"]], model.text_encoder.words)
    return images, texts, (model.image_feat(states), model.text_feat(texts)), words


def main(steps: int = 10) -> None:
    """Pre-train on random images, and print the losses."""
    tokenizer = albef.TextTokenizer.train(CAPTIONS, vocab_size=80)
    task = Pretraining(SIZES, tokenizer.vocab_size, queue_size=16)
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    ids, mask = tokenizer.encode(CAPTIONS, max_tokens=25)
    for step in range(steps):
        masked, chosen = albef.mask_tokens(ids, mask, tokenizer, 0.15, np.random.default_rng(step))
        arrays = {"ids": ids, "text_mask": mask, "masked_ids": masked, "chosen": chosen}
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        task.temperature.data.clamp_(0.001, 0.5)
        task.model_m.update(task.model, momentum=0.995)
        task.mlm_head_m.update(task.mlm_head, momentum=0.995)
        losses, feats_m = task(batch | {"image": torch.randn(len(ids), 3, 32, 32)})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        task.queue.enqueue(*feats_m, torch.arange(len(ids)))
        print(step, *(f"{name} {loss.item():.3f}" for name, loss in losses.items()))


if __name__ == "__main__":
    main()
