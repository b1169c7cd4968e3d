"""Weights that lie shared out over the processes of a training, as `accelerate launch` asks for (FSDP2).

Every layer of the base model is a part of its own: its weights are put together for its passes and let go after them.
Everything else, embeddings, converter, head and the like, is one part more. A checkpoint or a press holds whole
weights, so that it does not tell how many processes made it.

What is whole is put together by all processes at once: each function that says so is called by all of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from latentpress.errors import TrainingError
from latentpress.model import PressModel

if TYPE_CHECKING:
    from accelerate import Accelerator

_STEP = "step"  # of an optimiser's states the one that is no tensor of its parameter's shape


def use_on_cpus(accelerator: Accelerator) -> None:
    """Lets weights be shared out over processes on CPUs, which is for trying it.

    accelerate reads the settings there, and leaves them out without a word.
    """
    if _asked() and accelerator.state.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()


def _asked() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_settings() -> None:
    """Refuses settings of accelerate's that a training cannot work with, before the base model is loaded.

    Raises:
        TrainingError: there is one, with what to write.
    """
    if not _asked():
        return
    plugin = FullyShardedDataParallelPlugin()
    refused = {
        "fsdp_version": (plugin.fsdp_version != 2, "2: frozen and trained weights of a layer differ in type"),
        "fsdp_cpu_ram_efficient_loading": (
            bool(plugin.cpu_ram_efficient_loading),
            "false: every process reads the base model itself",
        ),
        "fsdp_activation_checkpointing": (
            bool(plugin.activation_checkpointing),
            "false: dropout would not be drawn again alike; give tokens_per_pass=2000 for less memory",
        ),
        "fsdp_offload_params": (
            type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy",
            "false: weights are put together where they are computed with",
        ),
    }
    for name, (found, remedy) in refused.items():
        if found:
            raise TrainingError(f"{name} of the accelerate configuration is not supported as it is; set it to {remedy}")


def make_shareable(press: PressModel) -> frozenset[str]:
    """Prepares a press for being shared out.

    The encoder gets frozen Parameters of its own, for a Parameter can lie in one part only; they are the decoder's
    tensors until they are shared out. Numbers become vectors of one element, for there must be an axis to cut.

    Returns:
        Names of what was a number.
    """
    if press.encoder is not None and press.encoder is not press.decoder:
        for module in press.encoder.body.layers.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad:
                    setattr(module, name, nn.Parameter(parameter.detach(), requires_grad=False))
    numbers = [name for name, parameter in press.named_parameters() if parameter.ndim == 0]
    for name in numbers:
        owner, _, leaf = name.rpartition(".")
        number = press.get_parameter(name)
        setattr(
            press.get_submodule(owner),
            leaf,
            nn.Parameter(number.detach().reshape(1), requires_grad=number.requires_grad),
        )
    return frozenset(numbers)


def whole(state: Mapping[str, Tensor], numbers: AbstractSet[str]) -> dict[str, Tensor]:
    """Tensors by name as they are without any sharing; all processes call it.

    Args:
        state: of a press; those that are not shared out are passed on.
        numbers: names of those that are numbers; see `make_shareable`.
    """
    return {name: whole_tensor(tensor, number=name in numbers) for name, tensor in state.items()}


def whole_tensor(tensor: Tensor, *, number: bool = False) -> Tensor:
    """One tensor as it is without any sharing; all processes call it."""
    if not isinstance(tensor, DTensor):
        return tensor
    found: Tensor = tensor.full_tensor()
    return found.reshape(()) if number else found


def whole_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], numbers: AbstractSet[str]
) -> dict[str, Any]:
    """State of an optimiser as it is without any sharing; all processes call it.

    Args:
        optimizer: over the parameters.
        parameters: by name.
        numbers: names of those that are numbers.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    plain: dict[str, Any] = optimizer.state_dict()
    states = {
        i: {key: whole_tensor(value, number=order[i] in numbers) for key, value in state.items()}
        for i, state in plain["state"].items()
    }
    return {**plain, "state": states}


def shared_optimizer_state(plain: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """This process's part of what `whole_optimizer_state` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = {
        i: {key: value if key == _STEP else _part(value, parameters[i]) for key, value in state.items()}
        for i, state in plain["state"].items()
    }
    return {**plain, "state": states}


def _part(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process has of a parameter."""
    if not isinstance(like, DTensor):
        return tensor
    here = tensor.reshape(like.shape).to(like.device)
    return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)


@contextlib.contextmanager
def put_together(model: nn.Module, *, again: bool) -> Iterator[None]:
    """Keeps all weights whole in every process: passes in it need no other process. All processes enter it.

    Args:
        model: what is shared out.
        again: whether layers let their weights go after a forward pass otherwise.
    """
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(again and part is not model, recurse=False)
