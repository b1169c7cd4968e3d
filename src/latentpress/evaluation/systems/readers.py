"""What reads text: the base model as it is, or a decoder trained to read text.

Every reader is a press that hands on text as it is, at ratio 1: the base model through one without adapters, the
trained ones as the recipes `reader` and `prompt-tuning` make them. One code reads for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from latentpress.attention import KeyValueCache
from latentpress.backbone import Backbone
from latentpress.checkpoints.config import PressConfig
from latentpress.compressors import FirstTokens
from latentpress.decoder.generate import Prompt, Sampling, prefill
from latentpress.decoder.prompt import Piece, PromptSettings, Slot, render
from latentpress.decoder.reader import Reader
from latentpress.errors import InputError
from latentpress.evaluation.systems.base import Setup
from latentpress.evaluation.systems.batching import Reply, answered
from latentpress.model import PressModel
from latentpress.press import Press

ZERO_SHOT = "zero-shot"
"""Name of the reader that is the base model as it is."""


class TextReader:
    """Answers questions about texts, greedily.

    Args:
        name: `zero-shot`, or that of a trained reader.
        press: one that hands on text as it is.

    Raises:
        InputError: a press of another kind.
    """

    def __init__(self, name: str, press: Press) -> None:
        compressor, candidates = press.config.compressor, press.model.policy.candidates
        if compressor != FirstTokens.name or 1 not in candidates:
            raise InputError(
                f"press {press.config.name!r} cannot be the reader {name!r}: it compresses ({compressor!r}, ratios "
                f"{', '.join(map(str, candidates))}), and a reader hands on text as it is; "
                "give one trained by the recipe reader or prompt-tuning"
            )
        _check_kind(name, press)
        self.name, self.press = name, press
        model, self._prompt = press.model, press.config.prompt
        self._reader = Reader(model.decoder, press.base, self._prompt, model.policy, model.compressor.count)
        self._alone = render(press.base.tokenizer, [("system", [self._prompt.system]), ("user", [Slot(0)])])

    def identity(self) -> dict[str, Any]:
        """Whatever its answers depend on beside text, question and length."""
        return {
            "base": self.press.base.fingerprint,
            "dtype": str(self.press.model.decoder.dtype).removeprefix("torch."),
            "reader": self.press.fingerprint,
            "prompt": dataclasses.asdict(self._prompt),
        }

    def answer(self, texts: Sequence[str], questions: Sequence[str], max_new_tokens: int) -> list[Reply]:
        """Answers questions in bounded batches.

        Without a text, the prompt names no context: the user's message is the question alone ("Question: ..."), without
        the words and blank lines that stand before it otherwise. It takes the text's place as one that is handed on as
        it is, so that vectors of prompt tuning stand before it too.

        Args:
            texts: one for each question; one without a visible character is none.
            questions: plain texts.
            max_new_tokens: most tokens of each answer.

        Returns:
            For each question its answer, or the error that says by how much it does not fit.

        Raises:
            InputError: an empty question.
        """
        composed = [self._composed(text, question) for text, question in zip(texts, questions, strict=True)]
        prompts = [prompt for _, prompt in composed]
        distinct = list(dict.fromkeys(document for document, _ in composed))
        verbatim = dict(zip(distinct, self.press.compress(distinct, ratio=1), strict=True))
        latents = [[verbatim[document]] for document, _ in composed]
        sampling = Sampling(max_new_tokens=max_new_tokens)

        def ask(batch: list[int]) -> list[str]:
            chosen, own = [prompts[i] for i in batch], [latents[i] for i in batch]
            return self._reader.answer_many(chosen, own, sampling, len(batch))

        rows = zip(prompts, latents, strict=True)
        return answered(ask, [self._reader.positions(prompt, own) + max_new_tokens for prompt, own in rows])

    def prompt(self, text: str, question: str) -> tuple[Backbone, Prompt]:
        """What reads, and the prompt that `answer` reads; see `Timed.prompt`."""
        document, prompt = self._composed(text, question)
        return self._reader.backbone, self._reader.embed(prompt, self.press.compress([document], ratio=1))

    def opened(self, text: str) -> KeyValueCache:
        """Keys and values of a text as it stands in the prompt, up to the question."""
        cache = KeyValueCache(1)
        opening = self._reader.embed(self._reader.opening(1), self.press.compress([text], ratio=1))
        prefill(self._reader.backbone, [opening], cache)
        return cache

    def question(self, question: str) -> tuple[Backbone, Prompt]:
        """What reads, and the prompt from the end of the text on."""
        return self._reader.backbone, self._reader.embed([self._reader.request(question)], [])

    def _composed(self, text: str, question: str) -> tuple[str, list[Piece]]:
        """What stands in the prompt's slot, and the prompt; without a text, the question stands there, alone."""
        request = self._reader.request(question)
        if text.strip():
            return text, [*self._reader.opening(1), request]
        return self._prompt.question.replace("{question}", question).lstrip(), self._alone


def _check_kind(name: str, press: Press) -> None:
    """Makes sure that a reader is what its name says.

    Raises:
        InputError: a prompt-tuned reader without prompt vectors or with an adapter, or a tuned one the other way about.
    """
    vectors, adapter = press.config.prompt_vectors, press.config.decoder_lora is not None
    wrong = {
        "tuned": vectors > 0 or not adapter,
        "prompt-tuned": vectors == 0 or adapter,
    }
    if wrong.get(name):
        is_there = f"{vectors} prompt vectors and {'an' if adapter else 'no'} adapter"
        wanted = "an adapter and no prompt vectors" if name == "tuned" else "prompt vectors and no adapter"
        raise InputError(
            f"press {press.config.name!r} cannot be the reader {name!r}: it has {is_there}, not {wanted}; "
            f"train one with the recipe {'reader' if name == 'tuned' else 'prompt-tuning'}"
        )


def text_reader(setup: Setup, name: str) -> TextReader:
    """The reader of a name.

    Raises:
        InputError: there is none of that name, or it cannot read for the base model of the setup.
    """
    if name == ZERO_SHOT:
        return TextReader(name, plain_press(setup.press, setup.prompt))
    press = setup.readers.get(name)
    if press is None:
        known = ", ".join([ZERO_SHOT, *setup.readers])
        raise InputError(f"there is no reader {name!r} (known: {known}); give the press that reads as {name!r}")
    if press.base.fingerprint != setup.press.base.fingerprint:
        raise InputError(
            f"the reader {name!r} runs on the base model {press.base.id!r} ({press.base.fingerprint[:12]}), the "
            f"comparison on {setup.press.base.id!r} ({setup.press.base.fingerprint[:12]}); "
            "give a reader that was trained on the latter"
        )
    return TextReader(name, press)


def plain_press(press: Press, prompt: PromptSettings | None = None) -> Press:
    """The base model of a press as it is, as a press that hands on text as it is.

    Args:
        press: whose base model, which is shared, not copied.
        prompt: texts around what is read; the press's if None.
    """
    config = PressConfig(
        name=ZERO_SHOT,
        base=press.config.base,
        encoder_lora=None,
        decoder_lora=None,
        compressor=FirstTokens.name,
        policy="fixed",
        candidates=(1,),
        residual="none",
        prompt=prompt or press.config.prompt,
    )
    return Press(PressModel(config, press.base), press.base, None, press.base.fingerprint)
