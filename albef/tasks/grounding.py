"""Grounding of referring expressions, trained without boxes, like retrieval on expressions.

The Grad-CAM map of an expression shows the regions that the model uses. Among proposed boxes, the
task chooses the one with the most heat relative to the root of its area (ALBEF, section 6.2).
"""

import io
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from albef.data.boxes import (
    GRID,
    MIN_IOU,
    around,
    enlarged,
    hottest,
    in_pixels,
    iou,
    recall,
    regions,
)
from albef.data.record import Record
from albef.loading.reading import Records
from albef.models.albef import ModelConfig
from albef.models.gradcam import itc_maps, itm_maps
from albef.preprocessing.text import TextTokenizer
from albef.tasks.pairs import PairConfig, PairTask
from albef.tasks.rates import Validation, accuracies
from albef.tasks.task import Table, extend, joined

if TYPE_CHECKING:
    from albef.runtime.model import Model


class Config(PairConfig):
    """Values of a grounding run."""

    gradcam: Literal["itm", "itc"] | None = "itm"
    """Source of the heat map. ``itm`` is ITM's Grad-CAM on a fusion layer, ``itc`` is ITC's
    Grad-CAM on a block of the image encoder. null is the mean attention of the text's tokens in a
    fusion layer, without gradient; an export computes the same map."""
    layer: Annotated[int, Field(ge=0)] = 2
    """Index of the fusion layer or block for the map, from 0. The paper uses ITM with the third of
    six layers, 2."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the map's peak. Cells with at least this share belong to the box of the map."""

    @model_validator(mode="after")
    def _check_itm(self) -> Self:
        if not self.itm:
            raise ValueError("grounding needs itm: true, which reads texts and images together")
        return self


class Task(PairTask):
    """Grounding; with 0 epochs, the weights of its ``init`` without training."""

    primary: ClassVar[str] = "accuracy"
    metrics = "albef.metrics.boxes"
    does = (
        "locates in an image what a text describes (`ground`), and scores how well an image and a "
        "text match (`match`)"
    )
    hub = "zero-shot-object-detection"
    capability = "grounding"

    def __init__(self, config: Config, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, model, tokenizer)
        self.gradient = "gradcam" if config.gradcam else ""
        is_itc = self.reads_pixels = config.gradcam == "itc"
        blocks = len(self.model.image_encoder.attentions())
        if is_itc and not blocks:
            raise ValueError(
                "gradcam: itc needs an image encoder whose first token pools, such as a ViT with "
                "[CLS]; set gradcam to itm"
            )
        depth = blocks if is_itc else model.fused.fusion_depth
        if config.layer >= depth:
            noun = "blocks of the image encoder" if is_itc else "fusion layers"
            raise ValueError(
                f"layer {config.layer} does not exist: the model has {depth} {noun}; choose 0 to "
                f"{depth - 1}"
            )

    @torch.no_grad()
    def maps(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the heat map (B, n, n) of each image (B, 3, H, W) for its text (B, L)."""
        text_states = self.model.encode_text(ids, mask)
        if self.config.gradcam == "itc":
            text_feat, temperature = self.model.text_feat(text_states), self.temperature.detach()
            return itc_maps(self.model, images, text_feat, temperature, self.config.layer)
        states = text_states, mask, self.model.encode_image(images)
        layer, gradient = self.config.layer, self.config.gradcam is not None
        return itm_maps(self.model, self.itm_head, *states, layer, gradient=gradient).mean(1)

    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """Predict a box for each record's expression.

        A record's ``meta`` has the true ``box``. It may have ``proposals``, the candidate boxes,
        and ``type``, the kind of its expression. A row has:

        - ``box``, the best proposal, or the map's box without proposals; None without heat.
        - ``iou``, the IoU of ``box`` with ``truth``.
        - ``map_box`` and ``map_iou``, the map's box and its IoU.
        - ``share``, the share of proposals that are right.
        - ``heat``, the map (n, n) as bytes, with 255 at its peak.

        The map of an exported model is attention without Grad-CAM's gradient.
        """
        table: Table = {}
        for rows, images in self.read(records, batch_size, model):
            for record in rows:
                check_record(record)
            expressions = [record.captions[0] for record in rows]
            if model is not None:
                grounded = model.ground([record.image for record in rows], expressions)
                maps = [each.heat for each in grounded]
            else:
                ids, mask = self.texts(expressions)
                with torch.autocast(self.device.type, enabled=False):  # gradients are small
                    maps = [*self.maps(images, ids, mask).float().cpu().numpy()]
            for record, heat in zip(rows, maps, strict=True):
                row = located(record, heat, self.config.threshold)
                extend(table, {column: [value] for column, value in row.items()})
        return joined(table)

    def validate(self, table: Table) -> Validation:
        """Return the accuracy of the boxes, by kind of expression, and that of a random proposal.

        ``map_accuracy`` and ``map_iou`` are those of the maps' boxes.
        """
        right = [float(value >= MIN_IOU) for value in table["iou"]]
        metrics = accuracies(right, table["type"]) | {
            "map_accuracy": recall(table["map_iou"]),
            "map_iou": 100.0 * float(np.mean(table["map_iou"])),
        }
        return Validation(metrics, accuracies(table["share"], None)["accuracy"])

    @classmethod
    def answer(cls, record: Record) -> str | None:
        """Return the region of the right proposal: "" if none is right, None if it is unknown."""
        truth, proposals = record.meta.get("box"), record.meta.get("proposals")
        if not truth or not proposals:
            return None
        overlaps = [iou(proposal, truth) for proposal in proposals]
        best = int(np.argmax(overlaps))
        return regions(proposals)[best] if overlaps[best] >= MIN_IOU else ""

    @classmethod
    def choices(cls, record: Record) -> tuple[str, ...]:
        """Return the region of each proposal."""
        return regions(record.meta.get("proposals") or [])


def check_record(record: Record) -> None:
    """Raise ValueError if a record has no expression or no box."""
    if not record.captions:
        raise ValueError(f"record {record.key} has no caption, the expression to ground")
    proposals = record.meta.get("proposals") or []
    boxes = [record.meta.get("box"), *(proposals if isinstance(proposals, list) else [None])]
    if not all(isinstance(box, list | tuple) and len(box) == 4 for box in boxes):
        raise ValueError(
            f"record {record.key}: box and each of proposals in its meta must be "
            "[x, y, width, height]"
        )


def located(record: Record, heat: NDArray[np.float32], threshold: float) -> dict[str, Any]:
    """Return a row of :meth:`Task.predict` from a record and its heat map (n, n)."""
    with Image.open(io.BytesIO(record.image)) as image:  # This reads only the header.
        width, height = image.size
    truth, proposals = record.meta["box"], record.meta.get("proposals", [])
    peak = np.float32(max(heat.max(), np.finfo(np.float32).tiny))
    map_box = in_pixels(around(enlarged(heat, GRID, GRID), threshold), width, height)
    box = map_box
    if proposals:
        best = hottest(heat, proposals, (height, width))
        box = None if best is None else proposals[best]
    return {
        "key": record.key,
        "expression": record.captions[0],
        "type": record.meta.get("type", ""),
        "truth": _floats(truth),
        "box": _floats(box),
        "iou": iou(box, truth) if box else 0.0,
        "map_box": _floats(map_box),
        "map_iou": iou(map_box, truth) if map_box else 0.0,
        "share": float(np.mean([iou(p, truth) >= MIN_IOU for p in proposals]))
        if proposals
        else 0.0,
        "heat": (heat / peak * 255).round().astype(np.uint8).tobytes(),
    }


def _floats(box: Any) -> list[float] | None:
    return None if box is None else [float(value) for value in box]
