"""ComprExIT's head beside its plain formula: keys and values of every layer, Sinkhorn's steps under autograd.

The plain side is the formula as it is written (arXiv 2602.03784), batched: two projections of the states of every
layer, three norms, a projection of every token, and thirty pairs of logsumexp that autograd keeps. Both sides have the
same weights and the same frozen states; in bfloat16 both keep the transport in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import child
from benchmarks.results import Report, Result, Settings, Side, Target
from benchmarks.work import Work, forward_work
from latentpress.attention import Layout
from latentpress.backbone import Backbone
from latentpress.compressors import ComprExIT, Ratio, Shape
from latentpress.compressors.comprexit.compressor import ComprExITSettings
from latentpress.evaluation.memory import peak_bytes, reset_peak, resident_bytes
from latentpress.evaluation.timing import Spread, Timings, interleave
from latentpress.press import Press

RATIO = 4
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TARGETS = {"float32": 4.0, "bfloat16": 8.0}
Head = Callable[[ComprExIT, Tensor, int], Tensor]


def ours(head: ComprExIT, states: Tensor, texts: int) -> Tensor:
    """Slots `[M, D]` of states `[L, N, D]` of so many texts of one length, by the library."""
    lengths = [states.shape[1] // texts] * texts
    return head.extract(states, lengths, [Ratio(RATIO)] * texts).vectors


def plain(head: ComprExIT, states: Tensor, texts: int) -> Tensor:  # noqa: ARG001, the signature of `ours`
    """The same by the formula."""
    depth, width, dtype = head.depth, head.width, states.dtype

    def linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
        return F.linear(x, layer.weight.to(dtype), layer.bias.to(dtype))

    def norm(layer: torch.nn.LayerNorm, x: Tensor) -> Tensor:
        return F.layer_norm(x, layer.normalized_shape, layer.weight.to(dtype), layer.bias.to(dtype))

    mixed = (torch.softmax(depth.mix, 0).to(dtype)[:, None, None] * states).sum(0)
    keys = linear(depth.key, states) + depth.layer.to(dtype)[:, None]
    values = linear(depth.value, states)
    scores = (linear(depth.query, mixed) * keys).sum(-1) * depth.scale
    anchors = (torch.softmax(scores.float(), 0).to(dtype).unsqueeze(-1) * values).sum(0)

    segment = head.settings.segment_tokens
    a = anchors.view(-1, segment, anchors.shape[-1])  # [G, W, D]
    slots = segment // RATIO
    receivers = a.view(len(a), slots, RATIO, -1).mean(2)
    sent = F.normalize(linear(width.utility, norm(width.utility_norm, a)).float(), dim=-1)
    taken = F.normalize(linear(width.utility, norm(width.utility_norm, receivers)).float(), dim=-1)
    log_kernel = (sent @ taken.transpose(1, 2) - 1) / width.epsilon
    share = torch.softmax(linear(width.capacity, norm(width.capacity_norm, a))[..., 0].float(), 1)
    log_p = ((1 - width.uniform) * share + width.uniform / segment).log()
    log_b = -math.log(slots)
    v = log_kernel.new_zeros(len(a), 1, slots)
    for _ in range(width.iterations):
        u = log_p.unsqueeze(2) - torch.logsumexp(log_kernel + v, 2, keepdim=True)
        v = log_b - torch.logsumexp(log_kernel + u, 1, keepdim=True)
    plan = (u + log_kernel + v).exp()
    carried = plan.transpose(1, 2).to(dtype) @ linear(width.value, norm(width.value_norm, a)) * slots
    return linear(width.down, F.gelu(linear(width.up, carried))).flatten(0, 1)


HEADS: dict[str, Head] = {"ours": ours, "plain": plain}


def make(width: int, layers: int, texts: int, tokens: int, dtype: torch.dtype) -> tuple[ComprExIT, Tensor]:
    """A head with random weights, and random states `[L, N, D]`."""
    torch.manual_seed(0)
    head = ComprExIT(Shape(width=width, layers=layers, out=width), ComprExITSettings())
    return head, torch.randn(layers, texts * tokens, width).to(dtype)


def step(side: Head, head: ComprExIT, states: Tensor, texts: int) -> None:
    """Forward and backward."""
    head.zero_grad()
    side(head, states, texts).float().square().mean().backward()


def peak(side: str, width: int, layers: int, texts: int, tokens: int, dtype: str) -> int:
    """Bytes that a step needs beside weights and states; for a process of its own."""
    head, states = make(width, layers, texts, tokens, _DTYPES[dtype])
    small = make(width, layers, 1, head.settings.segment_tokens, _DTYPES[dtype])[1]
    step(HEADS[side], head, small, 1)  # what is loaded and set up once
    before = resident_bytes()
    reset_peak()
    step(HEADS[side], head, states, texts)
    return peak_bytes() - before


def run(press: Press, settings: Settings) -> list[Report]:
    """Times forward and backward of both, the forward pass of the frozen base beside ours, and peaks of memory."""
    width, layers = press.base.width, press.base.model.config.num_hidden_layers + 1
    texts, tokens = (2, 128) if settings.quick else (8, 512)
    shown = f"D {width}, L {layers - 1}, {texts} x {tokens} tokens, {RATIO}x"
    reports: list[Report] = []
    for name, dtype in _DTYPES.items():
        settings.note(f"forward and backward, {name}")
        head, states = make(width, layers, texts, tokens, dtype)
        times = interleave(
            {side: lambda run=run, s=states, h=head: step(run, h, s, texts) for side, run in HEADS.items()},  # type: ignore[misc]
            rounds=2 if settings.quick else 7,
            seconds=40,
            note=settings.note,
        )
        floors = {side: head_work(states, head, side).seconds(settings.machine, dtype) for side in HEADS}
        reports.append(
            Result(
                name=f"head forward + backward, plain formula over ours, {name} ({shown})",
                measured=times.ratio("plain", "ours"),
                floor=floors["plain"] / floors["ours"],
                target=Target("at least", _TARGETS[name]),
                sides=tuple(Side(name=side, measured=times.spread(side), floor=floors[side]) for side in HEADS),
            )
        )
        reports.append(_memory(shown, width, layers, texts, tokens, name, settings))
    reports += _shares(press, settings, texts, tokens, shown)
    return reports


def _memory(shown: str, width: int, layers: int, texts: int, tokens: int, name: str, settings: Settings) -> Result:
    settings.note(f"peak memory, {name}, in processes of their own")
    shape = {"width": width, "layers": layers, "texts": texts, "tokens": tokens, "dtype": name}
    peaks = {side: max(1, child.call("benchmarks.comprexit:peak", side=side, **shape)) for side in HEADS}
    item = _DTYPES[name].itemsize
    anchors = texts * tokens * width * item
    least = {"ours": anchors, "plain": anchors + texts * tokens * layers * (width + 256) * item}
    return Result(
        name=f"peak memory of a step beside states and weights, ours over plain, {name} ({shown})",
        measured=Spread.of([peaks["ours"] / peaks["plain"]]),
        floor=least["ours"] / least["plain"],
        target=Target("at most", 1 / 8),
        sides=tuple(
            Side(name=side, measured=Spread.of([float(peaks[side])]), floor=least[side], unit="B") for side in HEADS
        ),
    )


def _shares(press: Press, settings: Settings, texts: int, tokens: int, shown: str) -> list[Report]:
    """Both heads beside the forward pass of the frozen base, in the press's type."""
    settings.note("the head, forward and with its backward pass, beside the frozen base")
    backbone = Backbone(press.base.model)
    ids = torch.randint(3, press.base.model.config.vocab_size, (texts * tokens,))
    layout = Layout.of([tokens] * texts, "causal")
    head, states = make(press.base.width, backbone.depth + 1, texts, tokens, backbone.dtype)
    machine, dtype = settings.machine, backbone.dtype
    frozen = "frozen base, all layers kept"
    work: dict[str, tuple[Callable[[], None], float]] = {
        frozen: (
            lambda: _forward(lambda: backbone.all_layers(backbone.embed(ids), layout)),
            forward_work(backbone, [tokens] * texts, causal=True).seconds(machine, dtype),
        )
    }
    for side, run in HEADS.items():
        work[f"{side}, forward"] = (
            lambda run=run: _forward(lambda: run(head, states, texts)),  # type: ignore[misc]
            head_work(states, head, side, backward=False).seconds(machine, dtype),
        )
        work[f"{side}, forward + backward"] = (
            lambda run=run: step(run, head, states, texts),  # type: ignore[misc]
            head_work(states, head, side).seconds(machine, dtype),
        )
    times: Timings = interleave(
        {name: call for name, (call, _) in work.items()},
        rounds=2 if settings.quick else 5,
        seconds=60,
        note=settings.note,
    )

    def share(side: str, target: Target | None = None, says: str = "") -> Result:
        return Result(
            name=f"{side} of the head over the frozen base's forward pass ({shown})",
            measured=times.ratio(side, frozen),
            floor=work[side][1] / work[frozen][1],
            target=target,
            says=says,
            sides=tuple(Side(name=one, measured=times.spread(one), floor=work[one][1]) for one in (side, frozen)),
        )

    return [
        share("ours, forward", Target("at most", 0.1)),
        share("ours, forward + backward"),
        share("plain, forward"),
        share("plain, forward + backward", says="0.5 to 0.8 is what the formula costs as it is usually written"),
    ]


@torch.no_grad()
def _forward(run: Callable[[], Tensor]) -> None:
    """Runs without keeping anything for a way back, and frees the result within the time that is taken."""
    run()


def head_work(states: Tensor, head: ComprExIT, side: str, *, backward: bool = True) -> Work:
    """Least work of the head: its matrix products, and the states read from memory as often as the way needs it."""
    layers, n, width = states.shape
    d, slots = head.settings.query_width, n // RATIO
    if side == "ours":
        products = n * (2 * width * d + width * width) + (n + slots) * width * d + slots * 3 * width * width
        passes = 6 if backward else 3
    else:
        products = layers * n * (width * d + width * width) + n * width * d
        products += (n + slots) * width * d + n * width * width + slots * 2 * width * width
        passes = 4 if backward else 2
    return Work((3 if backward else 1) * 2 * products, passes * states.nbytes)
