"""The method as it is told, one pass after another: the baseline of the fast paths.

The modules, the attention kernel and the text lengths are those of the fast paths. What differs:
every pass computes the image's keys and values, the text's first self-attention and every row of
the last fusion layer anew, the vocabulary is projected at all positions, nothing is batched across
passes, the queue is copied, and loops stand where the fast paths have one call.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from albef.loading.reading import Batch
from albef.losses.distill import ramp
from albef.losses.mlm import IGNORED
from albef.models.albef import ALBEF
from albef.models.matching import NOT_RANKED
from albef.models.momentum import FeatureQueue
from albef.tasks.pretraining import TEMPERATURE_BOUNDS, Task


def fused(model: ALBEF, text_states: Tensor, mask: Tensor, image_states: Tensor) -> Tensor:
    """A pass of its own through the fusion encoder: all ``fused_states`` (B, L, D)."""
    image = model.fusion_encoder.image_key_values(image_states)
    return model.fuse(text_states, mask, image)


@torch.no_grad()
def begin_step(task: Task) -> None:
    """Clamp the temperature and update the momentum models, tensor by tensor."""
    task.temperature.clamp_(*TEMPERATURE_BOUNDS)
    momentum = task.config.momentum
    for student, ema in ((task.model, task.model_m), (task.mlm_head, task.mlm_head_m)):
        for mine, theirs in zip(ema.model.parameters(), student.parameters(), strict=True):
            mine.data = mine.data * momentum + theirs.data * (1 - momentum)


def losses(task: Task, batch: Batch, epoch: float) -> dict[str, Tensor]:
    """The three losses and momentum features of B pairs."""
    config, model, ema = task.config, task.model, task.model_m.model
    mask = batch["text_mask"]
    size = len(mask)

    image_states = model.encode_image(batch["image"])
    text_states = model.encode_text(batch["ids"], mask)
    image_feat, text_feat = model.image_feat(image_states), model.text_feat(text_states)
    with torch.no_grad():
        image_states_m = ema.encode_image(batch["image"])
        image_feat_m = ema.image_feat(image_states_m)
        text_feat_m = ema.text_feat(ema.encode_text(batch["ids"], mask))
        images = torch.cat([image_feat_m.t(), task.queue.image.clone().t()], dim=1)
        texts = torch.cat([text_feat_m.t(), task.queue.text.clone().t()], dim=1)

    itc = image_feat.new_zeros(())
    sims = []
    for feat, feat_m, candidates in (
        (image_feat, image_feat_m, texts),
        (text_feat, text_feat_m, images),
    ):
        sim = feat @ candidates / task.temperature
        with torch.no_grad():
            alpha = config.alpha_itc * ramp(epoch)
            soft = F.softmax(feat_m @ candidates / task.temperature, dim=1)
            targets = alpha * soft + (1 - alpha) * torch.eye(
                size, candidates.shape[1], device=sim.device
            )
        itc = itc - (F.log_softmax(sim, dim=1) * targets).sum(dim=1).mean() / 2
        sims.append(sim)

    neg_text, neg_image = (_drawn(sim.detach()[:, :size]) for sim in sims)
    positive = fused(model, text_states, mask, image_states)[:, 0]
    negative = fused(
        model,
        torch.cat([text_states, torch.stack([text_states[i] for i in neg_text])]),
        torch.cat([mask, torch.stack([mask[i] for i in neg_text])]),
        torch.cat([torch.stack([image_states[i] for i in neg_image]), image_states]),
    )[:, 0]
    labels = torch.zeros(3 * size, dtype=torch.long, device=mask.device)
    labels[:size] = 1
    itm = F.cross_entropy(task.itm_head(torch.cat([positive, negative])).float(), labels)

    logits = _masked_logits(task, batch, image_states, ema=False)
    with torch.no_grad():
        logits_m = _masked_logits(task, batch, image_states_m, ema=True)
    labels = torch.full_like(batch["ids"], IGNORED)  # a place that is only padding is [CLS]'s
    labels = labels.scatter(1, batch["mlm_positions"], batch["mlm_labels"])
    alpha = config.alpha_mlm * ramp(epoch)
    hard = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    distilled = -(F.log_softmax(logits, dim=2) * F.softmax(logits_m, dim=2)).sum(dim=2)
    masked = labels != IGNORED
    mlm = (1 - alpha) * hard + alpha * (distilled * masked).sum() / masked.sum()
    return {
        "loss": itc + itm + mlm,
        "itc": itc.detach(),
        "itm": itm.detach(),
        "mlm": mlm.detach(),
        "image_feat_m": image_feat_m,
        "text_feat_m": text_feat_m,
    }


@torch.no_grad()
def enqueue(queue: FeatureQueue, image_feat: Tensor, text_feat: Tensor) -> None:
    """Write a batch over the oldest pairs; its size divides that of the queue."""
    start = int(queue.pointer)
    queue.image[start : start + len(image_feat)] = image_feat.float()
    queue.text[start : start + len(text_feat)] = text_feat.float()
    ids = torch.arange(len(image_feat)).view(-1, *[1] * (queue.ids.ndim - 1))
    queue.ids[start : start + len(image_feat)] = ids
    queue.pointer.fill_((start + len(image_feat)) % len(queue.image))


def optimizer(task: Task, lr: float, weight_decay: float) -> AdamW:
    """AdamW, tensor by tensor."""
    learned = [parameter for parameter in task.parameters() if parameter.requires_grad]
    return AdamW(learned, lr=lr, weight_decay=weight_decay, foreach=False, fused=False)


def _drawn(sim: Tensor) -> list[int]:
    """A negative for each row, in proportion to its similarity."""
    weights = F.softmax(sim.float(), dim=1)
    weights.fill_diagonal_(0)
    return [int(torch.multinomial(row, 1).item()) for row in weights]


def _masked_logits(task: Task, batch: Batch, image_states: Tensor, *, ema: bool) -> Tensor:
    """Logits (B, L, V) at every position of the masked texts."""
    model = task.model_m.model if ema else task.model
    head = task.mlm_head_m.model if ema else task.mlm_head
    states = model.encode_text(batch["masked_ids"], batch["text_mask"])
    states = fused(model, states, batch["text_mask"], image_states)
    table = model.text_encoder.words
    logits: Tensor = head(states, table)
    return logits.float()


@torch.no_grad()
def reranked(
    model: ALBEF,
    itm_head: nn.Linear,
    states: tuple[Tensor, Tensor, Tensor],
    sim: Tensor,
    k: int,
    *,
    by_text: bool = False,
) -> Tensor:
    """Raw ITM logits of the best ``k`` candidates of each query, :data:`NOT_RANKED` elsewhere.

    Args:
        model: the model.
        itm_head: linear, 2 classes.
        states: of images (I, N, D), of texts (T, L, D), and the mask (T, L) of these.
        sim: (I, T) similarities by ITC; (T, I) if texts are the queries. The result has its shape.
        k: how many are re-ranked.
        by_text: true if texts are the queries.
    """
    images, texts, mask = states
    result = torch.full(sim.shape, NOT_RANKED)
    for row, scores in enumerate(sim):
        best = scores.topk(min(k, len(scores))).indices
        query = torch.full_like(best, row)
        image, text = (best, query) if by_text else (query, best)
        fused_states = fused(model, texts[text], mask[text], images[image])
        result[row, best] = itm_head(fused_states[:, 0])[:, 1].float()
    return result
