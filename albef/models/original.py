"""Conversion of the original code's checkpoints: names and shapes, in both directions.

The name of each of our tensors determines the original's, so one map serves both directions.
"""

import errno
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from albef.config import validate
from albef.io import printable
from albef.models.albef import ModelConfig
from albef.models.momentum import EMPTY
from albef.models.weights import CheckpointError, check_weights, grid_side, listed

HEAD_WIDTH = 64
"""Width of an attention head, in each published model."""
DROPOUT = 0.1
"""Dropout of the original's BERT; a checkpoint does not contain it."""
PUBLISHED_DEPTHS = (12, 12)
"""Numbers of layers of the image encoder, and of text and fusion encoder together."""
EMBED_DIM = 256
"""Width of the shared space in each published model. Kinds without ITC do not contain it."""

_PARTS = (
    (r"temperature", "temp"),
    (r"model\.image_encoder\.vit\.(.+)", r"visual_encoder@.\1"),
    (r"model\.image_proj\.(.+)", r"vision_proj@.\1"),
    (r"model\.text_proj\.(.+)", r"text_proj@.\1"),
    (r"model\.text_encoder\.embeddings\.(.+)", r"text_encoder@.bert.embeddings.\1"),
    (r"model\.text_encoder\.layer\.(.+)", r"text_encoder@.bert.encoder.layer.\1"),
    (r"mlm_head\.bias", "text_encoder@.cls.predictions.bias"),
    (r"mlm_head\.(.+)", r"text_encoder@.cls.predictions.transform.\1"),
    (r"answer_decoder\.embeddings\.(.+)", r"text_decoder@.bert.embeddings.\1"),
    (r"answer_decoder\.layer\.(.+)", r"text_decoder@.bert.encoder.layer.\1"),
    (r"answer_decoder\.head\.bias", "text_decoder@.cls.predictions.bias"),
    (r"answer_decoder\.head\.(.+)", r"text_decoder@.cls.predictions.transform.\1"),
    (r"itm_head\.(.+)", r"itm_head.\1"),
    (r"head\.(.+)", r"cls_head@.\1"),
    (r"queue\.image", "image_queue"),
    (r"queue\.text", "text_queue"),
    (r"queue\.ids", "idx_queue"),
    (r"queue\.pointer", "queue_ptr"),
)
"""Our names and the original's; ``@`` marks the position of ``_m`` in momentum names."""
_MOMENTUM = re.compile(r"^(\w+)_m\.model\.")
_FUSION = re.compile(r"^model\.fusion_encoder\.layer\.(\d+)\.")
_CODE = re.compile(r"GLOBAL ([\w.]+)")
_DECODER = ".cls.predictions.decoder."
_WORDS = "bert.embeddings.word_embeddings.weight"
_SHARED = re.compile(r"(.+\.layer\.)(\d+)(\.crossattention\.self\.(?:key|value)\..+)")
_WITH_HEAD = {"pretraining"}  # the encoder is inside one with an MLM head
_NO_IDS = {"pretraining"}  # the queue holds no image ids
_PAIRED = {"nlvr2", "text_assignment"}  # every fusion layer is doubled
_UNREAD = re.compile(r"model(_m\.model)?\.(image|text)_proj\.")
_CONTRASTS_NOTHING = {"vqa", "entailment", "nlvr2"}  # no projections
_HEADS = {"text_assignment": ("cls_head", "ta_head")}
_CONSTANTS = {"text_assignment": {"temp": 0.07}}  # stored by the original, fixed in ours


def original_name(name: str, kind: str, text_layers: int) -> str:
    """Return the original's name of one of our tensors; fusion layers follow the text layers."""
    plain, is_momentum = _MOMENTUM.subn(r"\1.", name)
    plain = _FUSION.sub(lambda m: f"model.text_encoder.layer.{int(m[1]) + text_layers}.", plain)
    for ours, theirs in _PARTS:
        if match := re.fullmatch(ours, plain):
            plain = match.expand(theirs)
            break
    if kind not in _WITH_HEAD:
        plain = plain.replace("text_encoder@.bert.", "text_encoder@.")
    plain = plain.replace(*_HEADS.get(kind, ("", "")))
    return plain.replace("@", "_m" if is_momentum else "")


def read_original(path: Path) -> dict[str, Tensor]:
    """Return the weights in a file of the original code, in float32; nothing in it is executed.

    Raises:
        CheckpointError: the file is damaged, contains code, or has no mapping of names to weights.
        OSError: the file cannot be opened.
    """
    if _is_safetensors(path):
        raise CheckpointError(
            f"{path} is a safetensors file, not a checkpoint of the original code (.pth); a model "
            "of this project needs no import: set `init` of a run to the name of its folder"
        )
    is_archive = zipfile.is_zipfile(path)
    try:
        if is_archive:
            _check_archive(path)
        with warnings.catch_warnings(action="ignore"):  # of protocols it may not know
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except CheckpointError:
        raise
    except Exception as error:  # torch's readers raise many types of error
        # In a file that is cut off, torch seeks to before its start.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        if code := _CODE.search(str(error)):
            raise CheckpointError(
                f"{path} contains code besides tensors ({code[1]}), which could do anything; "
                "save only the weights: torch.save(model.state_dict(), FILE)"
            ) from None
        raise CheckpointError(
            f"{path} is not a checkpoint of torch, or is damaged or cut off; download it again"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    tensors = content if isinstance(content, dict) else {}
    by_name = {f"{name}": t for name, t in tensors.items() if isinstance(t, Tensor)}
    if not by_name or len(by_name) < len(tensors):
        raise CheckpointError(
            f"{path} has no mapping of names to weights, neither at its top nor under 'model'"
        )
    check_weights(by_name, where=f"{path}")
    result: dict[str, Tensor] = {}
    for name, tensor in by_name.items():
        plain = name.removeprefix("module.")
        if plain in result:
            raise CheckpointError(
                f"{path} has {plain} twice, with and without the prefix module.; keep one of them"
            )
        result[plain] = tensor.float() if tensor.is_floating_point() else tensor
    return result


def _is_safetensors(path: Path) -> bool:
    """Return whether a file starts as safetensors do: with the size of a JSON object, and it."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little") < path.stat().st_size and file.read(1) == b"{"


def _check_archive(path: Path) -> None:
    """Compare the checksums of a zip file, which torch ignores."""
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type]
        damaged = packed[0] if packed else archive.testzip()
    if damaged:
        problem = "is compressed, which torch cannot read" if packed else "is damaged"
        raise CheckpointError(
            f"{path}: {printable(damaged[:200])} {problem}; download the file again"
        )


def kind_of(tensors: Mapping[str, Tensor], *, where: str) -> str:
    """Return the kind of run that made an original checkpoint, based on its names.

    Grounding is trained like retrieval, so its checkpoints count as ``retrieval``.

    Raises:
        CheckpointError: no kind fits.
    """
    if "cls_head.2.weight" in tensors:
        return "entailment" if len(tensors["cls_head.2.weight"]) == 3 else "nlvr2"
    for sign, kind in (
        ("text_encoder.cls.predictions.bias", "pretraining"),
        ("idx_queue", "retrieval"),
        ("text_decoder.cls.predictions.bias", "vqa"),
        ("ta_head.weight", "text_assignment"),
    ):
        if sign in tensors:
            return kind
    raise CheckpointError(
        f"{where} is not a checkpoint of the original code: it has {listed(sorted(tensors))}"
    )


def sizes_of(
    tensors: Mapping[str, Tensor], kind: str, *, where: str, heads: tuple[int, int] | None
) -> ModelConfig:
    """Return the sizes of the model, from the shapes of the original's tensors.

    No tensor has the number of ``heads`` of image and text. None means that the model is as deep as
    the published ones and has a head per 64 of width.

    Raises:
        CheckpointError: a tensor that every checkpoint has is missing, or no sizes fit.
    """
    inside = any(name.startswith("text_encoder.bert.") for name in tensors)
    bert = "text_encoder.bert." if inside else "text_encoder."

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(f"{where} is not a checkpoint of the original code: no {name}")
        found = tuple(tensors[name].shape)
        if len(found) != dimensions:
            raise CheckpointError(f"{where}: {name} has shape {found}, not {dimensions} dimensions")
        return found

    def count(pattern: str) -> int:
        return len({m[1] for name in tensors if (m := re.match(pattern, name))})

    width, _, patch, _ = shape("visual_encoder.patch_embed.proj.weight", 4)
    tokens = shape("visual_encoder.pos_embed", 3)[1]
    if not (grid := grid_side(tokens)):
        raise CheckpointError(
            f"{where}: visual_encoder.pos_embed has {tokens} positions, not [CLS] and a square grid"
        )
    positions, text_width = shape(f"{bert}embeddings.position_embeddings.weight", 2)
    layer = re.escape(f"{bert}encoder.layer.") + r"(\d+)\."
    layers, fusion = count(layer), count(layer + "crossattention")
    if kind in _PAIRED:
        fusion //= 2
        layers -= fusion
    image_heads, text_heads = _heads(width, text_width, heads, where)
    depth = count(r"visual_encoder\.blocks\.(\d+)\.")
    if heads is None and (depth, layers) != PUBLISHED_DEPTHS:
        raise CheckpointError(
            f"{where} has {depth} layers of images and {layers} of texts, but the original "
            "has 12 and 12; use a complete file, or if the model is like this, set both "
            "numbers of attention heads with --heads"
        )
    values = {
        "image": {
            "image_size": grid * patch,
            "patch_size": patch,
            "width": width,
            "depth": depth,
            "heads": image_heads,
        },
        "text": {
            "width": text_width,
            "depth": layers,
            "fusion_depth": fusion,
            "heads": text_heads,
            "intermediate": shape(f"{bert}encoder.layer.0.intermediate.dense.weight", 2)[0],
            "max_positions": positions,
            "dropout": DROPOUT,
        },
        "embed_dim": EMBED_DIM if kind in _CONTRASTS_NOTHING else shape("vision_proj.weight", 2)[0],
    }
    return validate(ModelConfig, values, where=where)


def _heads(
    width: int, text_width: int, heads: tuple[int, int] | None, where: str
) -> tuple[int, int]:
    chosen = heads or (width // HEAD_WIDTH, text_width // HEAD_WIDTH)
    for tower, size, number in zip(("image", "text"), (width, text_width), chosen, strict=True):
        if number < 1 or size % number:
            which = f"{number} heads" if heads else f"heads of {HEAD_WIDTH}"
            raise CheckpointError(
                f"{where}: {which} do not divide the {tower} encoder's width {size}; set both "
                "numbers with --heads"
            )
    return chosen


def to_ours(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    kind: str,
    text_layers: int,
    *,
    where: str,
) -> dict[str, Tensor]:
    """Return the original's tensors by our names.

    Every tensor of the original must be used or be redundant. What it lacks by design is filled:
    projections that the kind does not use with zeros, ids of a queue without ids with
    :data:`EMPTY`. Of ``expected``, all tensors by our names, only shapes are used.

    Raises:
        CheckpointError: lists keys that are missing or unused, or copies that differ.
    """
    filled = {}
    for name, tensor in expected.items():
        if kind in _NO_IDS and name == "queue.ids":
            filled[name] = torch.full(tensor.shape, EMPTY)
        elif kind in _CONTRASTS_NOTHING and _UNREAD.match(name):
            filled[name] = torch.zeros(tensor.shape)
    origin = {n: original_name(n, kind, text_layers) for n in expected if n not in filled}
    missing = [theirs for theirs in origin.values() if theirs not in tensors]
    read_names = {*origin.values(), *_CONSTANTS.get(kind, ())}
    positions = "embeddings.position_ids"  # only counts them
    unread = [name for name in tensors if name not in read_names and not name.endswith(positions)]
    copies = {name: copied for name in unread if (copied := _copied(name, kind)) in tensors}
    extra = [name for name in unread if name not in copies]
    unlike = [
        f"{name} is not {copied}"
        for name, copied in copies.items()
        if not torch.equal(tensors[name], tensors[copied])
    ]
    tied = "that must equal others differ"
    for problem, keys in (("missing", missing), ("left over", extra), (tied, unlike)):
        if keys:
            raise CheckpointError(
                f"{where} does not fit kind {kind}: {len(keys)} tensors {problem}: {listed(keys)}"
            )
    ours = filled | {name: _turned(name, tensors[theirs]) for name, theirs in origin.items()}
    pointer, queue = ours.get("queue.pointer"), ours.get("queue.image")
    if (
        pointer is not None and queue is not None and pointer.numel() == 1
    ):  # otherwise its shape is refused
        _check_pointer(int(pointer), len(queue), where)
    return ours


def _check_pointer(pointer: int, size: int, where: str) -> None:
    if not 0 <= pointer < max(1, size):
        raise CheckpointError(
            f"{where}: queue_ptr is {pointer}, but the queue has {size} entries; set it to 0"
        )


def to_original(tensors: Mapping[str, Tensor], kind: str, text_layers: int) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint in the original's format, its copies included."""
    result = {name: torch.tensor(value) for name, value in _CONSTANTS.get(kind, {}).items()}
    for name, tensor in tensors.items():
        if (kind in _NO_IDS and name == "queue.ids") or (
            kind in _CONTRASTS_NOTHING and _UNREAD.match(name)
        ):
            continue
        result[original_name(name, kind, text_layers)] = _turned(name, tensor, back=True)
    for name, tensor in list(result.items()):
        if name.endswith("embeddings.position_embeddings.weight"):
            stem = name.removesuffix("position_embeddings.weight")
            result[f"{stem}position_ids"] = torch.arange(len(tensor))[None]
        if name.endswith(".cls.predictions.bias"):
            stem = name.removesuffix(".cls.predictions.bias")
            words = result[f"{stem}.{_WORDS}"]
            result |= {f"{stem}{_DECODER}weight": words, f"{stem}{_DECODER}bias": tensor}
        if kind in _PAIRED and (layer := _SHARED.fullmatch(name)):
            result[f"{layer[1]}{int(layer[2]) + 1}{layer[3]}"] = tensor
    return result


def _turned(name: str, tensor: Tensor, *, back: bool = False) -> Tensor:
    """Return a tensor in the other layout: the original's queues have a column per pair."""
    match name:
        case "queue.image" | "queue.text":
            return tensor.mT if tensor.dim() == 2 else tensor
        case "queue.ids" | "queue.pointer" if back:
            return tensor[None]
        case "queue.ids" | "queue.pointer":
            return tensor[0] if tensor.dim() else tensor
    return tensor


def _copied(name: str, kind: str) -> str:
    """Return the name of the tensor that this one copies; "" if it is not a copy."""
    stem, _, leaf = name.partition(_DECODER)
    if leaf:
        is_bias = leaf != "weight"
        return f"{stem}.{'cls.predictions.bias' if is_bias else _WORDS}"
    layer = _SHARED.fullmatch(name) if kind in _PAIRED else None
    return f"{layer[1]}{int(layer[2]) - 1}{layer[3]}" if layer else ""  # the second of a pair
