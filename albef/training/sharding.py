"""Weights that are split over the processes (FSDP2), for encoders that do not fit on a GPU.

Each process holds a part of every block's weights, momentum model included, of their gradients and
of the optimizer's state. It gathers a block's weights before it computes the block. Other
parameters, such as embeddings, are whole in each process, which averages their gradients.
"""

import contextlib
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.experimental import implicit_replication
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from albef.config import ParamsError
from albef.distributed import world
from albef.models.encoders import BLOCK
from albef.tasks.task import Task, TrainingConfig

_FORWARD = ("image_key_value", "attend_to_text", "cross_query")
"""Methods that compute a part of a block, outside its ``forward``."""


class Sharding:
    """Weights of a task's blocks, split over all processes, which have equal weights.

    From then on, ``state_dict`` of the task gathers whole tensors in host memory, so all processes
    must call it, and ``load_state_dict`` takes whole tensors inside :attr:`mixed`.

    Raises:
        ParamsError: the task has values with which its weights cannot be split.
    """

    mixed = staticmethod(implicit_replication)
    """Context in which an operation may take split and whole tensors."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self._task = task
        config: TrainingConfig = task.config
        if config.optimizer == "muon" or config.lora or config.precision == "float16":
            raise ParamsError(
                "runtime.shard needs optimizer: adamw, a precision other than float16, and no "
                "lora; change these values or set runtime.shard to false"
            )
        # Keys and values of a block are views, which nothing changes in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        mesh = init_device_mesh(device.type, (world().size,))
        names = {found[1] for name, _ in task.named_parameters() if (found := BLOCK.match(name))}
        for name in sorted(names, key=len, reverse=True):  # inner blocks first
            block = task.get_submodule(name)
            fully_shard(block, mesh=mesh)
            for method in filter(partial(hasattr, block), _FORWARD):
                register_fsdp_forward_method(block, method)
        parts = {name for name, p in task.named_parameters() if isinstance(p, DTensor)}
        whole = {p for p in task.parameters() if not isinstance(p, DTensor)}
        fully_shard(task, mesh=mesh, ignored_params=whole)  # fetches the next block ahead
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, parts)

        def gather(module: nn.Module, state: dict[str, Any], *_: object) -> None:
            state.update(self.gathered(state))

        task.register_state_dict_post_hook(gather)  # type: ignore[no-untyped-call]

    def split_state(self, optimizer: Optimizer) -> None:
        """Let the state of the weights' optimizer be saved and loaded as whole tensors."""

        def load(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            parts = {
                index: {name: _part(value, parameters[index]) for name, value in values.items()}
                for index, values in state["state"].items()
            }
            return {**state, "state": parts}

        optimizer.register_load_state_dict_pre_hook(load)
        optimizer.register_state_dict_post_hook(lambda optimizer, state: self.gathered(state))

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Hold all weights inside, so that processes can compute different numbers of batches."""
        blocks = [module for module in self._task.modules() if isinstance(module, FSDPModule)]
        for block in blocks:
            block.set_reshard_after_forward(False, recurse=False)
            block.unshard()
        try:
            yield
        finally:
            for block in blocks:
                block.set_reshard_after_forward(True, recurse=False)
                block.reshard()

    @staticmethod
    def gathered(tree: Any) -> Any:
        """Gather each split tensor in nested containers; only the first process keeps it."""
        first = world().first

        def gather(tensor: DTensor) -> Tensor:
            whole = tensor.full_tensor().detach()
            return whole.cpu() if first else whole.new_empty(0)

        return tree_map_only(DTensor, gather, tree)

    def join(self) -> None:
        """Give each process the whole weights of the trained task, to be saved."""
        for module in self._task.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(parameter, DTensor):
                    tensor = parameter.full_tensor().detach().cpu()
                    module._parameters[name] = nn.Parameter(tensor, parameter.requires_grad)


def _part(value: Tensor, parameter: Tensor) -> Tensor:
    """Return this process' part of a tensor that has the shape of a parameter."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value, mesh, placements, src_data_rank=None)
