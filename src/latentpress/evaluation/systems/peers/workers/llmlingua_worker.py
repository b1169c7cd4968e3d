"""Compresses texts with the package `llmlingua` (LLMLingua, LongLLMLingua), any causal LM as its small model.

Settings: `model` (folder), `device`. A request holds `documents`, `question` (null to compress without it), `target`
(tokens to aim at) and `options` (more arguments of `PromptCompressor.compress_prompt`). The answer holds `kept`, and
`seconds` of the compression.
"""

import time
from typing import Any

from peer_protocol import peak_bytes, serve

Fields = dict[str, Any]
PACKAGES = ("llmlingua", "transformers", "torch")


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
        output.past_key_values = [[layer.keys, layer.values] for layer in output.past_key_values.layers]
        return output


def start(settings: Fields) -> Any:
    """Loads the compressor."""
    import tiktoken

    tiktoken.encoding_for_model = lambda _: _CharacterCount()
    from llmlingua import PromptCompressor

    compressor = PromptCompressor(
        settings["model"], device_map=settings["device"], model_config={"trust_remote_code": False}
    )
    compressor.model = _ListsOfKeysAndValues(compressor.model.eval())

    def answer(request: Fields) -> Fields:
        begun = time.perf_counter()
        done = compressor.compress_prompt(
            request["documents"],
            question=request["question"] or "",
            target_token=request["target"],
            concate_question=False,
            **request["options"],
        )
        seconds = time.perf_counter() - begun
        return {"kept": done["compressed_prompt"], "seconds": seconds, "peak_bytes": peak_bytes()}

    return answer


if __name__ == "__main__":
    serve(PACKAGES, start)
