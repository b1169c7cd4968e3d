"""Answers from keys and values that the package `kvpress` has pressed.

Settings: `model` (folder), `device`, `dtype`, `threads`. All texts are token ids. A request says in `do` what it wants:

    answer    presses a context, then answers `questions` (what follows it, for each) until one of the ids in `stops`,
              of at most `max_new_tokens`; gives `answers`, without stops
    hold      presses a context and keeps what is left of it under a `name`, in place of what was there; gives `seconds`
    read      answers a `question` from what is kept under a `name`, in `tokens` tokens whatever they are, and leaves it
              as it was; gives `answer`, and seconds to its `first_token` and in `total`

The first two hold a `context` (the prompt up to the end of the documents), `press` (a class of kvpress), `options` (its
arguments) and `keep` (entries to keep of the context), and give `kept` (entries of each layer) and `bytes` (of all kept
keys and values).

Keys and values keep the positions of their tokens, and the question's follow those of the whole context, as in
kvpress's own pipeline.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from peer_protocol import serve

Fields = dict[str, Any]
PACKAGES = ("kvpress", "transformers", "torch")


@dataclass
class Pressed:
    """What a press has left of a context."""

    cache: Any
    """Its keys and values, and behind them those of the answer that was last written."""
    entries: list[tuple[Any, Any]]
    """Keys and values of each layer; the cache makes new ones when it grows, and these stay as they are."""
    tokens: int
    """Of the context."""

    def rewind(self) -> None:
        """Takes what was written since out of the cache."""
        for layer, (keys, values) in zip(self.cache.layers, self.entries, strict=True):
            layer.keys, layer.values = keys, values

    def about(self) -> Fields:
        """Entries of each layer, and bytes of all."""
        held = sum(tensor.numel() * tensor.element_size() for pair in self.entries for tensor in pair)
        return {"kept": [keys.shape[2] for keys, _ in self.entries], "bytes": held}


def start(settings: Fields) -> Any:
    """Loads the model."""
    import kvpress
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(settings["threads"])
    model = AutoModelForCausalLM.from_pretrained(
        settings["model"],
        dtype=getattr(torch, settings["dtype"]),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    model = model.eval().to(settings["device"])
    held: dict[str, Pressed] = {}

    @torch.no_grad()
    def pressed(request: Fields) -> Pressed:
        context, cache = request["context"], DynamicCache()
        press = _press(kvpress, request)
        with nullcontext() if press is None else press(model):
            model.model(torch.tensor([context], device=model.device), past_key_values=cache)
        return Pressed(cache, [(layer.keys, layer.values) for layer in cache.layers], len(context))

    @torch.no_grad()
    def next_token(ids: list[int], cache: Any, position: int) -> int:
        """The likeliest token after ids that begin at a position."""
        positions = torch.arange(position, position + len(ids), device=model.device)[None]
        row = torch.tensor([ids], device=model.device)
        output = model(row, past_key_values=cache, position_ids=positions, logits_to_keep=1)
        return int(output.logits[0, -1].argmax())

    def written(ids: list[int], text: Pressed) -> Iterator[int]:
        """The likeliest tokens after a context and what follows it, without end."""
        text.rewind()
        position = text.tokens
        while True:
            token = next_token(ids, text.cache, position)
            yield token
            position += len(ids)
            ids = [token]

    def answer(request: Fields) -> Fields:
        text, stops = pressed(request), request["stops"]
        answers = [
            list(islice(takewhile(lambda token: token not in stops, written(ids, text)), request["max_new_tokens"]))
            for ids in request["questions"]
        ]
        return {"answers": answers, **text.about()}

    def hold(request: Fields) -> Fields:
        with _no_collections():
            began = time.perf_counter()
            text = pressed(request)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
        held[request["name"]] = text
        return {"seconds": seconds, **text.about()}

    def read(request: Fields) -> Fields:
        text = held[request["name"]]
        with _no_collections():
            began = time.perf_counter()
            tokens = written(request["question"], text)
            made = [next(tokens)]
            first = time.perf_counter() - began
            made += islice(tokens, request["tokens"] - 1)
            total = time.perf_counter() - began
        text.rewind()
        return {"answer": made, "first_token": first, "total": total}

    commands = {"answer": answer, "hold": hold, "read": read}
    return lambda request: commands[request["do"]](request)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Garbage is collected before and not within, as where the other systems are timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _press(kvpress: Any, request: Fields) -> Any:
    """The press of a request; None where all entries are kept."""
    tokens, keep = len(request["context"]), request["keep"]
    if keep >= tokens:
        return None
    # kvpress counts the fraction removed, and keeps int(tokens * (1 - fraction)) entries: half an entry is room for
    # the rounding of floats.
    removed = 1 - (keep + 0.5) / tokens
    return getattr(kvpress, request["press"])(compression_ratio=removed, **request["options"])


if __name__ == "__main__":
    serve(PACKAGES, start)
