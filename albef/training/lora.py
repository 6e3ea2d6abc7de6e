"""LoRA: small matrices that learn beside frozen linear layers of the encoders (Hu et al., 2021)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from albef.config import ParamsError, did_you_mean, fixed
from albef.models.momentum import MomentumModel
from albef.tasks.task import LoraConfig, Task

ENCODERS = ("image_encoder", "text_encoder", "fusion_encoder")
QUERY_VALUE = ("qkv", "query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "Wqkv")
"""Names of the layers that compute queries and values in our encoders, timm and transformers."""


def adapt(task: Task, config: LoraConfig) -> None:
    """Freeze the encoders of a task's ``model`` and add adapters to them, in place.

    The momentum model becomes a copy that shares the frozen weights. From then on,
    ``task.state_dict()`` leaves out the frozen weights, and ``task.load_state_dict()`` keeps them.

    Raises:
        ParamsError: the library peft is missing, the task has no ``model`` with encoders, or no
            linear layer has the name of a target.
    """
    try:
        import peft
    except ImportError:
        raise ParamsError("lora needs the library peft: `pip install '.[lora]'`") from None
    model: Any = getattr(task, "model", None)
    if missing := [name for name in ENCODERS if not hasattr(model, name)]:
        raise ParamsError(
            f"lora needs {', '.join(ENCODERS)} in `self.model` of a task, but the task of "
            f"{type(task).__module__} has no {missing[0]} there; remove `lora`"
        )
    frozen = {p for name in ENCODERS for p in model.get_submodule(name).parameters()}
    trained = [p for p in model.parameters() if p.requires_grad and p not in frozen]
    settings = peft.LoraConfig(
        r=max(1, round(fixed(config.rank))),
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_targets(model, config),
    )
    peft.inject_adapter_in_model(settings, model)
    layer: Any
    for layer in model.modules():  # timm's EVA and BEiT would read the weight without its adapter
        if hasattr(layer, "qkv_bias_separate"):
            layer.qkv_bias_separate = True
    for parameter in trained:  # peft freezes all but its adapters
        parameter.requires_grad_(True)
    if hasattr(task, "model_m"):
        task.model_m = MomentumModel(model, shared=frozen)
    named = task.named_parameters(remove_duplicate=False)
    base = {name: parameter for name, parameter in named if parameter in frozen}

    def leave_out(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
        for name in base:
            del state[prefix + name]

    def keep(module: nn.Module, keys: Any) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if name not in base]

    task.register_state_dict_post_hook(leave_out)  # type: ignore[no-untyped-call]
    task.register_load_state_dict_post_hook(keep)  # type: ignore[no-untyped-call]
    task.base = base


def merged(task: Task, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the state of a task with its adapters merged, by the names of a task without any.

    The task may have none. Another ``state`` of it is loaded and merged instead.
    """
    if not task.base:
        return dict(state or task.state_dict())
    if state:
        task.load_state_dict(state)
    tensors: dict[str, Tensor] = {}
    for name, tensor in {**task.state_dict(), **task.base}.items():
        if ".lora_" not in name:  # cloned, because the momentum model shares weights
            tensors[name.replace(".base_layer.", ".")] = tensor.detach().clone()
    for name, layer in task.named_modules():
        if hasattr(layer, "get_delta_weight"):
            tensors[f"{name}.weight"] += layer.get_delta_weight("default").detach()
    return tensors


def _targets(model: nn.Module, config: LoraConfig) -> list[str]:
    """Return the names of the linear layers of the encoders that get adapters."""
    linear = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith(ENCODERS) and layer.weight.requires_grad
    ]
    targets = config.targets or QUERY_VALUE
    found = {target: [n for n in linear if f".{n}".endswith(f".{target}")] for target in targets}
    ends = sorted({name.rpartition(".")[2] for name in linear})
    for target in config.targets or ():
        if not found[target]:
            hint = did_you_mean(target.rpartition(".")[2], ends)
            raise ParamsError(
                f"lora.targets: no linear layer of encoders that learn is {target!r}{hint}"
            )
    if not any(found.values()):
        rest = f": {', '.join(ends)}" if ends else "; `freeze` freezes all of them"
        raise ParamsError(f"set lora.targets to linear layers of encoders that learn{rest}")
    return sorted({name for names in found.values() for name in names})
