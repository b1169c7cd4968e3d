"""What compressing costs beside the forward pass of the encoder that it cannot do without."""

from __future__ import annotations

import torch

from benchmarks.documents import nearest_ratio, text_of
from benchmarks.results import Report, Result, Settings, Side, Target
from benchmarks.work import compress_work, forward_work
from latentpress.attention import Layout
from latentpress.compressors import Ratio
from latentpress.evaluation.timing import interleave
from latentpress.press import Press

_FORWARD, _LATENTS, _WHOLE = "encoder forward pass alone", "encode + latents", "press.compress, from the text"


@torch.no_grad()
def run(press: Press, settings: Settings) -> list[Report]:
    """Times full windows: the bare encoder, the network's whole compression, and the library's call."""
    model, window = press.model, press.config.window_tokens
    encoder = model.encoder
    if encoder is None:
        raise ValueError(
            f"press {press.config.name!r} has no encoder, so there is nothing to compare its compression with"
        )
    count = 2 if settings.quick else 8
    text = text_of(press.base.tokenizer, window)
    ids = list(press.base.tokenizer(text, add_special_tokens=False)["input_ids"])
    row, size = torch.tensor(ids * count), Ratio(nearest_ratio(press, 8))

    def forward() -> None:
        encoder(encoder.embed(row), Layout.of([window] * count, model.compressor.visibility))

    def latents() -> None:
        model.latents(model.encode([ids] * count), [size] * count)

    def whole() -> None:
        press.compress([text] * count, ratio=size.value)

    times = interleave(
        {_FORWARD: forward, _LATENTS: latents, _WHOLE: whole},
        rounds=2 if settings.quick else 5,
        seconds=25,
        note=settings.note,
    )
    bare = forward_work(encoder, [window] * count, causal=model.compressor.visibility == "causal")
    made = compress_work(press, [window] * count, size.value)
    floors = {_FORWARD: bare, _LATENTS: made, _WHOLE: made}
    least = {name: work.seconds(settings.machine, encoder.dtype) for name, work in floors.items()}
    sides = tuple(Side(name=name, measured=times.spread(name), floor=least[name]) for name in times.seconds)
    shape = f"{count} x {window} tokens, ratio {size.value}"
    return [
        Result(
            name=f"{_LATENTS} over {_FORWARD}, {shape}",
            measured=times.ratio(_LATENTS, _FORWARD),
            floor=least[_LATENTS] / least[_FORWARD],
            target=Target("at most", 1.15),
            sides=sides,
        ),
        Result(
            name=f"{_WHOLE}, over {_FORWARD}, {shape}",
            measured=times.ratio(_WHOLE, _FORWARD),
            floor=least[_WHOLE] / least[_FORWARD],
            says="with tokenizing, spans and the hash of the text",
        ),
    ]
