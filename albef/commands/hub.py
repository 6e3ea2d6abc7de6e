"""``albef hub``: an export in the Hugging Face Hub's layout, which transformers.js reads.

Graphs are in ``onnx/``. The graphs of a model that matches images and texts have CLIP's names, and
``model.onnx`` contains both encoders.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any, cast

import onnx
from huggingface_hub import ModelCard, ModelCardData
from onnx.compose import add_prefix, merge_models

from albef.io import atomic
from albef.preprocessing.text import TextTokenizer
from albef.runtime import manifest as manifests
from albef.runtime.manifest import ANSWERS, TOKENIZER, ExportError, Manifest, graph_file

SUFFIXES = {"float32": "", "float16": "_fp16", "int8": "_quantized"}
"""Suffix of a graph's file name, by precision."""
_DTYPES = {"float32": "fp32", "float16": "fp16", "int8": "q8"}
_HUB_GRAPHS = {"image_encoder": "vision_model", "text_encoder": "text_model"}
_HUB_NAMES = {
    "image": "pixel_values",
    "image_feat": "image_embeds",
    "ids": "input_ids",
    "text_mask": "attention_mask",
    "text_feat": "text_embeds",
}
_TRANSFORMERS_JS = """With [transformers.js](https://huggingface.co/docs/transformers.js):

```js
import {{ pipeline, RawImage }} from "@huggingface/transformers";
import sharp from "sharp";

async function read(file) {{
  const image = sharp(file).rotate().flatten({{ background: "#fff" }}).toColourspace("srgb");
  const how = {{ fit: "fill", kernel: "cubic", fastShrinkOnLoad: false }};
  const resized = image.resize({side}, {side}, how);
  const {{ data, info }} = await resized.raw().toBuffer({{ resolveWithObject: true }});
  return new RawImage(new Uint8ClampedArray(data), info.width, info.height, info.channels);
}}

const options = {{ dtype: "{dtype}" }};
const classify = await pipeline("zero-shot-image-classification", "USER/REPOSITORY", options);
await classify(await read("a.png"), ["a dog", "two apples"], {{ hypothesis_template: "{{}}" }});
```

`read` is needed because transformers.js resizes without antialiasing, and drops transparency
instead of painting it white. Colors of CMYK images differ slightly from Pillow's.

`AutoModel` returns `image_embeds`, `text_embeds`, `logits_per_image` and `logits_per_text`."""
_ONNX_RUNTIME = """In Python:

```python
from onnxruntime import InferenceSession
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("REPOSITORY")
processor = AutoImageProcessor.from_pretrained("REPOSITORY", backend="pil")
encoder = InferenceSession("REPOSITORY/onnx/{encoder}.onnx")
image = processor(Image.open("a.png").convert("RGB"), return_tensors="np")
outputs = encoder.run(None, {{"pixel_values": image["pixel_values"]}})
```

`albef.runtime.load` loads the export that this repository was made from, not this repository."""


def main(export: Path, card: Path, out: Path, licence: str, datasets: list[str]) -> None:
    """Write an export in the Hub's layout, in every precision that its folder has.

    ``card`` is its model card, from the report or from a release. ``licence`` and ``datasets`` have
    the Hub's names.
    """
    manifest = manifests.read(export)
    precisions = [name for name in manifest.precisions if (export / name).is_dir()]
    if not precisions:
        raise ExportError(f"{export} has none of its precisions {', '.join(manifest.precisions)}")
    for precision in precisions:
        manifests.check(export, manifest, precision)
    if out.exists():
        raise ValueError(f"{out} exists; remove it or choose another folder")
    page = _read_card(card, manifest.run, licence, datasets)
    # The first example of the card loads the export.
    usage = _ONNX_RUNTIME.format(encoder=f"vision_model{SUFFIXES[precisions[0]]}")
    if manifest.model.itc_temperature is not None:
        side, dtype = manifest.model.image_size, _DTYPES[precisions[0]]
        usage = f"{_TRANSFORMERS_JS.format(side=side, dtype=dtype)}\n\n{usage}"
    page.text = re.sub(r"```.*?```", lambda _: usage, page.text, count=1, flags=re.DOTALL)
    with atomic(out) as part:
        (part / "onnx").mkdir(parents=True)
        for precision in precisions:
            _write_graphs(export, part / "onnx", manifest, precision)
        for name in (TOKENIZER, *([ANSWERS] if manifest.model.answering else [])):
            shutil.copyfile(export / name, part / name)
        tokenizer = TextTokenizer.load(export / TOKENIZER, patterns=True)
        for file, values in _configs(manifest, tokenizer).items():
            (part / file).write_text(json.dumps(values, indent=2) + "\n")
        page.save(part / "README.md")


def _read_card(path: Path, run: str, licence: str, datasets: list[str]) -> ModelCard:
    """Read a model card with the Hub's library, and add the metadata that the Hub expects."""
    try:
        card = ModelCard(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not a model card ({error}); use that of {run}: "
            f"products/report/cards/{run}.md or releases/{run}/VERSION/README.md"
        ) from None
    data = cast(ModelCardData, card.data)
    data.license = licence
    if datasets:
        data.datasets = datasets
    if data.eval_results:
        data.metrics = sorted({result.metric_type for result in data.eval_results})
    return card


def _write_graphs(export: Path, folder: Path, manifest: Manifest, precision: str) -> None:
    encoders = []
    for graph in manifest.graphs:
        source = export / graph_file(precision, graph)
        target = folder / f"{_HUB_GRAPHS.get(graph, graph)}{SUFFIXES[precision]}.onnx"
        if graph in _HUB_GRAPHS:
            encoders.append(_rename_values(onnx.load(source)))
            _save(encoders[-1], target)
        else:
            shutil.copyfile(source, target)
    if (temperature := manifest.model.itc_temperature) is not None:
        image, text = encoders
        _save(_combine(image, text, temperature), folder / f"model{SUFFIXES[precision]}.onnx")


def _save(model: Any, path: Path) -> None:
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _combine(image: Any, text: Any, temperature: float) -> Any:
    """Return one graph of an image and a text encoder, with CLIP's inputs and outputs."""
    parts = []
    for model, axis in ((image, "images"), (text, "texts")):
        part = add_prefix(model, f"{axis}/", rename_inputs=False, rename_outputs=False)
        for value in (*part.graph.input, *part.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = axis
        parts.append(part)
    both = merge_models(*parts, io_map=[], outputs=["image_embeds", "text_embeds"])
    head = onnx.parser.parse_graph(
        f"""head () => (float[images, texts] logits_per_image, float[texts, images] logits_per_text)
        {{
            logit_scale = Constant <value_float = {1 / temperature}> ()
            transposed = Transpose <perm = [1, 0]> (text_embeds)
            similarities = MatMul (image_embeds, transposed)
            logits_per_image = Mul (similarities, logit_scale)
            logits_per_text = Transpose <perm = [1, 0]> (logits_per_image)
        }}"""
    )
    both.graph.node.extend(head.node)
    both.graph.output.extend(head.output)
    del both.graph.value_info[:]
    return both


def _rename_values(model: Any) -> Any:
    for value in (*model.graph.input, *model.graph.output):
        value.name = _HUB_NAMES.get(value.name, value.name)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [_HUB_NAMES.get(name, name) for name in names]
    return model


def _configs(manifest: Manifest, tokenizer: TextTokenizer) -> dict[str, dict[str, Any]]:
    facts, pixels = manifest.model, manifest.preprocessing
    side = {"height": facts.image_size, "width": facts.image_size}
    special = {
        name: getattr(tokenizer, f"{name}_id") for name in ["pad", "unk", "cls", "sep", "mask"]
    }
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
            **{f"{k}_token": tokenizer.tokenizer.id_to_token(v) for k, v in special.items()},
        },
        "preprocessor_config.json": {
            "image_processor_type": "ViTImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": side,
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": pixels.rescale,
            "do_normalize": True,
            "image_mean": pixels.mean,
            "image_std": pixels.std,
        },
    }
