"""Encoders of timm and transformers, each with a small partner: a step, and the export.

The weights are random, so only times, differences and sizes mean something. Processor time is
measured, with one thread.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from albef.config import validate
from albef.export.graphs import parts
from albef.export.onnx import write_graphs
from albef.export.torch_model import TorchBackend
from albef.export.verify import compare, shapes
from albef.models.weights import load_checkpoint, save_checkpoint
from albef.runtime.sessions import CPU, Sessions
from albef.tasks.pretraining import Config, Task
from albef.training.optim import adamw
from benchmarks.timing import machine
from tests.original import vocabulary

PAIRS, TOKENS, VOCABULARY = 2, 16, 30522
IMAGES = (
    "vit_tiny_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_siglip_224",
    "eva02_tiny_patch14_224",
    "swin_tiny_patch4_window7_224",
    "convnext_tiny",
)
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXTS: dict[str, dict[str, Any]] = {
    "MiniLM, 6 layers": {
        "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6,
        "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": VOCABULARY,
    },
    "DistilBERT": {"model_type": "distilbert", "vocab_size": VOCABULARY},
    "XLM-R": {
        "model_type": "xlm-roberta", **_BASE, "vocab_size": 250002, "max_position_embeddings": 514
    },
    "ModernBERT": {"model_type": "modernbert", "vocab_size": 50368},
}  # fmt: skip
"""Architectures of text encoders; none is read from a network."""


def main() -> None:
    """Print a table of docs/reference/encoders.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", help="encoders; all if there is none")
    chosen = parser.parse_args().names or [*IMAGES, *TEXTS]
    torch.set_num_threads(1)
    print(f"{machine()}; a step of {PAIRS} pairs of 224 px and {TOKENS} tokens, float32\n")
    print("| encoder | parameters, million | step, s | export differs by | graph, MB |")
    print("|---|---|---|---|---|")
    for name in chosen:
        print(f"| {name} | {' | '.join(_row(name))} |", flush=True)


def _row(name: str) -> list[str]:
    image = {"timm": IMAGES[0] if name in TEXTS else name, "pretrained": False, "image_size": 224}
    config = TEXTS.get(name, TEXTS["MiniLM, 6 layers"])
    model = {
        "image": image,
        "text": {"transformers": name, "pretrained": False, "config": config},
        "fusion": {"depth": 3},
        "embed_dim": 256,
    }
    values = {"dataset": "", "epochs": 1, "global_batch_size": PAIRS, "lr": 1e-4, "warmup_steps": 0}
    values |= {"model": model, "queue_size": 64}
    torch.manual_seed(0)
    task = Task(validate(Config, values, where="benchmark"), vocabulary(VOCABULARY)).train()
    graph = "text_encoder" if name in TEXTS else "image_encoder"
    encoder = task.model.get_submodule(graph)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    seconds = _step(task)
    with tempfile.TemporaryDirectory() as folder:
        difference, size = _export(task.eval(), graph, Path(folder))
    return [f"{count / 1e6:.0f}", f"{seconds:.1f}", f"{difference:.0e}", f"{size / 1e6:.0f}"]


def _step(task: Task) -> float:
    """Processor time of the second of two steps."""
    optimizer, seconds = adamw(task, 1e-4, 0.02), 0.0
    ids = torch.randint(5, VOCABULARY, (PAIRS, TOKENS))
    ids[:, 0] = task.tokenizer.cls_id
    positions = torch.arange(1, 4).expand(PAIRS, -1)
    batch = {
        "image": torch.randn(PAIRS, 3, 224, 224), "ids": ids, "text_mask": torch.ones_like(ids),
        "masked_ids": ids, "mlm_positions": positions, "mlm_labels": ids.gather(1, positions),
    }  # fmt: skip
    for _ in range(2):
        start = time.process_time()
        task.begin_step()
        outputs = task(batch, 1.0)
        outputs["loss"].backward()
        task.end_step([{name: value.detach() for name, value in outputs.items()}])
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.process_time() - start
    return seconds


def _export(task: Task, graph: str, folder: Path) -> tuple[float, int]:
    """Largest difference of an encoder's graph from torch, and its size in bytes."""
    save_checkpoint(
        folder, kind="pretraining", model=task.sizes, tensors=task.state_dict(),
        tokenizer=task.tokenizer, values=task.config.model_dump(), provenance={},
    )  # fmt: skip
    made = parts(load_checkpoint(folder))
    only = {graph: made.graphs[graph]}
    write_graphs(only, folder, 23, VOCABULARY)
    candidate = Sessions(folder, "float32", [graph], [CPU], 1)
    found = compare(only, TorchBackend(made), candidate, shapes(12), VOCABULARY)
    size = (folder / "float32" / graph / "1" / "model.onnx").stat().st_size
    return max(difference.largest for difference in found), size


if __name__ == "__main__":
    main()
