"""Answers from keys and values that the package `kvpress` has pressed.

Settings: `model` (folder), `device`, `dtype`. A request holds token ids: `context` (the prompt up to the end of the
documents) and `questions` (what follows, for each question); further `press` (a class of kvpress), `options` (its
arguments), `keep` (entries to keep of the context), `stops` (ids that end an answer) and `max_new_tokens`. The answer
holds `answers` (token ids, without stops), `kept` (entries of each layer) and `bytes` of the kept keys and values.

Keys and values keep the positions of their tokens, and the question's follow those of the whole context, as in
kvpress's own pipeline.
"""

from contextlib import nullcontext
from typing import Any

from peer_protocol import serve

Fields = dict[str, Any]
PACKAGES = ("kvpress", "transformers", "torch")


def start(settings: Fields) -> Any:
    """Loads the model."""
    import kvpress
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    model = AutoModelForCausalLM.from_pretrained(
        settings["model"],
        dtype=getattr(torch, settings["dtype"]),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    model = model.eval().to(settings["device"])

    def next_token(ids: list[int], cache: Any, position: int) -> int:
        """The likeliest token after ids that begin at a position."""
        positions = torch.arange(position, position + len(ids), device=model.device)[None]
        row = torch.tensor([ids], device=model.device)
        output = model(row, past_key_values=cache, position_ids=positions, logits_to_keep=1)
        return int(output.logits[0, -1].argmax())

    def reply(ids: list[int], cache: Any, position: int, request: Fields) -> list[int]:
        """Token ids of a greedy answer to a question that begins at a position."""
        made: list[int] = []
        token = next_token(ids, cache, position)
        position += len(ids)
        while token not in request["stops"]:
            made.append(token)
            if len(made) == request["max_new_tokens"]:
                break
            token = next_token([token], cache, position)
            position += 1
        return made

    @torch.no_grad()
    def answer(request: Fields) -> Fields:
        context, cache = request["context"], DynamicCache()
        press = _press(kvpress, request)
        with nullcontext() if press is None else press(model):
            model.model(torch.tensor([context], device=model.device), past_key_values=cache)
        kept = [(layer.keys, layer.values) for layer in cache.layers]
        answers = []
        for question in request["questions"]:
            for layer, (keys, values) in zip(cache.layers, kept, strict=True):
                layer.keys, layer.values = keys, values
            answers.append(reply(question, cache, len(context), request))
        held = sum(tensor.numel() * tensor.element_size() for pair in kept for tensor in pair)
        return {"answers": answers, "kept": [keys.shape[2] for keys, _ in kept], "bytes": held}

    return answer


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
