"""bfloat16 beside float32 on this machine: the encoder's forward pass, and a step of the decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch

import latentpress
from benchmarks.results import Report, Result, Settings, Side
from benchmarks.work import forward_work, logits_work
from latentpress.attention import KeyValueCache, Layout
from latentpress.decoder.generate import Sampling, generate, prefill
from latentpress.evaluation.timing import interleave
from latentpress.press import Press

_STEPS = 16


def run(press: Press, settings: Settings) -> list[Report]:
    """Loads the press once more in float32 and times both in turn."""
    settings.note("loading the press in float32")
    presses = {"bfloat16": press, "float32": latentpress.load(settings.press, device="cpu", dtype="float32")}
    if press.model.decoder.dtype != torch.bfloat16:
        presses["bfloat16"] = latentpress.load(settings.press, device="cpu", dtype="bfloat16")
    windows, past = (1, 16) if settings.quick else (2, 256)
    forward = {name: _forward(one, windows) for name, one in presses.items()}
    decode = {name: _decode(one, past) for name, one in presses.items()}
    rounds = 2 if settings.quick else 5
    return [
        _compare(
            settings, forward, rounds, f"encoder forward pass, {windows} x {press.config.window_tokens} tokens", 1
        ),
        _compare(settings, decode, rounds, f"decode step behind {past} positions, one sequence", _STEPS),
    ]


Timed = tuple[Callable[[], None], Callable[[Settings], float]]
"""What is timed, and its least seconds."""


def _compare(settings: Settings, sides: dict[str, Timed], rounds: int, name: str, steps: int) -> Result:
    times = interleave(
        {dtype: action for dtype, (action, _) in sides.items()}, rounds=rounds, seconds=15, note=settings.note
    )
    least = {dtype: floor(settings) / steps for dtype, (_, floor) in sides.items()}
    return Result(
        name=f"float32 over bfloat16: {name}",
        measured=times.ratio("float32", "bfloat16"),
        floor=least["float32"] / least["bfloat16"],
        sides=tuple(
            Side(name=f"{name}, {dtype}", measured=times.spread(dtype).over(steps), floor=least[dtype])
            for dtype in sides
        ),
    )


def _forward(press: Press, windows: int) -> Timed:
    backbone = press.model.encoder or press.model.decoder
    lengths = [press.config.window_tokens] * windows
    ids = torch.randint(backbone.body.config.vocab_size, (sum(lengths),), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def action() -> None:
        backbone(backbone.embed(ids), Layout.of(lengths, "bidirectional"))

    return action, lambda settings: forward_work(backbone, lengths, causal=False).seconds(
        settings.machine, backbone.dtype
    )


def _decode(press: Press, past: int) -> Timed:
    backbone, vocabulary = press.model.decoder, press.base.model.config.vocab_size
    ids = torch.randint(vocabulary, (past,), generator=torch.Generator().manual_seed(0))
    prefix = KeyValueCache(1)
    states = prefill(backbone, [backbone.embed(ids)], prefix)

    def action() -> None:
        tokens = generate(backbone, states, prefix.fork(), frozenset(), Sampling(max_new_tokens=_STEPS + 1))
        assert len(list(tokens)) == _STEPS + 1, "nothing stops it"

    def floor(settings: Settings) -> float:
        step = forward_work(backbone, [1], causal=True, past=past) + logits_work(backbone, 1, vocabulary)
        return (step * _STEPS).seconds(settings.machine, backbone.dtype)

    return action, floor
