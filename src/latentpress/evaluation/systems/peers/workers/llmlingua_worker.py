"""Compresses texts with the package `llmlingua` (LLMLingua, LongLLMLingua), any causal LM as its small model.

Settings: `model` (folder), `device`, `dtype`, `threads`. A request holds `documents`, `question` (null to compress
without it), `target` (tokens to aim at), `options` (more arguments of `PromptCompressor.compress_prompt`) and `forget`
(what was computed of texts is computed anew). The answer holds `kept`, the text.
"""

import hashlib
import math
from collections import OrderedDict
from typing import Any

from peer_protocol import serve

Fields = dict[str, Any]
PACKAGES = ("llmlingua", "transformers", "torch")
REMEMBERED = 2048
"""Texts whose losses stay for other targets: 4 bytes a token."""


class _CharacterCount:
    """Stands in for tiktoken's encoding, whose file is fetched from the network and only counts tokens for a report."""

    def encode(self, text: str) -> str:
        """The text itself, whose length nobody here looks at."""
        return text


class _ListsOfKeysAndValues:
    """A causal LM that takes and gives keys and values as lists of pairs, as llmlingua 0.2.2 indexes and cuts them.

    transformers 5 knows them as a `DynamicCache` alone. The values are the same.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, input_ids: Any, *, past_key_values: Any, **options: Any) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past_key_values or ()):
            cache.update(keys, values, layer)
        output = self._model(input_ids, past_key_values=cache, **options)
        output.logits = output.logits.float()  # a loss in bfloat16 would tie tokens that differ
        output.past_key_values = [[layer.keys, layer.values] for layer in output.past_key_values.layers]
        return output


def _in_whole_segments(compressor: Any) -> Any:
    """The package's loop over segments, which are made as long as it takes for them to tile the text.

    It goes through the text in segments of `iterative_size` tokens and leaves what is behind the last whole one as it
    is (its issues 73 and 196): of 350 tokens the last 150 are kept in any case, of 150 nearly all. Here segments have
    at most as many tokens as asked for, and less than one token for each of them is left over.
    """
    original = compressor.iterative_compress_prompt

    def compress(
        context: list[str], target_token: float, *, iterative_size: int, start: int = 0, **options: Any
    ) -> Any:
        tokens = compressor.get_token_length("\n\n".join(context), add_special_tokens=False) - start
        size = max(1, tokens // max(1, math.ceil(tokens / iterative_size)))
        return original(context, target_token, iterative_size=size, start=start, **options)

    return compress


def _remembered(original: Any, losses: OrderedDict[tuple[Any, ...], Any]) -> Any:
    """The package's losses of texts, computed once for the targets that a text is compressed to.

    It begins with the losses of the whole text, and of each document, which no target changes. Keys and values that it
    asks for with those of the whole text (`end` is None) it throws away, so none are given.
    """

    def get_ppl(
        text: str, granularity: str = "sentence", input_ids: Any = None, attention_mask: Any = None, **options: Any
    ) -> Any:
        past, keys_and_values, end = (options.get(name) for name in ("past_key_values", "return_kv", "end"))
        if past is not None or (keys_and_values and end is not None):
            return original(text, granularity, input_ids, attention_mask, **options)
        ids = None if input_ids is None else hashlib.sha256(input_ids[0].cpu().numpy().tobytes()).digest()
        mode = (options.get("condition_mode"), options.get("condition_pos_id"))
        key = (text, granularity, ids, end, *mode)
        if key not in losses:
            made = original(text, granularity, input_ids, attention_mask, **options)
            losses[key] = made[0] if keys_and_values else made
            if len(losses) > REMEMBERED:
                losses.popitem(last=False)
        loss = losses[key].clone()  # it writes into them
        return (loss, None) if keys_and_values else loss

    return get_ppl


def start(settings: Fields) -> Any:
    """Loads the compressor."""
    import tiktoken
    import torch

    torch.set_num_threads(settings["threads"])
    tiktoken.encoding_for_model = lambda _: _CharacterCount()
    from llmlingua import PromptCompressor

    about = {"trust_remote_code": False, "torch_dtype": getattr(torch, settings["dtype"])}
    compressor = PromptCompressor(settings["model"], device_map=settings["device"], model_config=about)
    compressor.model = _ListsOfKeysAndValues(compressor.model.eval())
    losses = OrderedDict[tuple[Any, ...], Any]()
    compressor.get_ppl = _remembered(compressor.get_ppl, losses)
    compressor.iterative_compress_prompt = _in_whole_segments(compressor)

    def answer(request: Fields) -> Fields:
        if request["forget"]:
            losses.clear()
        done = compressor.compress_prompt(
            request["documents"],
            question=request["question"] or "",
            target_token=request["target"],
            concate_question=False,
            **request["options"],
        )
        return {"kept": done["compressed_prompt"]}

    return answer


if __name__ == "__main__":
    serve(PACKAGES, start)
