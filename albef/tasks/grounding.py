"""Grounding of referring expressions, trained without boxes: as retrieval, on expressions.

Where the model looks for an expression is its Grad-CAM map; of proposed boxes the one that holds
most of the map's heat for the root of its area is chosen (ALBEF, section 6.2).
"""

import io
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from albef.data.boxes import GRID, RIGHT, around, enlarged, hottest, in_pixels, iou, recall, regions
from albef.data.record import Record
from albef.loading.reading import Records
from albef.models.albef import ModelConfig
from albef.models.gradcam import itc_maps, itm_maps
from albef.preprocessing.text import TextTokenizer
from albef.tasks.matching import PairConfig, PairTask
from albef.tasks.task import Examples, Table, accuracies, joined

if TYPE_CHECKING:
    from albef.runtime.model import Model


class Config(PairConfig):
    """Values of a grounding run."""

    gradcam: Literal["itm", "itc"] | None = "itm"
    """Whose Grad-CAM is the map: ITM's on a fusion layer, or ITC's on a block of the ViT; null is
    what [CLS] attends to in a fusion layer, without gradient, in an export too."""
    layer: Annotated[int, Field(ge=0)] = 2
    """That fusion layer or block, from 0; the paper has ITM's third of six, 2."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the peak from which cells of the map count to its own box."""


class Task(PairTask):
    """Grounding; with 0 epochs, that of its ``init`` as it is."""

    primary: ClassVar[str] = "accuracy"
    does = (
        "finds in a picture what a text says (`ground`), and tells whether a picture and a text "
        "belong together (`match`)"
    )
    hub = "zero-shot-object-detection"
    surface = "grounding"

    def __init__(self, config: Config, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, model, tokenizer)
        self.gradient = "gradcam" if config.gradcam else ""
        noun, depth = "fusion layers", model.text.fusion_depth
        if config.gradcam == "itc":
            noun, depth = "blocks of the image encoder", model.image.depth
        if config.layer >= depth:
            raise ValueError(
                f"layer is {config.layer}, but the model has {depth} {noun}: "
                f"choose one from 0 to {depth - 1}"
            )

    @torch.no_grad()
    def maps(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The heat map (B, n, n) of each image (B, 3, H, W) for its text (B, L)."""
        text_states = self.model.encode_text(ids, mask)
        if self.config.gradcam == "itc":
            text_feat = self.model.text_feat(text_states)
            return itc_maps(
                self.model, images, text_feat, self.temperature.detach(), self.config.layer
            )
        states = text_states, mask, self.model.encode_image(images)
        layer, gradient = self.config.layer, self.config.gradcam is not None
        maps = itm_maps(self.model, self.itm_head, *states, layer, gradient=gradient)
        return maps.mean(1) if gradient else maps[:, 0]

    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """A box for each record's expression.

        A record's ``meta`` holds the true ``box``, and may hold ``proposals``, boxes to choose
        from, and ``type``, the kind of its expression. A row has ``box``, the best proposal (where
        there are none, the map's own box; None where the map has no heat), its ``iou`` with
        ``truth``, ``map_box`` and ``map_iou`` of the map's own box, ``share``, the part of the
        proposals that are right, and ``heat``: the map (n, n), 255 at its peak, as bytes.
        A finished model's map is attention alone, without Grad-CAM's gradient: the tokens' mean, or
        [CLS]'s where ``gradcam`` is null.

        Raises:
            ValueError: a record without expression or box.
        """
        table: Table = {}
        for rows, images in self.read(records, batch_size, model):
            for record in rows:
                check(record)
            expressions = [record.captions[0] for record in rows]
            if model is not None:
                grounded = model.ground([record.image for record in rows], expressions)
                maps = [each.heat for each in grounded]
            else:
                ids, mask = self.texts(expressions)
                with torch.autocast(self.device.type, enabled=False):  # gradients are small
                    maps = [*self.maps(images, ids, mask).float().cpu().numpy()]
            for record, heat in zip(rows, maps, strict=True):
                for column, value in located(record, heat, self.config.threshold).items():
                    table.setdefault(column, []).append(value)
        return joined(table)

    def score(self, table: Table) -> dict[str, float]:
        """``accuracy`` of the chosen boxes and, as ``map_accuracy``, of the maps' own ones, in
        percent of boxes with an IoU of at least 0.5; ``map_iou``, their mean in percent; and the
        accuracy of each kind of expression.
        """
        return accuracies(self.examples(table).credit, table["type"]) | {
            "map_accuracy": recall(table["map_iou"]),
            "map_iou": 100.0 * float(np.mean(table["map_iou"])),
        }

    @classmethod
    def examples(cls, table: Table) -> Examples:
        """A box is right from an IoU of 0.5."""
        right = [float(value >= RIGHT) for value in table["iou"]]
        return Examples("accuracy", right, question="expression")

    def chance(self, table: Table) -> dict[str, float]:
        """The accuracy of a proposal drawn at random, in expectation."""
        return accuracies(table["share"], table["type"])

    @classmethod
    def answer(cls, record: Record) -> str | None:
        """Where the right proposal is; "" where none is right, None where none is told."""
        truth, proposals = record.meta.get("box"), record.meta.get("proposals")
        if not truth or not proposals:
            return None
        overlaps = [iou(proposal, truth) for proposal in proposals]
        best = int(np.argmax(overlaps))
        return regions(proposals)[best] if overlaps[best] >= RIGHT else ""

    @classmethod
    def choices(cls, record: Record) -> tuple[str, ...]:
        """Where each proposal is."""
        return regions(record.meta.get("proposals") or [])


def check(record: Record) -> None:
    """See that a record can be grounded.

    Raises:
        ValueError: it has no expression, or no box.
    """
    if not record.captions:
        raise ValueError(f"record {record.key} has no expression to ground")
    proposals = record.meta.get("proposals") or []
    boxes = [record.meta.get("box"), *(proposals if isinstance(proposals, list) else [None])]
    if not all(isinstance(box, list | tuple) and len(box) == 4 for box in boxes):
        raise ValueError(
            f"record {record.key}: grounding needs box: [x, y, width, height] in its meta, and "
            "each of its proposals likewise"
        )


def located(record: Record, heat: NDArray[np.float32], threshold: float) -> dict[str, Any]:
    """A row of :meth:`Task.predict`: what a heat map (n, n) says of a record."""
    with Image.open(io.BytesIO(record.image)) as picture:  # reads the header only
        width, height = picture.size
    truth, proposals = record.meta["box"], record.meta.get("proposals", [])
    map_box = in_pixels(around(enlarged(heat, GRID, GRID), threshold), width, height)
    box = map_box
    if proposals:
        best = hottest(enlarged(heat, height, width), proposals)
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
        "share": float(np.mean([iou(p, truth) >= RIGHT for p in proposals])) if proposals else 0.0,
        "heat": _bytes(heat),
    }


def _floats(box: Any) -> list[float] | None:
    return None if box is None else [float(value) for value in box]


def _bytes(heat: NDArray[np.float32]) -> bytes:
    peak = max(float(heat.max()), float(np.finfo(np.float32).tiny))
    return (heat / np.float32(peak) * 255).round().astype(np.uint8).tobytes()
