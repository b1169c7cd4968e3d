"""The least that must be done: operations and bytes, and what this machine needs for them at best.

Counted are matrix products (two operations a multiply-add) and the bytes of weights, keys and values that must be read;
everything else (norms, activations, copies, Python) counts as nothing. So a floor is below what anyone can reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from latentpress.backbone import Backbone
from latentpress.data.rows import Example
from latentpress.lora import LoraLinear
from latentpress.model import PressModel
from latentpress.tokens import equal_windows

if TYPE_CHECKING:
    from latentpress.press import Press


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Highest rates seen on this machine, with the threads in use."""

    operations: dict[str, float]
    """Matrix products by type, operations a second."""
    bandwidth: float
    """Memory read, bytes a second."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one pass cannot do without."""

    operations: float
    """Of matrix products."""
    bytes: float
    """Read from memory."""

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(times * self.operations, times * self.bytes)

    def seconds(self, machine: Machine, dtype: torch.dtype) -> float:
        """Least time: the longer of computing and reading, as if they overlapped."""
        return max(self.operations / machine.operations[type_name(dtype)], self.bytes / machine.bandwidth)


def type_name(dtype: torch.dtype) -> str:
    """`bfloat16` of `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def measure_machine(*, size: int = 2048, megabytes: int = 256) -> Machine:
    """Takes the best of some square matrix products and of some reads of more memory than caches hold.

    Args:
        size: rows of the square matrices.
        megabytes: memory that is read.
    """
    operations = {}
    for dtype in (torch.bfloat16, torch.float32):
        matrix = torch.randn(size, size).to(dtype)
        out = torch.empty_like(matrix)
        operations[type_name(dtype)] = 2 * size**3 / _best(lambda a=matrix, b=out: torch.mm(a, a, out=b))  # type: ignore[misc]
    block = torch.ones(megabytes * 2**20 // 4)
    return Machine(operations=operations, bandwidth=block.nbytes / _best(block.sum))


def _best(action: Callable[[], object], runs: int = 6) -> float:
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def linear_sizes(backbone: Backbone) -> tuple[int, int]:
    """Weights of the linear layers of a backbone, and of their adapters."""
    base = low = 0
    for layer in backbone.body.layers.modules():
        if isinstance(layer, LoraLinear):
            low += layer.lora_A.numel() + layer.lora_B.numel()
        elif isinstance(layer, nn.Linear):
            base += layer.weight.numel()
    return base, low


def _heads(backbone: Backbone) -> tuple[int, int]:
    """Width of all query heads together, and of all key heads."""
    config = backbone.body.config
    each = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_attention_heads * each, config.num_key_value_heads * each


def forward_work(backbone: Backbone, lengths: Sequence[int], *, causal: bool, past: int = 0) -> Work:
    """Work of a forward pass over packed sequences, without the output layer.

    Args:
        backbone: the network.
        lengths: tokens of each sequence.
        causal: whether a token sees only itself and those before it.
        past: cached tokens that each sequence sees too.
    """
    pairs = sum(n * past + (n * (n + 1) / 2 if causal else n * n) for n in lengths)
    base, low = linear_sizes(backbone)
    if any(isinstance(layer, LoraLinear) and layer.merged is not None for layer in backbone.body.modules()):
        low = 0  # the sum of weight and update is read, as large as the weight
    queries, keys = _heads(backbone)
    item = backbone.dtype.itemsize
    operations = 2 * sum(lengths) * (base + low) + 4 * pairs * queries * backbone.depth
    return Work(operations, item * (base + low + 2 * past * len(lengths) * keys * backbone.depth))


def backward_work(backbone: Backbone, tokens: int, pairs: float) -> Work:
    """Work of a forward and a backward pass whose base weights are frozen and whose adapters are trained.

    Args:
        backbone: the network.
        tokens: of the row.
        pairs: (query, key) pairs that see each other.
    """
    base, low = linear_sizes(backbone)
    queries, _ = _heads(backbone)
    # A frozen product: y, dx. An adapter's: y, dx, dw. Attention: scores, output; then their four derivatives.
    operations = 2 * tokens * (2 * base + 3 * low) + 12 * pairs * queries * backbone.depth
    return Work(operations, 2 * backbone.dtype.itemsize * base)


def logits_work(backbone: Backbone, positions: int, vocabulary: int, *, backward: bool = False) -> Work:
    """Work of the output layer at so many positions; with the derivative of its input, if `backward`."""
    weights = vocabulary * backbone.width
    passes = 2 if backward else 1
    return Work(passes * 2 * positions * weights, passes * backbone.dtype.itemsize * weights)


def row_work(model: PressModel, example: Example, latents: int) -> tuple[int, float]:
    """Tokens that a decoder reads of a training row, and (query, key) pairs that see each other.

    Latents that are input embeddings are read as tokens are, those that are cache entries are keys and no queries.

    Args:
        model: the press.
        example: the row.
        latents: of all its documents; counted as if they stood where those of the first one stand.
    """
    tokens, pairs, keys = 0, 0.0, 0
    for piece in example.prefix:
        if isinstance(piece, list):
            n, queries = len(piece), True
        else:
            n, latents, queries = latents, 0, model.decoder.rotation is None
        if queries:
            tokens, pairs = tokens + n, pairs + n * keys + n * (n + 1) / 2
        keys += n
    branches = [len(branch.ids) for branch in example.branches]
    return tokens + sum(branches), pairs + sum(n * keys + n * (n + 1) / 2 for n in branches)


def latents_work(model: PressModel, latents: int) -> Work:
    """Work of the converter for so many latents."""
    if model.converter is None:
        return Work(0, 0)
    weights = model.converter.up.weight.numel() + model.converter.down.weight.numel()
    return Work(2 * latents * weights, model.decoder.dtype.itemsize * weights)


def compress_work(press: Press, lengths: Sequence[int], ratio: int) -> Work:
    """Work of compressing texts of so many tokens: the encoder's pass over their windows, and the converter's."""
    model = press.model
    windows = [end - start for n in lengths for start, end in equal_windows(n, press.config.window_tokens)]
    work = latents_work(model, sum(-(-n // ratio) for n in windows))
    if model.encoder is not None:
        work = work + forward_work(model.encoder, windows, causal=model.compressor.visibility == "causal")
    return work


def weight_bytes(press: Press) -> int:
    """Bytes of all weights of a press and its base model, each counted once however many parts share it."""
    weights = {id(one): one for module in (press.model, press.base.model) for one in module.parameters()}
    return sum(one.nbytes for one in weights.values())


def window_bytes(press: Press, tokens: int) -> int:
    """Bytes that the encoder's pass over a window cannot do without: its row, and keys and values of one layer.

    Every token's output needs its own row and the keys and values of all; anything else could be made in parts.
    """
    encoder = press.model.encoder
    if encoder is None:
        return 0
    return tokens * encoder.dtype.itemsize * (encoder.width + 2 * _heads(encoder)[1])


def kept_bytes(backbone: Backbone, tokens: int) -> int:
    """Bytes that a backward pass needs of the forward pass of a backbone with adapters, nothing being computed twice.

    The inputs of the matrix products, queries, keys, values, and both factors of the gated unit; no attention weights.
    """
    queries, keys = _heads(backbone)
    inner = int(backbone.body.config.intermediate_size)
    each = 2 * backbone.width + 2 * queries + 2 * keys + 3 * inner
    return tokens * backbone.depth * backbone.dtype.itemsize * each
