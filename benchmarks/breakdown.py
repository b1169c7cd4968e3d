"""Where the time of compressing and of a training step goes, by torch.profiler."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.documents import nearest_ratio, text_of
from benchmarks.results import Report, Settings, Shares
from benchmarks.training import PACKED, examples_of, step
from latentpress.compressors import Ratio
from latentpress.lora import merge_lora
from latentpress.press import Press

_ATTENTION = ("_EagerAttention", "BranchedAttention", "scaled_dot_product", "flash_attention")
_PRODUCTS = "mm addmm addmm_ bmm baddbmm matmul linear mkldnn_linear"
_COPIES = (
    "copy_ clone contiguous cat stack _to_copy to index index_select index_put_ index_add index_add_ embedding gather "
    "fill_ zero_ zeros zeros_like masked_fill_ empty empty_like empty_strided new_empty new_empty_strided resize_ "
    "slice_backward select_backward embedding_dense_backward constant_pad_nd repeat"
)
# They move nothing.
_VIEWS = (
    "view _unsafe_view reshape t transpose permute as_strided expand slice select unsqueeze squeeze split "
    "split_with_sizes narrow detach detach_ unbind alias flatten lift_fresh result_type item"
)
_GROUPS = {
    **dict.fromkeys(_PRODUCTS.split(), "matrix products"),
    **dict.fromkeys(_COPIES.split(), "copies and look-ups"),
    **dict.fromkeys(_VIEWS.split(), "Python and bookkeeping"),
}
_NAMES = (
    "matrix products",
    "attention",
    "element-wise and reductions",
    "copies and look-ups",
    "Python and bookkeeping",
)


def run(press: Press, settings: Settings) -> list[Report]:
    """Profiles `press.compress` of one full pass of the encoder, and a step on packed rows."""
    windows, contexts, ratio = (2, 2, nearest_ratio(press, 4)) if settings.quick else (8, 4, nearest_ratio(press, 4))
    text = text_of(press.base.tokenizer, press.config.window_tokens)
    examples = examples_of(press, contexts)

    def compress() -> None:
        press.compress([text] * windows, ratio=ratio)

    def train() -> None:
        press.model.train()
        step(press.model, PACKED, examples, Ratio(ratio))
        press.model.eval()
        merge_lora(press.model.decoder.body)  # as it was loaded; training dropped it

    settings.note("compressing")
    reports: list[Report] = [shares(f"press.compress, {windows} x {press.config.window_tokens} tokens", compress)]
    settings.note("a training step")
    reports.append(shares(f"training step, {contexts} contexts in packed rows, without the optimiser", train))
    return reports


def shares(name: str, action: Callable[[], None]) -> Shares:
    """Profiles an action after one run for warmth, and sums the time of each operation's own work by group."""
    action()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        action()
        seconds = time.perf_counter() - began
    groups: dict[str, float] = defaultdict(float)
    single: dict[str, float] = defaultdict(float)
    for event in profiler.events() or ():
        own = event.self_cpu_time_total / 1e6
        groups[group(event)] += own
        single[event.name.removeprefix("aten::")] += own
    groups["Python and bookkeeping"] += max(0.0, seconds - sum(groups.values()))
    total = sum(groups.values())
    longest = sorted(single, key=lambda one: -single[one])[:8]
    return Shares(
        name=name,
        seconds=seconds,
        percent={one: 100 * groups[one] / total for one in _NAMES},
        top={one: 100 * single[one] / total for one in longest},
    )


def group(event: Any) -> str:
    """Which group an operation's own time belongs to; whatever runs inside attention is attention."""
    above = event
    while above is not None:
        if any(mark in above.name for mark in _ATTENTION):
            return "attention"
        above = above.cpu_parent
    kind, _, name = event.name.rpartition("::")
    if kind != "aten":  # autograd's own and Python's; what they call is counted where it is called
        return "Python and bookkeeping"
    return _GROUPS.get(name, "element-wise and reductions")
