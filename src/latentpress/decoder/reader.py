"""The reading side of a press: prompts that hold latents in, answers out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from latentpress.arguments import checked_text
from latentpress.attention import KeyValueCache
from latentpress.backbone import Backbone, Base
from latentpress.compressors import Ratio, Size
from latentpress.decoder.generate import Prompt, Sampling, generate, prefill, prompt_of
from latentpress.decoder.prompt import Piece, PromptSettings, Slot, ask_messages, render, split_at_last_slot
from latentpress.errors import ContextTooLongError, InputError
from latentpress.latents import Latents
from latentpress.ratios import RatioPolicy

# What decoders of tokens put for bytes that are no whole character (yet).
_INCOMPLETE = "\ufffd"


class Reader:
    """A decoder with its tokenizer and the texts it was trained to see around latents.

    Args:
        backbone: the network that reads and answers.
        base: the base model it runs on.
        prompt: the texts around latents.
        policy: whose candidates are the remedy for a prompt that is too long.
        count: latents of a window of so many tokens at a size.
    """

    def __init__(
        self,
        backbone: Backbone,
        base: Base,
        prompt: PromptSettings,
        policy: RatioPolicy,
        count: Callable[[int, Size], int],
    ) -> None:
        self.backbone = backbone
        self.tokenizer = base.tokenizer
        self._limit = base.max_positions
        self._stops = stop_tokens(base)
        self._prompt = prompt
        self._policy, self._count = policy, count

    def opening(self, documents: int) -> list[Piece]:
        """What all questions about so many documents share: the prompt up to the last document's slot."""
        return split_at_last_slot(render(self.tokenizer, ask_messages(self._prompt, documents, "?")))[0]

    def request(self, question: str) -> list[int]:
        """What follows the opening: token ids of a question and of the template up to the answer.

        Raises:
            InputError: an empty question, or no text.
        """
        if not checked_text(question, "the question").strip():
            raise InputError("the question is empty; ask something")
        request = self._prompt.question.replace("{question}", question)
        return split_at_last_slot(render(self.tokenizer, ask_messages(self._prompt, 1, request)))[1]

    def prompt(self, latents: Sequence[Latents], request: list[int]) -> list[Piece]:
        """The whole prompt of a question (see `request`) about documents."""
        return [*self.opening(len(latents)), request]

    def embed(self, pieces: Sequence[Piece], latents: Sequence[Latents]) -> Prompt:
        """A prompt as the decoder reads it: input embeddings, with cache entries among them if latents are such."""
        return prompt_of(self.backbone, pieces, [one.vectors for one in latents])

    def positions(self, pieces: Sequence[Piece], latents: Sequence[Latents]) -> int:
        """Positions that a prompt takes once its slots have grown to their documents' latents."""
        used = sum(len(latents[piece.document]) if isinstance(piece, Slot) else len(piece) for piece in pieces)
        slots = any(isinstance(piece, Slot) for piece in pieces)
        return used + (len(self.backbone.prompt) if slots and self.backbone.prompt is not None else 0)

    def has_room(self, used: int) -> bool:
        """Whether a prompt of so many positions fits the decoder."""
        return used <= self._limit

    def check_room(self, used: int, new: int, latents: Sequence[Latents]) -> None:
        """Makes sure that a prompt and its answer fit the decoder.

        Args:
            used: positions of the prompt.
            new: most tokens of the answer.
            latents: the documents in the prompt.

        Raises:
            ContextTooLongError: naming the candidate that keeps most of those at which it would fit.
        """
        if self.has_room(used + new):
            return
        beside = used - sum(len(one) for one in latents) + new
        fitting = [size for size in self._policy.ordered() if beside + self._latents_at(size, latents) <= self._limit]
        if not latents and used <= self._limit:
            remedy = f"lower max_new_tokens to {self._limit - used} at most"
        elif not latents:
            remedy = "shorten the text, or compress it"
        elif fitting:
            direction = "more" if self._policy.kind is Ratio else "less"
            remedy = f"compress at {self._policy.word()}={fitting[0].value} or {direction}"
        elif beside + len(latents) > self._limit:
            remedy = f"{beside} of them are not latents: shorten the question, or lower max_new_tokens"
        else:
            listed = ", ".join(map(str, self._policy.candidates))
            tokens = sum(one.context_tokens for one in latents)
            remedy = (
                f"none of the {self._policy.word()}s {listed} makes {tokens} tokens fit; ask about fewer documents, or "
                "parts"
            )
        raise ContextTooLongError(
            f"the prompt takes {used} positions and the answer up to {new}, the decoder has {self._limit}; {remedy}"
        )

    def _latents_at(self, size: Size, latents: Sequence[Latents]) -> int:
        """Latents of the same documents, were they compressed at a size."""
        documents = [[window.tokens for window in one.windows] for one in latents]
        return sum(
            self._count(tokens, share)
            for windows in documents
            for tokens, share in zip(windows, self._policy.spread(size, windows), strict=True)
        )

    def answer(
        self, prompt: Sequence[Piece], latents: Sequence[Latents], sampling: Sampling, *, stream: bool
    ) -> str | Iterator[str]:
        """Answers one prompt.

        Args:
            prompt: tokens and slots.
            latents: for the slots.
            sampling: length and randomness.
            stream: return an iterator of pieces of the answer.

        Raises:
            ContextTooLongError: see `check_room`; at once also when streaming.
        """
        self.check_room(self.positions(prompt, latents), sampling.max_new_tokens, latents)
        embedded, cache = self.embed(prompt, latents), KeyValueCache(1)
        if stream:
            return self.stream(embedded, cache, sampling)
        return self.continued([embedded], cache, sampling)[0]

    def answer_many(
        self,
        prompts: Sequence[Sequence[Piece]],
        latents: Sequence[Sequence[Latents]],
        sampling: Sampling,
        batch_size: int,
    ) -> list[str]:
        """Answers prompts in batches of similar length; see `answer`.

        Raises:
            ContextTooLongError: any of them is too long; before the first is read.
        """
        sizes = [self.positions(prompt, own) for prompt, own in zip(prompts, latents, strict=True)]
        for used, own in zip(sizes, latents, strict=True):
            self.check_room(used, sampling.max_new_tokens, own)
        answers = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=sizes.__getitem__)
        for batch in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
            embedded = [self.embed(prompts[i], latents[i]) for i in batch]
            for i, answer in zip(batch, self.continued(embedded, KeyValueCache(len(batch)), sampling), strict=True):
                answers[i] = answer
        return answers

    def continued(self, prompts: Sequence[Prompt], cache: KeyValueCache, sampling: Sampling) -> list[str]:
        """Continues prompts together.

        Args:
            prompts: what each holds.
            cache: what came before each prompt; extended.
            sampling: length and randomness.
        """
        states = prefill(self.backbone, prompts, cache)
        tokens: list[list[int]] = [[] for _ in prompts]
        for row in generate(self.backbone, states, cache, self._stops, sampling):
            for mine, token in zip(tokens, row, strict=True):
                if token is not None:
                    mine.append(token)
        return [self._text(mine) for mine in tokens]

    def stream(self, prompt: Prompt, cache: KeyValueCache, sampling: Sampling) -> Iterator[str]:
        """Continues one prompt and yields its answer in pieces as it grows; see `continued`."""
        states = prefill(self.backbone, [prompt], cache)
        tokens: list[int] = []
        shown = 0
        for row in generate(self.backbone, states, cache, self._stops, sampling):
            tokens += [token for token in row if token is not None]
            text = self._text(tokens)
            if len(text) > shown and not text.endswith(_INCOMPLETE):
                yield text[shown:]
                shown = len(text)
        if rest := self._text(tokens)[shown:]:
            yield rest

    def _text(self, tokens: list[int]) -> str:
        # No clean-up of spaces: it would take back characters that a stream has shown.
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def stop_tokens(base: Base) -> frozenset[int]:
    """Token ids that end an answer: the tokenizer's EOS and those of the model's generation settings."""
    named = getattr(base.model.generation_config, "eos_token_id", None)
    ids = {base.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return frozenset(int(i) for i in ids if i is not None)
