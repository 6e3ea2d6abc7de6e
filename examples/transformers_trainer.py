"""Train the model with the Trainer of Hugging Face transformers.

pip install accelerate
python examples/transformers_trainer.py
"""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import albef

IMAGE = {"image_size": 32, "patch_size": 8, "width": 64, "depth": 2, "heads": 4}
TEXT = {"width": 64, "depth": 4, "fusion_depth": 2, "heads": 4, "intermediate": 128}
SIZES = {"image": IMAGE, "text": {**TEXT, "max_positions": 32, "dropout": 0.1}, "embed_dim": 32}
COLORS = {"red": 0, "green": 1, "blue": 2}


class Contrast(nn.Module):
    """The adapter: a model whose forward returns the loss, as the Trainer expects."""

    def __init__(self, model: albef.ALBEF) -> None:
        super().__init__()
        self.model, self.temperature = model, nn.Parameter(torch.tensor(0.07))

    def forward(self, image: Tensor, ids: Tensor, text_mask: Tensor) -> dict[str, Tensor]:
        """Return the contrastive loss of B pairs, without a momentum model and a queue."""
        image_feat = self.model.image_feat(self.model.encode_image(image))
        text_feat = self.model.text_feat(self.model.encode_text(ids, text_mask))
        hard = albef.one_hot_targets(len(ids), len(ids), ids.device)
        none = image_feat[:0], text_feat[:0]
        feats = image_feat, text_feat, image_feat, text_feat
        return {"loss": albef.itc_loss(*feats, *none, self.temperature, hard, alpha=0.0).loss}


def train(folder: str, steps: int = 30) -> list[float]:
    """Train on one image of each color; return the losses of the logged steps."""
    tokenizer = albef.TextTokenizer.train([f"a {color} square" for color in COLORS], 60)
    rng = np.random.default_rng(0)

    def collate(rows: list[dict[str, object]]) -> dict[str, Tensor]:
        texts = [f"a {row['color']} square" for row in rows]
        ids, mask = map(torch.from_numpy, tokenizer.encode(texts, max_tokens=25))
        pixels = rng.standard_normal((len(rows), 3, 32, 32)).astype(np.float32)
        for square, row in zip(pixels, rows, strict=True):
            square[COLORS[str(row["color"])]] += 2
        return {"image": torch.from_numpy(pixels), "ids": ids, "text_mask": mask}

    torch.manual_seed(0)
    model = albef.create_model(SIZES, tokenizer.vocab_size)
    arguments = TrainingArguments(
        folder, max_steps=steps, per_device_train_batch_size=3, learning_rate=1e-3, logging_steps=5,
        remove_unused_columns=False, save_strategy="no", report_to="none", use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    data = [{"color": color} for color in COLORS]
    trainer = Trainer(Contrast(model), arguments, data_collator=collate, train_dataset=data)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    print(train("trained"))
