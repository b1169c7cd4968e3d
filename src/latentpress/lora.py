"""Low-rank adapters whose forward and backward are fused, saved in PEFT's layout.

`y = x W^T + s (x A^T) B^T` (Hu et al. 2021, arXiv 2106.09685, eq. 3). The low-rank product is accumulated into the base
product in place, so an adapter costs its two small matrix products and nothing else: no copies, no casts of
activations, no separate element-wise sum. A and B are float32 masters and are rounded to the base weight's type where
they are used. Where nothing is trained, the update can be merged into a copy of the weight: a single token is read
faster then (docs/decisions.md).

Files are what PEFT writes (`adapter_config.json`, `adapter_model.safetensors`), so that `PeftModel.from_pretrained`
reads them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """Settings of one adapter."""

    rank: int = 16
    """Rank r of the update."""
    alpha: float = 32.0
    """Numerator of the scale."""
    rank_stabilised: bool = True
    """Scale alpha / sqrt(r) instead of alpha / r."""
    dropout: float = 0.0
    """Dropout of the adapter's input in training."""

    @property
    def scale(self) -> float:
        """Factor of the low-rank product."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


class _FusedLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.t()
        y = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
        y.addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(flat, weight, a, b, low)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        flat, weight, a, b, low = ctx.saved_tensors
        d_y = grads[0].reshape(-1, grads[0].shape[-1])
        d_low = d_y @ b
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = d_y @ weight
            d_x.addmm_(d_low, a, alpha=ctx.scale)
            d_x = d_x.view(ctx.shape)
        d_a = (d_low.t() @ flat).mul_(ctx.scale)
        d_b = (d_y.t() @ low).mul_(ctx.scale)
        return d_x, None, None, d_a, d_b, None


class LoraLinear(nn.Module):
    """A linear layer over a frozen, shared weight with a trained low-rank update.

    Args:
        base: the layer to adapt; its Parameters are shared, not copied, and frozen.
        settings: rank, scale and dropout.
    """

    merged: Tensor | None
    """`sum_of_weights`, by which a pass without gradients goes; None: weight and update are applied one by one."""

    def __init__(self, base: nn.Linear, settings: LoraSettings) -> None:
        super().__init__()
        self.base = base
        self.settings = settings
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(settings.rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, settings.rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.register_buffer("merged", None, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The frozen base weight, `[out, in]`; some models look at its type."""
        return self.base.weight

    @torch.no_grad()
    def sum_of_weights(self) -> Tensor:
        """Weight with its update, W + s B A, `[out, in]`, rounded once to the weight's type."""
        weight = self.base.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        update = self.lora_B.to(exact) @ self.lora_A.to(exact)
        return torch.add(weight.to(exact), update, alpha=self.settings.scale).to(weight.dtype)

    def train(self, mode: bool = True) -> LoraLinear:
        """Sets the mode; a layer that is trained has nothing merged."""
        if mode:
            self.merged = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        if not self.training and x.numel() == x.shape[-1]:
            # A single row goes through another matrix kernel, which rounds otherwise in bfloat16: as two rows,
            # one question alone is answered as it is in a batch.
            pair: Tensor = self(x.reshape(1, -1).repeat(2, 1))
            return pair[:1].reshape(*x.shape[:-1], -1)
        if self.merged is not None and not (torch.is_grad_enabled() and self.lora_A.requires_grad):
            return F.linear(x, self.merged, self.base.bias)
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        if self.training and self.settings.dropout:
            low = F.linear(F.linear(F.dropout(x, self.settings.dropout), a), b)
            noisy: Tensor = self.base(x) + self.settings.scale * low
            return noisy
        tensors = (x, self.base.weight, self.base.bias, a, b, self.settings.scale)
        result: Tensor = _FusedLora.apply(*tensors)  # type: ignore[no-untyped-call]
        return result


def add_lora(body: nn.Module, settings: LoraSettings) -> list[str]:
    """Adapts every linear layer of a module tree in place; returns their dotted names."""
    names = [name for name, layer in body.named_modules() if type(layer) is nn.Linear]
    for name in names:
        parent, _, leaf = name.rpartition(".")
        owner = body.get_submodule(parent) if parent else body
        setattr(owner, leaf, LoraLinear(owner.get_submodule(leaf), settings))  # type: ignore[arg-type]
    return names


def merge_lora(body: nn.Module) -> None:
    """Merges every adapter of a tree until it is trained: as fast as without adapters, for more memory."""
    for layer in body.modules():
        if isinstance(layer, LoraLinear):
            layer.merged = layer.sum_of_weights()


def lora_state(body: nn.Module) -> dict[str, Tensor]:
    """Adapter weights of a tree under PEFT's names for a causal LM whose body is `model`."""
    state = {}
    for name, layer in body.named_modules():
        if isinstance(layer, LoraLinear):
            state[f"base_model.model.model.{name}.lora_A.weight"] = layer.lora_A.detach()
            state[f"base_model.model.model.{name}.lora_B.weight"] = layer.lora_B.detach()
    return state


def load_lora_state(body: nn.Module, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Copies adapter weights in; returns names that are missing and names that are unknown or of another shape."""
    own = lora_state(body)
    missing = [name for name in own if name not in state]
    wrong = [name for name, tensor in state.items() if name not in own or own[name].shape != tensor.shape]
    if not missing and not wrong:
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
        for layer in body.modules():
            if isinstance(layer, LoraLinear):
                layer.merged = None
    return missing, wrong
