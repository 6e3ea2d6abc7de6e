"""States of frozen encoders: read from a cache, equal to computed ones, and kept within a limit."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from albef.config import validate
from albef.data.shards import DamagedShardError, Shards
from albef.layout import Runtime
from albef.loading.frozen import FrozenStates, ImageCache
from albef.loading.pipeline import DamageCount, Pipeline, Reading
from albef.loading.sampler import Pool, Sampler
from albef.models.albef import ModelConfig
from albef.models.encoders import ImageEncoder, freeze
from albef.models.kernels import recompute
from albef.preprocessing.text import TextTokenizer
from albef.preprocessing.transforms import Evaluate
from albef.tasks import pretraining
from albef.tasks.retrieval import Task
from tests.conftest import ANSWERS, CAPTIONS, tiny_config, tiny_task
from tests.data import toy
from tests.loading.test_damage import shard_of
from tests.models.encoders import IMAGES, image, sizes, text
from tests.models.test_kernels import own_cache as own_cache

BOTH = ["image_encoder", "text_encoder"]
COUNT = 12
"""Records of the train split; val has half as many."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    splits = ["train"] * COUNT + ["val"] * (COUNT // 2)
    captions = [CAPTIONS[i % 4 :] for i in range(len(splits))]
    rows = enumerate(zip(splits, captions, strict=True))
    toy.write(folder, [toy.record(i, split=name, captions=texts) for i, (name, texts) in rows])
    return folder


def both(data: Path) -> list[Shards]:
    return [Shards(data, "train"), Shards(data, "val")]


def runtime(folder: Path, **changed: object) -> Runtime:
    return validate(Runtime, {"scratch": str(folder), **changed}, where="tests")


def frozen_task(parts: Sequence[str] = BOTH, **changed: object) -> Any:
    task = tiny_task("retrieval", freeze=list(parts), **changed)
    freeze(task, parts)
    return task


def other_task(name: str, parts: Sequence[str], size: int = 32) -> Any:
    """A task with an image encoder of timm."""
    torch.manual_seed(0)
    model, tokenizer = sizes(image(name, size)), TextTokenizer.train([*CAPTIONS, *ANSWERS], 80)
    task = Task(tiny_config(image_size=size), model, tokenizer)
    freeze(task, parts)
    return task


class Calls:
    """Number of images and of texts that the encoders of a model encode."""

    def __init__(self, task: Any) -> None:
        self.images = self.texts = 0
        task.model.image_encoder.register_forward_pre_hook(self._add_images)
        task.model.text_encoder.register_forward_pre_hook(self._add_texts)

    def _add_images(self, encoder: object, given: tuple[Tensor, ...]) -> None:
        self.images += len(given[0])

    def _add_texts(self, encoder: object, given: tuple[Tensor, ...]) -> None:
        self.texts += len(given[0])


def batch_of(task: Any, shards: Shards) -> dict[str, Tensor]:
    """The first records as a training batch on the device."""
    collate = task.collate(task.resize if isinstance(task.resize, ImageCache) else Plain(task))
    batch: dict[str, Tensor] = collate([shards[i] for i in range(6)], np.random.default_rng(0))
    return batch | {"image": task.pixels(batch["image"])}


class Plain:
    """A transform that keeps pixels."""

    def __init__(self, task: Any) -> None:
        self._resize = Evaluate(task.image_size)

    def __call__(self, image: bytes, rng: np.random.Generator, key: str = "") -> Any:
        return self._resize.pixels(image, key)


def step(task: Any, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients of a training step."""
    torch.manual_seed(1)
    task.train()
    task.zero_grad()
    out = task(batch, 1.0)
    out["loss"].backward()
    grads = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    return out, grads


def assert_same_step(plain: Any, cached: Any, shards: Shards) -> None:
    own, grads = step(plain, batch_of(plain, shards))
    out, found = step(cached, batch_of(cached, shards))
    for name in ("loss", "itc", "itm", "mlm"):
        if name in own:
            torch.testing.assert_close(out[name], own[name], rtol=1e-3, atol=1e-3)
    assert found.keys() == grads.keys()
    for name, grad in grads.items():
        difference = (found[name] - grad).norm()
        assert difference <= 0.02 * grad.norm() + 1e-4, name


def caches(folder: Path) -> list[Path]:
    return [it for it in folder.iterdir() if it.is_dir()]


def test_states_are_those_computed_and_a_second_attach_computes_nothing(
    data: Path, tmp_path: Path
) -> None:
    plain, task = frozen_task(), frozen_task()
    task.cache_frozen(runtime(tmp_path), both(data))
    calls = Calls(task)
    for shards in both(data):
        tables = task.predict(shards, 4), plain.predict(shards, 4)
        assert tables[0]["rank_itc"] == tables[1]["rank_itc"]
        batch, own = batch_of(task, shards), batch_of(plain, shards)
        assert batch["image"].dtype == torch.float16
        for found, expected in (
            (task.model.encode_image(batch["image"]), plain.model.encode_image(own["image"])),
            (
                task.model.encode_text(batch["ids"], batch["text_mask"]),
                plain.model.encode_text(own["ids"], own["text_mask"]) * own["text_mask"][..., None],
            ),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (calls.images, calls.texts) == (0, 0)
    again = frozen_task()
    calls = Calls(again)
    again.cache_frozen(runtime(tmp_path), both(data))
    assert (calls.images, calls.texts) == (0, 0)


def test_a_training_and_its_evaluation_share_the_cache_of_a_split(
    data: Path, tmp_path: Path
) -> None:
    frozen_task().cache_frozen(runtime(tmp_path), both(data))
    evaluated = frozen_task()
    calls = Calls(evaluated)
    evaluated.cache_frozen(runtime(tmp_path), [Shards(data, "val")])
    assert (calls.images, calls.texts) == (0, 0)


def test_other_weights_sizes_and_texts_have_a_cache_of_their_own(
    data: Path, tmp_path: Path
) -> None:
    def computed(task: Any) -> tuple[bool, bool]:
        calls = Calls(task)
        task.cache_frozen(runtime(tmp_path), [Shards(data, "val")])
        return calls.images > 0, calls.texts > 0

    assert computed(frozen_task()) == (True, True)
    other = frozen_task()
    with torch.no_grad():
        next(other.model.image_encoder.parameters()).add_(0.01)
    assert computed(other) == (True, False)
    assert computed(other_task("convnext_atto", BOTH)) == (True, True)
    assert computed(other_task("convnext_atto", BOTH, 64)) == (True, False)
    assert computed(frozen_task(max_tokens=4)) == (False, True)
    assert computed(frozen_task()) == (False, False)


def test_an_encoder_with_the_same_weights_that_pools_otherwise_has_its_own(
    data: Path, tmp_path: Path
) -> None:
    states = []
    for pooling in ("cls", "mean"):
        torch.manual_seed(0)
        section = text("bert", vocab_size=90) | {"pooling": pooling}
        model = sizes(text=section, fusion={"depth": 1, "width": 24})
        tokenizer = TextTokenizer.train([*CAPTIONS, *ANSWERS], 80)
        task = Task(tiny_config(), model, tokenizer)
        freeze(task, BOTH)
        task.cache_frozen(runtime(tmp_path), [Shards(data, "val")])
        ids, mask = task.texts(CAPTIONS)
        with torch.no_grad():
            states.append(task.model.encode_text(ids, mask)[:, 0])
            assert torch.allclose(
                states[-1],
                task.model.text_adapter(
                    task.model.text_encoder(ids, -1e4 * (1 - mask[:, None, None].float()))
                )[:, 0],
                atol=1e-2,
            ), pooling
    assert not torch.allclose(states[0], states[1], atol=0.1)


def test_above_the_limit_nothing_is_cached_and_the_warning_names_the_value(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for limit, warnings in ((0.0, 0), (1e-7, 2)):
        task = frozen_task()
        task.cache_frozen(runtime(tmp_path, frozen_gb=limit), both(data))
        assert caplog.text.count("runtime.frozen_gb") == warnings
        assert not isinstance(task.resize, ImageCache)
        assert task.model.known_texts is None
    assert not caches(tmp_path / "albef/frozen")
    assert_same_step(frozen_task(), task, Shards(data, "train"))


def filled(folder: Path, limit: int, shards: Shards, shift: float = 0.0) -> set[Path]:
    """The new caches after the images of a split are cached by an encoder of its own."""
    task, before = frozen_task(), set(caches(folder)) if folder.exists() else set()
    with torch.no_grad():
        next(task.model.image_encoder.parameters()).add_(shift)
    states = FrozenStates(folder, limit, task.sizes)
    assert states.images(task.model.image_encoder, [shards], Evaluate(16), 0) is not None
    return set(caches(folder)) - before


def test_the_caches_that_were_not_used_for_longest_make_room(data: Path, tmp_path: Path) -> None:
    folder, shards = tmp_path / "frozen", Shards(data, "val")
    (first,) = filled(folder, 10**9, shards)
    size = sum(it.stat().st_size for it in first.iterdir())
    (second,) = filled(folder, 10**9, shards, 0.1)
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    assert filled(folder, 10**9, shards) == set(), "the first is used again"
    (third,) = filled(folder, int(2.5 * size), shards, 0.2)
    assert set(caches(folder)) == {first, third}


def test_damaged_images_are_counted_as_without_a_cache(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    rows = [toy.noisy(i, captions=(CAPTIONS[i % 4],)) for i in range(24)]
    rows[9] = replace(rows[9], image=rows[9].image[:2000])
    toy.write(folder, rows)
    path, offset = shard_of(folder, 5)
    toy.flip(path, offset + 1000)
    counts = []
    for cached in (False, True):
        task, shards = frozen_task(), Shards(folder, "train")
        if cached:
            task.cache_frozen(runtime(tmp_path), [shards])
        collate = task.collate(task.resize if cached else Plain(task))
        pipeline = Pipeline(shards, collate, Sampler(shards, 4, 6, 0, Pool(), None, None), 0)
        damage = DamageCount(shards, Reading(None, 0.2, 0.0))
        for number in range(6):
            damage.add(pipeline.make(number).damaged)
        counts.append(damage.counts())
        with pytest.raises(DamagedShardError):
            shards[5]
    assert counts[0] == counts[1]
    assert counts[0]["records"] == 2


PARTS = ["image_encoder.embeddings", "image_encoder.blocks.0", "text_encoder"]


def test_the_input_of_the_first_block_that_learns_is_cached(data: Path, tmp_path: Path) -> None:
    plain, task = frozen_task(PARTS), frozen_task(PARTS)
    task.cache_frozen(runtime(tmp_path), both(data))
    assert task.model.image_encoder.cached_block == 1
    shards = Shards(data, "train")
    assert_same_step(plain, task, shards)
    _, grads = step(task, batch_of(task, shards))
    assert any(name.startswith("model.image_encoder.vit.blocks.1.") for name in grads)
    tables = plain.predict(shards, 4), task.predict(shards, 4)
    assert tables[0]["rank_itc"] == tables[1]["rank_itc"]


@pytest.mark.parametrize("name", IMAGES)
def test_blocks_of_other_encoders_are_cached(name: str, data: Path, tmp_path: Path) -> None:
    plain, task = other_task(name, PARTS), other_task(name, PARTS)
    task.cache_frozen(runtime(tmp_path), [Shards(data, "train")])
    assert task.model.image_encoder.cached_block, name
    assert_same_step(plain, task, Shards(data, "train"))


def test_blocks_are_cached_whole_where_only_the_pooled_state_is_read(
    data: Path, tmp_path: Path
) -> None:
    for parts, shape in ((PARTS, (5, 24)), (BOTH, (1, 24))):
        plain, task = frozen_task(parts, itm=False), frozen_task(parts, itm=False)
        task.cache_frozen(runtime(tmp_path), both(data))
        assert batch_of(task, Shards(data, "train"))["image"].shape[1:] == shape
        assert_same_step(plain, task, Shards(data, "train"))


def test_values_that_went_through_a_checkpoint_have_the_same_cache(
    data: Path, tmp_path: Path
) -> None:
    """The architecture of a text encoder is a mapping, whose order JSON changes."""
    model = sizes(text=text("bert", vocab_size=90), fusion={"depth": 1, "width": 24})
    read = validate(
        ModelConfig, json.loads(json.dumps(model.model_dump(), sort_keys=True)), where="x"
    )
    assert read == model
    tokenizer = TextTokenizer.train([*CAPTIONS, *ANSWERS], 80)
    for equal in (model, read):
        torch.manual_seed(0)
        task = Task(tiny_config(freeze=list(BOTH)), equal, tokenizer)
        task.cache_frozen(runtime(tmp_path), [Shards(data, "val")])
    assert len(caches(tmp_path / "albef" / "frozen")) == 2  # one of images, one of texts


@pytest.mark.parametrize("name", ["", "vit_tiny_patch16_224"])
@pytest.mark.usefixtures("own_cache")
def test_steps_are_the_same_with_blocks_that_are_recomputed(
    name: str, data: Path, tmp_path: Path
) -> None:
    shards = Shards(data, "train")
    for parts in (PARTS, BOTH):
        plain, task = (other_task(name, parts) if name else frozen_task(parts) for _ in range(2))
        task.cache_frozen(runtime(tmp_path, recompute=True), both(data))
        assert isinstance(task.resize, ImageCache) is (parts == BOTH)
        recompute(task, True)
        assert_same_step(plain, task, shards)


def test_maps_of_a_frozen_image_encoder_read_pixels(data: Path, tmp_path: Path) -> None:
    shards = Shards(data, "val")
    rows = [replace(shards[i], meta={"box": [0, 0, 9, 9]}) for i in range(4)]
    for gradcam in ("itc", "itm"):
        plain, task = (tiny_task("grounding", gradcam=gradcam, freeze=BOTH) for _ in range(2))
        freeze(task, BOTH)
        task.cache_frozen(runtime(tmp_path), [shards])
        assert task.predict(rows, 4)["box"] == plain.predict(rows, 4)["box"]


def test_unknown_texts_are_encoded(data: Path, tmp_path: Path) -> None:
    plain, task = frozen_task(), frozen_task()
    task.cache_frozen(runtime(tmp_path), both(data))
    calls = Calls(task)
    texts = [CAPTIONS[0], "a squid above three frogs", "a fox", CAPTIONS[2]]
    ids, mask = task.texts(texts)
    ids[3, 2] = task.tokenizer.mask_id  # as MLM changes it
    with torch.no_grad():
        found, expected = (it.model.encode_text(ids, mask) for it in (task, plain))
    weights = mask[..., None]
    torch.testing.assert_close(found * weights, expected * weights, rtol=1e-3, atol=1e-3)
    assert calls.texts == 3


def pretraining_task(**changed: object) -> Any:
    torch.manual_seed(0)
    values = {
        "dataset": "toy", "epochs": 1, "global_batch_size": 6, "precision": "float32", "lr": 1e-3,
        "warmup_steps": 0, "queue_size": 8, "freeze": BOTH, "max_tokens": 12,
        "model": tiny_task().sizes.model_dump(), **changed,
    }  # fmt: skip
    tokenizer = TextTokenizer.train([*CAPTIONS, *ANSWERS], 80)
    task = pretraining.Task(validate(pretraining.Config, values, where="tests"), tokenizer)
    freeze(task, BOTH)
    return task


@pytest.mark.parametrize("changed", [{}, {"momentum": 0.0}, {"mlm": False, "itm": False}])
def test_steps_with_a_cache_equal_those_without(
    changed: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    shards = Shards(data, "train")
    for make in (pretraining_task, frozen_task):
        own = {k: v for k, v in changed.items() if make is pretraining_task or k != "mlm"}
        plain, task = make(**own), make(**own)
        task.cache_frozen(runtime(tmp_path), both(data))
        calls = Calls(task)
        assert_same_step(plain, task, shards)
        assert calls.images == 0
        is_masked = make is pretraining_task and task.config.mlm
        assert (0 < calls.texts <= 6) if is_masked else calls.texts == 0


def _attach(data: Path, folder: Path, started: Any) -> None:
    started.wait()
    torch.set_num_threads(1)
    task = frozen_task()
    task.cache_frozen(runtime(folder), both(data))
    os._exit(0 if isinstance(task.resize, ImageCache) else 1)


def test_two_processes_at_once_leave_a_valid_cache(data: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    processes = [context.Process(target=_attach, args=(data, tmp_path, started)) for _ in range(2)]
    for process in processes:
        process.start()
    started.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    task = frozen_task()
    calls = Calls(task)
    task.cache_frozen(runtime(tmp_path), both(data))
    assert (calls.images, calls.texts) == (0, 0)
    assert_same_step(frozen_task(), task, Shards(data, "train"))


class _Slow(ImageEncoder):
    """An encoder that is killed while it computes."""

    def __init__(self, encoder: ImageEncoder, marker: Path) -> None:
        super().__init__()
        self.encoder, self._marker, self.waits = encoder, marker, True

    def forward(self, images: Tensor) -> Tensor:
        states: Tensor = self.encoder(images)
        if self.waits and self._marker.exists():
            time.sleep(600)
        self._marker.touch()
        return states


def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    toy.write(folder, [toy.record(i, captions=(CAPTIONS[i % 4],)) for i in range(40)])
    shards, marker = Shards(folder, "train"), tmp_path / "first"
    task = frozen_task()
    frozen = FrozenStates(tmp_path / "frozen", 10**9, task.sizes)
    encoder = task.model.image_encoder
    slow = _Slow(encoder, marker).requires_grad_(False)

    def write() -> None:
        torch.set_num_threads(1)
        frozen.images(slow, [shards], Evaluate(16), 0)

    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    while not (marker.exists() and caches(tmp_path / "frozen")):
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (left,) = caches(tmp_path / "frozen")
    assert left.name.endswith(".part")
    slow.waits = False
    (part,) = frozen.images(slow, [shards], Evaluate(16), 0) or []
    assert bytes(part["digests"][3]) == hashlib.sha256(shards[3].image).digest()
    with torch.no_grad():
        pixels = torch.from_numpy(Evaluate(16)(shards[39].image))[None]
        torch.testing.assert_close(
            torch.from_numpy(part["states"][39].astype(np.float32)), encoder(pixels)[0],
            rtol=1e-3, atol=1e-3,
        )  # fmt: skip
