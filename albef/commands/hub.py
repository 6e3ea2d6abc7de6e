"""``albef hub``: an export in the Hugging Face Hub's layout, which transformers.js reads.

Graphs are in ``onnx/`` under the Hub's names. The inputs and outputs of the two embedding graphs
also have the Hub's names. The tokenizer cleans a text as ours does, but does not cut it at a number
of words.
"""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import onnx
from huggingface_hub import ModelCard, ModelCardData
from tokenizers import Regex, Tokenizer
from tokenizers.normalizers import Lowercase, Replace, Sequence

from albef.io import atomic
from albef.runtime import manifest as manifests
from albef.runtime.manifest import ANSWERS, TOKENIZER, ExportError, Manifest, graph_file

SUFFIXES = {"float32": "", "float16": "_fp16", "int8": "_quantized", "int8_weights": "_int8"}
"""Suffix of a graph's file name, by precision."""
_HUB_GRAPHS = {"image_encoder": "vision_model", "text_encoder": "text_model"}
_HUB_NAMES = {
    "image": "pixel_values",
    "image_feat": "image_embeds",
    "ids": "input_ids",
    "text_mask": "attention_mask",
    "text_feat": "text_embeds",
}


def main(export: Path, card: Path, out: Path, licence: str, datasets: list[str]) -> None:
    """Write an export in the Hub's layout.

    Args:
        export: export to share, in every precision that its folder has.
        card: its model card, from the report or from a release.
        out: folder to write; it must not exist.
        licence: the Hub's name of the model's licence.
        datasets: names on the Hub of the training datasets.

    Raises:
        ExportError: the folder is not an export, or was changed.
        ValueError: ``out`` exists, or the card cannot be read.
    """
    manifest = manifests.read(export)
    precisions = [name for name in manifest.precisions if (export / name).is_dir()]
    if not precisions:
        raise ExportError(f"{export} has none of its precisions {', '.join(manifest.precisions)}")
    for precision in precisions:
        manifests.check(export, manifest, precision)
    if out.exists():
        raise ValueError(f"{out} exists: name a folder that does not")
    page = _read_card(card, manifest.run, licence, datasets)
    with atomic(out) as part:
        (part / "onnx").mkdir(parents=True)
        for precision in precisions:
            for graph in manifest.graphs:
                name = f"{_HUB_GRAPHS.get(graph, graph)}{SUFFIXES[precision]}.onnx"
                source, target = export / graph_file(precision, graph), part / "onnx" / name
                if graph in _HUB_GRAPHS:
                    target.write_bytes(_rename_values(source))
                else:
                    shutil.copyfile(source, target)
        _cleaning_tokenizer(export / TOKENIZER).save(str(part / TOKENIZER))
        if manifest.model.answering:
            shutil.copyfile(export / ANSWERS, part / ANSWERS)
        for file, values in _configs(manifest).items():
            (part / file).write_text(json.dumps(values, indent=2) + "\n")
        page.save(part / "README.md")


def _read_card(path: Path, run: str, licence: str, datasets: list[str]) -> ModelCard:
    """Read a model card with the Hub's library, and add the metadata that the Hub expects."""
    try:
        card = ModelCard(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is no model card ({error}); name that of {run}, as "
            f"products/report/cards/{run}.md or releases/{run}/VERSION/README.md"
        ) from None
    data = cast(ModelCardData, card.data)
    data.license = licence
    if datasets:
        data.datasets = datasets
    if data.eval_results:
        data.metrics = sorted({result.metric_type for result in data.eval_results})
    return card


def _rename_values(source: Path) -> bytes:
    """Return a graph whose inputs and outputs have the Hub's names."""
    model = onnx.load(source)
    for value in (*model.graph.input, *model.graph.output):
        value.name = _HUB_NAMES.get(value.name, value.name)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [_HUB_NAMES.get(name, name) for name in names]
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _cleaning_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer, preceded by :func:`albef.preprocessing.text.clean_caption`."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.normalizer = Sequence(
        [
            Lowercase(),
            Replace(Regex(r"""[,.'!?"()*#:;~]"""), ""),
            Replace(Regex("[-/]"), " "),
            Replace("<person>", "person"),
            tokenizer.normalizer,
        ]
    )
    return tokenizer


def _configs(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Return the contents of the JSON files, by file name."""
    facts, pixels = manifest.model, manifest.preprocessing
    side = {"height": facts.image_size, "width": facts.image_size}
    special = ("pad", "unk", "cls", "sep", "mask")
    return {
        "config.json": {
            "model_type": "albef",
            "architectures": ["ALBEF"],
            **facts.model_dump(exclude_none=True),
            "provenance": manifest.provenance,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": facts.max_tokens,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            **{f"{name}_token": f"[{name.upper()}]" for name in special},
        },
        "preprocessor_config.json": {
            "image_processor_type": "ViTImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": side,
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": pixels.mean,
            "image_std": pixels.std,
        },
    }
