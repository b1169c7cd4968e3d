"""Answers from keys and values that the package `kvpress` has pressed.

Settings: `model` (folder), `device`, `dtype`, `threads`. All texts are token ids. A request says in `do` what it wants:

    answer    presses the context of each of its `rows`, then answers the `question` of each (what follows the context)
              until one of the ids in `stops`, of at most `max_new_tokens`, all rows together; gives `answers`, without
              stops. What was read of contexts stays for the requests that follow, until one says `forget`
    hold      presses a context and keeps what is left of it under a `name`, in place of what was there; gives `seconds`
    read      answers a `question` from what is kept under a `name`, in `tokens` tokens whatever they are, and leaves it
              as it was; gives `answer`, and seconds to its `first_token` and in `total`

A row of the first, and the second, hold a `context` (the prompt up to the end of the documents), `press` (a class of
kvpress), `options` (its arguments) and `keep` (entries to keep of the context), and give `kept` (entries of each layer)
and `bytes` (of all kept keys and values); the first gives a list of each.

A press drops entries behind an attention layer, which does not change what the layers above it see. So the model reads
a context once, whatever presses are asked for: each is given, layer by layer, what went into the layer and the keys and
values that came out of it.

Keys and values keep the positions of their tokens, and the question's follow those of the whole context, as in
kvpress's own pipeline.
"""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from peer_protocol import serve

Fields = dict[str, Any]
PACKAGES = ("kvpress", "transformers", "torch")
ROOM = 3 * 2**30
"""Bytes of what was read of contexts that stay for other presses."""


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

    @property
    def kept(self) -> list[int]:
        """Entries of each layer."""
        return [keys.shape[2] for keys, _ in self.entries]

    @property
    def nbytes(self) -> int:
        """Of all entries."""
        return sum(map(_bytes, (tensor for pair in self.entries for tensor in pair)))


@dataclass
class Whole:
    """What the model has read of a context."""

    layers: list[tuple[Any, Fields]]
    """Each attention layer, and what it was called with."""
    entries: list[tuple[Any, Any]]
    """Keys and values of each layer."""
    tokens: int
    """Of the context."""

    @property
    def nbytes(self) -> int:
        """Of what went into the layers and came out of them."""
        inputs = (options["hidden_states"] for _, options in self.layers)
        return sum(map(_bytes, inputs)) + sum(map(_bytes, (tensor for pair in self.entries for tensor in pair)))


class Writing:
    """Answers that are written together, of the likeliest tokens.

    Args:
        model: the model.
        texts: what is left of a context, for each answer.
        questions: ids of what follows it.
    """

    def __init__(self, model: Any, texts: Sequence[Pressed], questions: Sequence[list[int]]) -> None:
        import torch

        self._model = model
        device, longest = model.device, max(map(len, questions))
        pads = [longest - len(ids) for ids in questions]
        after = [text.tokens - pad for text, pad in zip(texts, pads, strict=True)]
        self._ids = torch.tensor([[0] * pad + ids for pad, ids in zip(pads, questions, strict=True)], device=device)
        self._places = torch.tensor([list(range(start, start + longest)) for start in after], device=device).clamp(
            min=0
        )
        self._seen = None
        if len(texts) == 1:
            texts[0].rewind()
            self._cache = texts[0].cache
            return
        width = max(max(text.kept) for text in texts)
        self._cache = _side_by_side(texts, width)
        seen = [
            [0] * (width - text.kept[0]) + [1] * text.kept[0] + [0] * pad + [1] * (longest - pad)
            for text, pad in zip(texts, pads, strict=True)
        ]
        self._seen = torch.tensor(seen, device=device)

    def next(self) -> list[int]:
        """The next token of each answer."""
        import torch

        output = self._model(
            self._ids,
            attention_mask=self._seen,
            past_key_values=self._cache,
            position_ids=self._places,
            logits_to_keep=1,
        )
        self._ids = output.logits[:, -1:].argmax(-1)
        self._places = self._places[:, -1:] + 1
        if self._seen is not None:
            self._seen = torch.cat([self._seen, torch.ones_like(self._ids)], dim=1)
        return list(map(int, self._ids[:, 0]))

    def only(self, rows: list[int]) -> None:
        """Goes on with some of the answers."""
        import torch

        chosen = torch.tensor(rows, device=self._ids.device)
        self._ids, self._places = self._ids[chosen], self._places[chosen]
        if self._seen is not None:
            self._seen = self._seen[chosen]
        self._cache.batch_select_indices(chosen)


class Worker:
    """Presses contexts and answers from what is left.

    Args:
        model: a causal LM of transformers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._held: dict[str, Pressed] = {}
        self._wholes: dict[tuple[int, ...], Whole] = {}

    def answer(self, request: Fields) -> Fields:
        """See above."""
        if request["forget"]:
            self._wholes.clear()
        rows = request["rows"]
        texts = [self.pressed_again(row) for row in rows]
        answers = self._answers(texts, rows, set(request["stops"]), request["max_new_tokens"])
        return {"answers": answers, "kept": [text.kept for text in texts], "bytes": [text.nbytes for text in texts]}

    def hold(self, request: Fields) -> Fields:
        """See above."""
        import torch

        with _no_collections():
            began = time.perf_counter()
            text = self.pressed(request)
            if self._model.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
        self._held[request["name"]] = text
        return {"seconds": seconds, "kept": text.kept, "bytes": text.nbytes}

    def read(self, request: Fields) -> Fields:
        """See above."""
        text = self._held[request["name"]]
        with _no_collections():
            began = time.perf_counter()
            writing = Writing(self._model, [text], [request["question"]])
            made = writing.next()
            first = time.perf_counter() - began
            for _ in range(request["tokens"] - 1):
                made += writing.next()
            total = time.perf_counter() - began
        text.rewind()
        return {"answer": made, "first_token": first, "total": total}

    def pressed(self, request: Fields) -> Pressed:
        """What a press leaves of a context that is read with it, as the package does it."""
        import torch
        from transformers import DynamicCache

        context, cache, press = request["context"], DynamicCache(), _press(request)
        with press(self._model) if press else nullcontext():
            self._model.model(torch.tensor([context], device=self._model.device), past_key_values=cache)
        return Pressed(cache, _entries(cache), len(context))

    def pressed_again(self, request: Fields) -> Pressed:
        """The same, from what is there of the context if it has been read."""
        from transformers import DynamicCache

        text, cache = self._whole(request["context"]), DynamicCache()
        for index, (keys, values) in enumerate(text.entries):
            cache.update(keys, values, index)
        if press := _press(request):
            with press(self._model):  # its hooks behind the layers
                for layer, options in text.layers:
                    with _without_work(layer):
                        layer(**options, past_key_values=cache)
        return Pressed(cache, _entries(cache), text.tokens)

    def _whole(self, context: Sequence[int]) -> Whole:
        """What the model reads of a context; kept while there is room."""
        if found := self._wholes.get(tuple(context)):
            return found
        made = _read(self._model, context)
        if made.nbytes + sum(other.nbytes for other in self._wholes.values()) <= ROOM:
            self._wholes[tuple(context)] = made
        return made

    def _answers(self, texts: Sequence[Pressed], rows: Sequence[Fields], stops: set[int], most: int) -> list[list[int]]:
        """Answers to the rows' questions, without the token that ends them."""
        answers: list[list[int]] = [[] for _ in rows]
        going = list(range(len(rows)))
        unfinished = set(going)
        writing = Writing(self._model, texts, [row["question"] for row in rows])
        for _ in range(most):
            for i, token in zip(going, writing.next(), strict=True):
                if token in stops:
                    unfinished.discard(i)
                elif i in unfinished:
                    answers[i].append(token)
            if not unfinished:
                break
            if 2 * len(unfinished) <= len(going):
                writing.only([place for place, i in enumerate(going) if i in unfinished])
                going = [i for i in going if i in unfinished]
        return answers


def start(settings: Fields) -> Any:
    """Loads the model."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(settings["threads"])
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(
        settings["model"],
        dtype=getattr(torch, settings["dtype"]),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    if settings["device"] == "cpu":
        _let_heads_share()
    worker = Worker(model.eval().to(settings["device"]))
    commands = {"answer": worker.answer, "hold": worker.hold, "read": worker.read}
    return lambda request: commands[request["do"]](request)


def _let_heads_share() -> None:
    """Has query heads share keys and values behind a mask, too, where transformers copies these for each of them.

    It does so for the sake of GPUs, whose fused kernels take no mask then; the CPU's does, and gives the same to the
    bit, without the copy of all keys and values of a batch for each of its tokens.
    """
    from transformers.integrations import sdpa_attention

    assert hasattr(sdpa_attention, "use_gqa_in_sdpa"), "transformers decides elsewhere whether heads share"
    sdpa_attention.use_gqa_in_sdpa = lambda *_: True


def _read(model: Any, context: Sequence[int]) -> Whole:
    """What the model reads of a context."""
    import torch
    from transformers import DynamicCache

    cache, layers = DynamicCache(), list[tuple[Any, Fields]]()
    language_model = getattr(model.model, "language_model", model.model)

    def note(layer: Any, _: Any, options: Fields, __: Any) -> None:
        layers.append((layer, {name: value for name, value in options.items() if name != "past_key_values"}))

    hooks = [block.self_attn.register_forward_hook(note, with_kwargs=True) for block in language_model.layers]
    try:
        model.model(torch.tensor([context], device=model.device), past_key_values=cache)
    finally:
        for hook in hooks:
            hook.remove()
    return Whole(layers, _entries(cache), len(context))


@contextmanager
def _without_work(layer: Any) -> Iterator[None]:
    """A call of an attention layer then does nothing but call its hooks; presses use no attention weights of it."""
    layer.forward = lambda **_: (None, None)
    try:
        yield
    finally:
        del layer.forward


def _entries(cache: Any) -> list[tuple[Any, Any]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _side_by_side(texts: Sequence[Pressed], width: int) -> Any:
    """One cache of several texts, with nothing before the entries of those that have fewer."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for index in range(len(texts[0].entries)):
        keys, values = (_padded([text.entries[index][part] for text in texts], width) for part in (0, 1))
        cache.update(keys, values, index)
    return cache


def _padded(tensors: Sequence[Any], width: int) -> Any:
    """Tensors (1, heads, entries, dim) as rows of one (rows, heads, width, dim), zeros first."""
    _, heads, _, dim = tensors[0].shape
    rows = tensors[0].new_zeros(len(tensors), heads, width, dim)
    for row, tensor in zip(rows, tensors, strict=True):
        row[:, width - tensor.shape[2] :] = tensor[0]
    return rows


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


@contextmanager
def _no_collections() -> Iterator[None]:
    """Garbage is collected before and not within, as where the other systems are timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _press(request: Fields) -> Any:
    """The press of a request; None where all entries are kept."""
    import kvpress

    tokens, keep = len(request["context"]), request["keep"]
    if keep >= tokens:
        return None
    # kvpress counts the fraction removed, and keeps int(tokens * (1 - fraction)) entries: half an entry is room for
    # the rounding of floats.
    removed = 1 - (keep + 0.5) / tokens
    return getattr(kvpress, request["press"])(compression_ratio=removed, **request["options"])


if __name__ == "__main__":
    serve(PACKAGES, start)
