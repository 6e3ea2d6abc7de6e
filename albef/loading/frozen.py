"""States of frozen encoders, computed once per dataset and read from memory maps.

A frozen encoder gives an image or text the same states in every epoch. They are computed before
the first step, in eval mode, and stored in 16 bits in the scratch folder of the machine. Their key
is the weights, the preprocessing and the dataset, so every training and evaluation of this machine
shares them. Images are found by the SHA-256 of their file, texts by their token ids.
"""

import hashlib
import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from albef.config import Section
from albef.data.image_decoding import ImageError, decode
from albef.data.shards import DamagedShardError, Shards
from albef.io import atomic, lock
from albef.loading.reading import to_device
from albef.loading.workers import ahead
from albef.models.albef import ModelConfig
from albef.models.bert import attention_bias
from albef.models.encoders import Encoder, ImageEncoder, TextEncoder
from albef.preprocessing.transforms import Evaluate

_BATCH = 32  # images or texts
_FORMAT = "2"  # Another number is needed when the stored states have another meaning.
_LOG_EVERY_S = 10.0
Half = NDArray[np.float16]
log = logging.getLogger("albef")


Row = tuple[int, ...]
"""Token ids of a text."""
Parts = Iterator[Any]
"""Number of rows, bytes and shape of a row, and then columns of the rows in parts."""


class ImageCache:
    """States of images in float16; it takes the place of the transform that makes pixels.

    Args:
        resize: plain resize, for images that the cache does not have.
        parts: arrays of :meth:`FrozenStates.images`.
        pooled: whether only the pooled state is read, because nothing reads the others. The cache
            must then hold states, not the input of a block.
    """

    def __init__(self, resize: Evaluate, parts: Iterable[Mapping[str, Any]], pooled: bool) -> None:
        self._resize, self._places = resize, dict[bytes, Half]()
        for part in parts:
            states = part["states"][:, :1] if pooled else part["states"]
            self._places |= zip(map(bytes, part["digests"]), states, strict=True)

    def __call__(self, image: bytes, rng: np.random.Generator, key: str = "") -> Half:
        """Return the states of an image, as a training's transform returns its pixels."""
        states = self._find(image, key)
        if states is None:
            raise ImageError(f"the image of {key} is not in the cache of frozen states")
        return states

    def pixels(self, image: bytes, key: str = "") -> Half | NDArray[np.uint8]:
        """Return the states of an image, or its pixels if the cache does not have it."""
        states = self._find(image, key)
        return self._resize.pixels(image, key) if states is None else states

    def _find(self, image: bytes, key: str) -> Half | None:
        states = self._places.get(hashlib.sha256(image).digest())
        if states is None:
            decode(image, key)  # A damaged image is an error, as without the cache.
            return None
        return np.array(states)


class TextCache:
    """States of texts in float16, found by their token ids.

    ``parts`` are arrays of :meth:`FrozenStates.texts`.
    """

    def __init__(self, parts: Iterable[Mapping[str, Any]]) -> None:
        self._places: dict[bytes, Half] = {}
        for part in parts:
            ids, states = np.array(part["ids"]), part["states"]
            for start, end in itertools.pairwise([0, *np.cumsum(part["lengths"]).tolist()]):
                self._places[ids[start:end].tobytes()] = states[start:end]

    def encode(self, encoder: TextEncoder, ids: Tensor, text_mask: Tensor) -> Tensor:
        """Return the encoder's states (B, L, D) of ids and mask (B, L); unknown texts are encoded.

        Padding has zeros.
        """
        lengths = text_mask.sum(1).tolist()
        rows = ids.cpu().numpy().astype(np.int32)
        places = [self._places.get(row[:n].tobytes()) for row, n in zip(rows, lengths, strict=True)]
        unknown = [i for i, place in enumerate(places) if place is None]
        result = torch.zeros(*ids.shape, encoder.width, device=ids.device)
        for i, states in enumerate(places):
            if states is not None:
                result[i, : len(states)] = torch.from_numpy(np.array(states))
        if unknown:
            mask = text_mask[unknown]
            longest = max(lengths[i] for i in unknown)
            bias = attention_bias(mask[:, :longest])
            result[unknown, :longest] = encoder(ids[unknown, :longest], bias).float()
        return result


class FrozenStates:
    """The caches of this machine: a folder for each encoder and split.

    Args:
        folder: folder of all caches.
        limit: largest size of all together in bytes. To make room, the ones that were not used for
            longest are removed.
        model: values of the encoders, such as the pooling, which equal weights may not have in
            common.
    """

    def __init__(self, folder: Path, limit: int, model: ModelConfig) -> None:
        self._folder, self._limit, self._model = folder, limit, model

    def images(
        self, encoder: ImageEncoder, splits: Sequence[Shards], resize: Evaluate, workers: int
    ) -> list[dict[str, Any]] | None:
        """Return ``digests`` and ``states`` of the images of each split.

        They are those of :meth:`ImageEncoder.frozen_part`. None if they do not fit.
        """
        key = _key(encoder, self._model.image, encoder.cached_block, resize)
        compute = partial(_image_states, encoder, resize, workers)
        return self._all("images", splits, [key] * len(splits), compute)

    def texts(
        self, encoder: TextEncoder, splits: Sequence[Shards], rows: Callable[[Shards], list[Row]]
    ) -> list[dict[str, Any]] | None:
        """Return ``ids``, ``lengths`` and ``states`` of the texts of each split.

        ``rows`` returns the distinct token ids of a split's texts. None if they do not fit.
        """
        tokenized = {split.split: rows(split) for split in splits}
        key = _key(encoder, self._model.text)
        keys = [f"{key} {tokenized[split.split]}" for split in splits]

        def compute(split: Shards) -> Parts:
            return _text_states(encoder, tokenized[split.split])

        return self._all("texts", splits, keys, compute)

    def _all(
        self,
        what: str,
        splits: Sequence[Shards],
        keys: Sequence[str],
        compute: Callable[[Shards], Parts],
    ) -> list[dict[str, Any]] | None:
        found = []
        for split, key in zip(splits, keys, strict=True):
            name = hashlib.sha256(f"{key} {split.digest} {split.split}".encode()).hexdigest()[:32]
            path = self._folder / name
            self._folder.mkdir(parents=True, exist_ok=True)
            with lock(path.with_suffix(".lock"), lambda holder: None):
                where = f"{what} of {split.name}, split {split.split}"
                if not path.is_dir() and not self._write(path, where, compute(split)):
                    return None
            os.utime(path)
            found.append({it.stem: np.load(it, mmap_mode="r") for it in path.glob("*.npy")})
        return found

    def _write(self, path: Path, where: str, parts: Parts) -> bool:
        """Write the arrays of a cache; return whether they fit the limit."""
        total, size, states = next(parts)
        if size > self._limit:
            log.warning(
                "frozen states of %s take %.1f GiB, above runtime.frozen_gb (%g): "
                "each step computes them again. Increase it to compute them once",
                *(where, size / 2**30, self._limit / 2**30),
            )
            return False
        self._make_room(size)
        with atomic(path) as part:
            part.mkdir()
            columns: dict[str, list[Any]] = {}
            array = np.lib.format.open_memmap(
                part / "states.npy", "w+", np.float16, (total, *states)
            )
            done, started = 0, time.monotonic()
            logged = started
            for chunk in parts:
                rows = chunk.pop("states")
                array[done : done + len(rows)] = rows
                done += len(rows)
                for name, values in chunk.items():
                    columns.setdefault(name, []).append(values)
                if time.monotonic() - logged > _LOG_EVERY_S:
                    logged = time.monotonic()
                    left = (logged - started) * (total - done) / done
                    log.info(
                        "frozen states of %s: %d %%, %.0f s left", where, 100 * done / total, left
                    )
            array.flush()
            for name, values in columns.items():
                np.save(part / f"{name}.npy", np.concatenate(values))
        seconds = time.monotonic() - started
        log.info("frozen states of %s: %.2f GiB in %.0f s", where, size / 2**30, seconds)
        return True

    def _make_room(self, size: int) -> None:
        """Remove caches, oldest first, until one of ``size`` bytes fits too."""
        folders = sorted(
            filter(Path.is_dir, self._folder.iterdir()), key=lambda it: it.stat().st_mtime
        )
        sizes = {it: sum(file.stat().st_size for file in it.iterdir()) for it in folders}
        used = sum(sizes.values())
        for folder in folders:
            if used + size <= self._limit:
                return
            used -= sizes[folder]
            # A removal that is stopped halfway must not leave a folder that looks complete.
            folder = folder.replace(folder.with_name(f"{folder.name}.{os.getpid()}.removed"))
            shutil.rmtree(folder, ignore_errors=True)


def _key(encoder: Encoder, values: Section, *facts: object) -> str:
    """Return a digest of an encoder's frozen weights, its values, the precision and other facts."""
    device = next(encoder.parameters()).device.type
    is_cast = torch.is_autocast_enabled(device)
    precision = torch.get_autocast_dtype(device) if is_cast else torch.float32
    # The keys of a mapping that a checkpoint holds have another order.
    sorted_values = json.dumps(values.model_dump(mode="json"), sort_keys=True)
    facts = (_FORMAT, type(encoder).__name__, sorted_values, precision, *facts)
    digest = hashlib.sha256(repr(facts).encode())
    frozen = {n: p for n, p in encoder.named_parameters() if not p.requires_grad}
    for name, tensor in sorted({**frozen, **dict(encoder.named_buffers())}.items()):
        digest.update(name.encode() + bytes(tensor.detach().cpu().contiguous().numpy()))
    return digest.hexdigest()


@torch.no_grad()
def _image_states(encoder: ImageEncoder, resize: Evaluate, workers: int, shards: Shards) -> Parts:
    device = next(encoder.parameters()).device
    batches = [range(len(shards))[i : i + _BATCH] for i in range(0, len(shards), _BATCH)]
    is_first = True
    encoder.eval()
    for digests, pixels in ahead(partial(_read_images, shards, resize), batches, workers):
        states = encoder.frozen_part(to_device({"image": pixels}, device)["image"].contiguous())
        rows = states.to(torch.float16).cpu().numpy()
        if is_first:
            yield len(shards), len(shards) * rows[0].nbytes, rows.shape[1:]
            is_first = False
        yield {"digests": digests, "states": rows}


def _read_images(shards: Shards, resize: Evaluate, indices: range) -> tuple[NDArray[Any], Tensor]:
    """Return the digests (B,) and pixels (B, 3, S, S) of images; a damaged one has no digest."""
    digests, pixels = [], []
    side = resize.image_size
    for i in indices:
        try:
            record = shards[i]
            pixels.append(resize.pixels(record.image, record.key))
            digests.append(hashlib.sha256(record.image).digest())
        except (ImageError, DamagedShardError):  # Training meets it again, and counts it.
            pixels.append(np.zeros((3, side, side), np.uint8))
            digests.append(b"")
    return np.array(digests, "V32"), torch.from_numpy(np.stack(pixels))


@torch.no_grad()
def _text_states(encoder: TextEncoder, rows: list[Row]) -> Parts:
    device = next(encoder.parameters()).device
    rows = sorted(rows, key=len)
    total = sum(map(len, rows))
    yield total, 2 * total * encoder.width, (encoder.width,)
    encoder.eval()
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        longest = len(batch[-1])
        lengths = torch.tensor([len(row) for row in batch], device=device)
        mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch], device=device)
        states = encoder(ids, attention_bias(mask))[mask.bool()].to(torch.float16)
        yield {
            "ids": np.concatenate([np.array(row, np.int32) for row in batch]),
            "lengths": lengths.cpu().numpy(),
            "states": states.cpu().numpy(),
        }
