"""The contract of a ratio policy: how many latents a text gets."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from latentpress.compressors.base import Length, Ratio, Size
from latentpress.errors import RatioError

USUAL: dict[type[Size], tuple[int, ...]] = {Ratio: (2, 4, 8, 16, 32), Length: (16, 32, 64, 128)}
"""Candidates of each kind in arXiv 2603.25926, section 3."""
SELECTIONS = ("window", "document")
SHORT, LONG = 128, 1024
"""Tokens of a document up to which, and from which on, its length makes no difference to a selector; see `shift`."""
_MOST_EXPONENT = 2.0


class RatioPolicy(ABC):
    """Chooses how many latents each part of a document becomes; with most compressors a part is an encoder window.

    Args:
        candidates: ratios or lengths that a press was trained for, in ascending order.
        selection: what has a size of its own. `window`: each part. `document`: the document; its parts have its ratio,
            or share its length out (see `spread`). The paper's documents have one window, where both are the same.
        length_exponent: how much harder long documents are compressed than short ones. At 1 documents of 128 to 1,024
            tokens and of equal density get equal numbers of latents; 0 is the paper's selector. See `shift`.
    """

    name: ClassVar[str]
    """Name in configurations."""
    predicts: ClassVar[bool]
    """Whether it reads the selector head's prediction of the log2 ratio."""
    kind: ClassVar[type[Size]] = Ratio
    """What its candidates count; a compressor that cannot make such sizes is refused beside it."""
    describe: ClassVar[str]
    """One line for `latentpress info`."""

    def __init__(self, candidates: Sequence[int], *, selection: str = "window", length_exponent: float = 0.0) -> None:
        if not candidates or list(candidates) != sorted(set(candidates)) or candidates[0] < 1:
            raise RatioError(
                f"candidates {list(candidates)} must be distinct whole {self.word()}s of at least 1 in ascending "
                f"order, for example {list(USUAL[self.kind])}"
            )
        if selection not in SELECTIONS:
            raise RatioError(f"selection {selection!r} is unknown; choose {' or '.join(SELECTIONS)}")
        if not 0 <= length_exponent <= _MOST_EXPONENT:
            raise RatioError(f"length_exponent {length_exponent} must be from 0 to {_MOST_EXPONENT:g}; 0 to 1 is usual")
        if length_exponent and not self.predicts:
            raise RatioError(
                f"length_exponent {length_exponent:g} raises a selector's prediction, and policy {self.name!r} has "
                "none; set it to 0, or choose a policy that predicts"
            )
        self.candidates = tuple(candidates)
        self.selection = selection
        self.length_exponent = length_exponent

    @classmethod
    def make(
        cls,
        candidates: Sequence[int],
        *,
        rounding: str,  # noqa: ARG003, of some policies
        selection: str = "window",
        length_exponent: float = 0.0,
    ) -> RatioPolicy:
        """The policy by the settings of a press; those that it has no use for are left alone.

        Raises:
            RatioError: settings that cannot be.
        """
        return cls(candidates, selection=selection, length_exponent=length_exponent)

    @classmethod
    def word(cls) -> str:
        """What its sizes are called, `ratio` or `length`."""
        return cls.kind.__name__.lower()

    @abstractmethod
    def choose(self, log2_ratio: float | None, scale: float, tokens: int) -> Size:
        """Size for one text.

        Args:
            log2_ratio: what the head predicted, None for policies that do not predict.
            scale: the user's shift of it: negative keeps more, positive compresses more.
            tokens: tokens of the text.
        """

    def shift(self, tokens: int) -> float:
        """What is added to every log2 ratio that is predicted of a document of so many tokens; log2 of a ratio too.

        The exponent times log2(T / 128): nothing up to 128 tokens, and no more than for 1,024 of longer documents,
        about which more is asked than about short ones. If all documents are asked about alike, and answers lose as
        much with each doubling of the ratio, latents are spent best at an exponent of 1 (docs/policies.md). Not in the
        paper.
        """
        return self.length_exponent * math.log2(min(max(tokens, SHORT), LONG) / SHORT)

    def choose_parts(
        self,
        log2_ratios: Sequence[float | None],
        scale: float,
        tokens: Sequence[int],
        *,
        document_tokens: int | None = None,
    ) -> list[Size]:
        """Sizes for the parts of a document, as `selection` says.

        Args:
            log2_ratios: what the head predicted of each part.
            scale: see `choose`.
            tokens: tokens of each part.
            document_tokens: tokens of the whole document, where these are not all its parts; only a choice by `window`
                can be made so.
        """
        if self.selection == "window":
            shifted = scale + self.shift(sum(tokens) if document_tokens is None else document_tokens)
            return [self.choose(own, shifted, count) for own, count in zip(log2_ratios, tokens, strict=True)]
        return self.spread(self.choose_document(log2_ratios, scale, tokens), tokens)

    def choose_document(self, log2_ratios: Sequence[float | None], scale: float, tokens: Sequence[int]) -> Size:
        """Size of a document that has one: its prediction is the mean of its parts' log2 ratios by their tokens.

        Args:
            log2_ratios: see `choose_parts`.
            scale: see `choose`.
            tokens: tokens of each part.
        """
        total = sum(tokens)
        known = [own * (count / total) for own, count in zip(log2_ratios, tokens, strict=True) if own is not None]
        return self.choose(sum(known) if known else None, scale + self.shift(total), total)

    def spread(self, size: Size, tokens: Sequence[int]) -> list[Size]:
        """Sizes of the parts of a document, where one size is given for each part or, by `selection`, for all together.

        A length for all is shared out in proportion to their tokens, by largest remainder, at least one latent each:
        the shares add up to it, to the tokens if they are fewer, or to the parts if they are more.
        """
        if self.selection == "window" or isinstance(size, Ratio):
            return [size] * len(tokens)
        return [Length(share) for share in shares(size.value, tokens)]

    def allows(self, value: float) -> bool:
        """Whether a user may ask for a ratio, or length, of this value."""
        return value in self.candidates

    def allowed(self) -> str:
        """What a user may ask for, in words behind "choose"."""
        return f"one of {', '.join(map(str, self.candidates))}"

    def fixed(self, value: float) -> Size:
        """Size for the ratio, or length, that the user asks for.

        Raises:
            RatioError: the press was not trained for it.
        """
        if not self.allows(value):
            raise RatioError(
                f"{self.word()} {value:g} is not one this press was trained for; "
                f"choose {self.allowed()}, or none to let it choose"
            )
        return self.kind(int(value))

    def draw(self, draw: random.Random, weights: Sequence[float]) -> Size:
        """Size of a training step, drawn by the weights of the candidates."""
        return self.kind(draw.choices(self.candidates, weights)[0])

    def ordered(self) -> tuple[Size, ...]:
        """The candidates, the one that keeps most first."""
        values = self.candidates if self.kind is Ratio else self.candidates[::-1]
        return tuple(self.kind(value) for value in values)

    def most(self, tokens: int) -> int:
        """The largest number of latents that any of its sizes gives a text of so many tokens."""
        return self.ordered()[0].latents(tokens)


def shares(length: int, tokens: Sequence[int]) -> list[int]:
    """Shares a number of latents out among parts in proportion to their tokens; see `RatioPolicy.spread`.

    Parts whose proportion is below one latent get one, the others share what is left, by largest remainder.
    """
    left = max(min(length, sum(tokens)), len(tokens))
    made = [1] * len(tokens)
    others = list(range(len(tokens)))
    while True:
        together = sum(tokens[i] for i in others)
        larger = [i for i in others if left * tokens[i] >= together]
        if len(larger) == len(others):
            break
        left -= len(others) - len(larger)
        others = larger
    for i in others:
        made[i] = left * tokens[i] // together
    rest = left - sum(made[i] for i in others)
    for i in sorted(others, key=lambda i: -(left * tokens[i] % together))[:rest]:
        made[i] += 1
    return made


def size_name(size: Size) -> str:
    """Short name in logs: `x4` for a ratio, `m64` for a length."""
    return f"{'x' if isinstance(size, Ratio) else 'm'}{size.value}"
