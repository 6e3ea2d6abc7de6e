"""The reference of the Python API, from signatures and docstrings."""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import albef
from albef.config import Section
from albef.runtime.answering import Answering
from albef.runtime.classifying import Classifying, Comparing, Entailing
from albef.runtime.matching import Grounding, Matching
from docs.generate.text import plain

NEEDS_NO_TORCH = (
    "AugmentConfig", "Evaluate", "Record", "TextTokenizer", "Transform", "mask_tokens", "recalls",
    "runtime",
)  # fmt: skip
"""Public names whose import needs no torch."""
LOADING = ("load", "export_onnx", "import_original", "export_original")
"""Functions of the first page; the others are on that of the parts."""
CALLS: dict[type, tuple[str, ...]] = {
    Matching: ("embed_image", "embed_text", "match", "match_logits", "zero_shot"),
    Grounding: ("ground",),
    Answering: ("ask",),
    Classifying: ("classify",),
    Entailing: ("entail",),
    Comparing: ("compare",),
}
"""Classes of models, and the methods of each to call."""
PARTS: dict[str, tuple[str, ...]] = {
    "Model": ("create_model", "ModelConfig", "ALBEF", "ImageEncoder", "TextEncoder",
              "FusionEncoder", "AnswerDecoder", "MLMHead", "attention_bias"),
    "Momentum model and queue": ("MomentumModel", "FeatureQueue"),
    "Losses": ("itc_loss", "one_hot_targets", "same_image_targets", "soft_targets",
               "hard_negatives", "itm_loss", "mlm_loss", "answer_losses", "vqa_loss", "wpa_loss"),
    "Inputs": ("Record", "TextTokenizer", "mask_tokens", "AugmentConfig", "Transform", "Evaluate",
               "normalize_pixels"),
    "Checkpoints": ("Checkpoint", "load_checkpoint", "save_checkpoint"),
    "Metrics": ("first_rank", "recalls"),
}  # fmt: skip
"""Public names by their group."""
METHODS: dict[str, tuple[str, ...]] = {
    "ALBEF": ("encode_image", "encode_text", "image_feat", "text_feat", "fuse", "fused_cls"),
    "ImageEncoder": ("forward",),
    "TextEncoder": ("forward",),
    "FusionEncoder": ("image_key_values", "forward"),
    "AnswerDecoder": ("question_key_values", "forward"),
    "MLMHead": ("forward",),
    "MomentumModel": ("update", "copy_from"),
    "FeatureQueue": ("enqueue",),
    "TextTokenizer": ("train", "load", "save", "clean", "encode", "decode"),
    "Transform": ("__call__",),
    "Evaluate": ("__call__",),
    "Checkpoint": ("part",),
}
"""Methods of the public classes to call."""


def python_page() -> str:
    """Return the reference of what loads and converts models, and of the calls of a model."""
    names = ", ".join(f"`albef.{name}`" for name in NEEDS_NO_TORCH)
    parts = [f"These names need no torch: {names}"]
    for name in ("runtime.load", *LOADING):
        parts += [f"## `albef.{name}`", *_body(_public(name))]
    for cls, calls in CALLS.items():
        parts += [f"## `{cls.__module__}.{cls.__name__}`", plain(inspect.getdoc(cls) or "")]
        for call in calls:
            parts += [f"### `{cls.__name__}.{call}`", *_body(getattr(cls, call))]
    return "\n\n".join(parts)


def parts_page() -> str:
    """Return the reference of the parts of the model and of its training."""
    parts: list[str] = []
    for title, names in PARTS.items():
        parts.append(f"## {title}")
        for name in names:
            public = _public(name)
            parts += [f"### `albef.{name}`", *_body(public)]
            for method in METHODS.get(name, ()):
                parts += [f"#### `{name}.{method}`", *_body(getattr(public, method))]
    return "\n\n".join(parts)


def _public(name: str) -> Any:
    value: Any = albef
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _body(value: Any) -> Iterator[str]:
    """Yield the signature of a function or class, and the parts of its docstring."""
    is_section = inspect.isclass(value) and issubclass(value, Section)
    if is_section:
        yield "```\n" + "\n".join(_fields(value)) + "\n```"
    else:
        call = textwrap.fill(f"{value.__name__}{_signature(value)}", 96, subsequent_indent="    ")
        yield f"```\n{call}\n```"
    for part in plain(inspect.getdoc(value) or "").split("\n\n"):
        title, _, entries = part.partition("\n")
        if part.startswith(">>>"):
            yield "```python\n" + re.sub(r"^>>> ", "", part, flags=re.M) + "\n```"
        elif title in ("Args:", "Attributes:", "Raises:", "Returns:"):
            yield f"{title}\n\n{_list(textwrap.dedent(entries))}"
        else:
            yield part


def _fields(section: type[Section]) -> Iterator[str]:
    """Yield a line for each value of a section, whose meaning the reference of values has."""
    for name, field in section.model_fields.items():
        default = "" if field.is_required() else f" = {field.default!r}"
        yield f"{name}{default}"


def _signature(function: Callable[..., Any]) -> str:
    """Return a signature without `self` and without the modules of types."""
    text = str(inspect.signature(function)).replace("(self, ", "(").replace("(self)", "()")
    text = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(\w+)", r"\1", text)
    return re.sub(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[(\w+)\]\]", r"NDArray[\1]", text)


def _list(entries: str) -> str:
    """Return entries such as ``name: meaning``, each with indented further lines, as a list."""
    joined = re.sub(r"\n +", " ", entries)
    return "\n".join(re.sub(r"^([\w, ]+): ", r"- `\1`: ", line) for line in joined.splitlines())
