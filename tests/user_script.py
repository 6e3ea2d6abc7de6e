"""What a user writes, checked by mypy in strict mode; tests/test_api.py runs it."""

import numpy as np
import torch

import albef


def similarity(checkpoint: str, export: str) -> float:
    """Return the largest difference of torch and ONNX Runtime."""
    text: np.ndarray = albef.load(checkpoint).embed_text("a dog")
    same: np.ndarray = albef.runtime.load(export).embed_text("a dog")
    return float(np.abs(text - same).max())


def losses(checkpoint: albef.Checkpoint, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """Return ITC and MLM of pairs."""
    tokenizer = checkpoint.tokenizer
    model = albef.create_model(checkpoint.model, tokenizer.vocab_size, pretrained=False)
    model.load_state_dict(checkpoint.part("model"))
    momentum_model = albef.MomentumModel(model)
    queue = albef.FeatureQueue(8, model.sizes.embed_dim)
    ids, mask = (torch.from_numpy(array) for array in tokenizer.encode(texts, max_tokens=12))
    image_feat = model.image_feat(model.encode_image(images))
    text_feat = model.text_feat(model.encode_text(ids, mask))
    image_feat_m = momentum_model.model.image_feat(momentum_model.model.encode_image(images))
    hard = albef.same_image_targets(torch.arange(len(ids)), queue.ids)
    itc = albef.itc_loss(
        image_feat, text_feat, image_feat_m, text_feat.detach(), queue.image, queue.text,
        temperature=torch.tensor(0.07), hard=hard, alpha=0.0,
    )  # fmt: skip
    index, valid = albef.hard_negatives(itc.sim_i2t[:, : len(ids)], torch.eye(len(ids)) > 0)
    layers = model.fusion_encoder.image_key_values(model.encode_image(images))
    fused: torch.Tensor = model.fuse(model.encode_text(ids, mask), mask, layers)
    head = albef.MLMHead(model.sizes.fused.width, tokenizer.vocab_size)
    logits: torch.Tensor = head(fused, model.text_encoder.words)
    mlm = albef.mlm_loss(logits.flatten(0, 1), ids.flatten(), None, alpha=0.0)
    assert index.shape == valid.shape
    return itc.loss + mlm
