"""The optimiser over what a training moves."""

from __future__ import annotations

from typing import Any

import torch

from latentpress.errors import InputError
from latentpress.lora import LoraLinear
from latentpress.model import PressModel
from latentpress.training.checkpoint import trained
from latentpress.training.recipes import Recipe


def adamw(press: PressModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over the float32 masters of a press: adapters and the rest at their own rates, matrices decay.

    Prompt vectors are the decoder's as an adapter is, and go with these.
    """
    layers = [layer for layer in press.modules() if isinstance(layer, LoraLinear)]
    adapters = {id(p) for layer in layers for p in (layer.lora_A, layer.lora_B)}
    if press.decoder.prompt is not None:
        adapters.add(id(press.decoder.prompt))
    masters = list(trained(press).values())
    if not masters:
        raise InputError(
            "this training has nothing to train: the base model is frozen, and there is no adapter, compressor or "
            "vector of its own; give decoder_lora.rank=16 or prompt_vectors=32"
        )
    assert all(p.dtype == torch.float32 for p in masters), "masters are float32"
    groups: list[dict[str, Any]] = []
    for lr, in_adapters in ((recipe.learning_rate, True), (recipe.other_learning_rate, False)):
        for decay, matrices in ((recipe.weight_decay, True), (0.0, False)):
            mine = [p for p in masters if (id(p) in adapters, p.ndim > 1) == (in_adapters, matrices)]
            if mine:
                groups.append({"params": mine, "lr": lr, "weight_decay": decay})
    return torch.optim.AdamW(groups, betas=(0.9, recipe.beta2), fused=True)
