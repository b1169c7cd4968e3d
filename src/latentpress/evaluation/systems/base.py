"""The contract of a compared system, and how much it is asked to keep.

A new system is one file here with a `Family` of its own, and one line in the table of `latentpress.evaluation.systems`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latentpress.errors import InputError
from latentpress.evaluation.questions import Answer, Question

if TYPE_CHECKING:
    from latentpress.decoder.prompt import PromptSettings
    from latentpress.evaluation.systems.peers.sharing import Lease
    from latentpress.press import Press

SystemKind = Literal["press", "bound", "peer"]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a text a system is asked to keep: at a ratio, in a length, or as its selector says with a scale."""

    ratio: float | None = None
    """Context tokens for each position kept; None without a length lets the selector choose."""
    scale: float = 0.0
    """Added to the selector's log2 ratio."""
    length: int | None = None
    """Latents of each window, or document, of a press that has lengths in place of ratios."""

    @staticmethod
    def parse(text: str) -> Size:
        """Reads `4`, `x4`, `m64`, `auto`, `auto+1` or `auto-0.5`.

        Raises:
            InputError: anything else, or a ratio or length below 1.
        """
        word = text.strip().lower()
        try:
            if word.startswith("auto"):
                size = Size(scale=float(word[4:] or 0))
            elif word.startswith("m"):
                size = Size(length=int(word[1:]))
            else:
                size = Size(ratio=float(word.removeprefix("x")))
        except ValueError:
            raise InputError(
                f"size {text!r} is neither a ratio (4), nor a number of latents (m64), nor the selector's choice "
                "(auto, auto+1)"
            ) from None
        amount = size.ratio if size.length is None else size.length
        if not math.isfinite(size.scale) or (amount is not None and not 1 <= amount < math.inf):
            raise InputError(f"size {text!r} is out of range; a ratio is 1 or more (4 keeps a quarter), and so is m64")
        return size

    @property
    def chosen(self) -> bool:
        """Whether a selector chooses."""
        return self.ratio is None and self.length is None

    def __str__(self) -> str:
        """`x4`, `m64`, `auto` or `auto+1`."""
        if self.length is not None:
            return f"m{self.length}"
        if self.ratio is not None:
            return f"x{self.ratio:g}"
        return f"auto{self.scale:+g}" if self.scale else "auto"


class System(ABC):
    """A system at one size, ready to answer."""

    name: str
    """Of the family or press: `head`, `semidynamic-smollm2-135m`."""
    kind: SystemKind
    """`press`, `bound` or `peer`."""
    reader: str
    """What reads: `zero-shot`, `tuned`, `prompt-tuned`, or for a press, whose decoder was trained with it, `own`, and
    `focus2` where it reads two windows for each question."""
    size: Size | None
    """How much is kept; None where that is no question: the full text, or no context."""
    sees_question: bool
    """The question is known while the context is compressed: such systems are ranked apart."""
    worker: Lease | None = None
    """The process that does all or part of its work; None where all is done in this one."""

    shares: object | None = None
    """What it shares with others that hold the same: they are asked about a batch in turn, so that work on its
    documents is done once."""

    @property
    def label(self) -> str:
        """Name, size and reader, as in tables and file names: `head-x4-tuned`."""
        parts = [self.name, str(self.size) if self.size else "", "" if self.reader == "own" else self.reader]
        return "-".join(part for part in parts if part)

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Whatever its answers depend on beside questions and answer length: fingerprints, settings, versions, seed."""

    @abstractmethod
    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        """Answers questions, greedily, in their order; each answer is what it would be alone, up to rounding.

        Called with a batch of a few dozen questions, those about one context side by side. Contexts come again in later
        batches at most rarely: nothing need be remembered between calls.
        """

    def close(self) -> None:
        """Gives its worker back."""
        if self.worker is not None:
            self.worker.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What systems are made from."""

    press: Press
    """Whose base model, tokenizer and prompt all systems share."""
    readers: dict[str, Press]
    """Trained readers of text by name (`tuned`, `prompt-tuned`): presses that hand on text as it is at ratio 1."""
    prompt: PromptSettings | None = None
    """Texts around what the base model reads as it is; the press's if None."""
    seed: int = 0
    """Of whatever is drawn."""
    python: dict[str, Path] | None = None
    """Python interpreters of peers that have an environment of their own, by the peer's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A named kind of system, made at any size and with any of its readers."""

    name: str
    """What `--with` calls it."""
    kind: SystemKind
    """`bound` or `peer`; presses need no family."""
    about: str
    """One line for `--list`."""
    make: Callable[[Setup, str, Size | None], System]
    """From what it shares with others, the reader's name and the size."""
    readers: tuple[str, ...] = ("zero-shot", "tuned")
    """Readers that it can be given; each is a system of its own."""
    sized: bool = True
    """Keeps as much as it is asked to; otherwise there is one of it, of no size."""
    sees_question: bool = False
    """The question is known while the context is compressed."""
    needs: str = ""
    """Package that has to be installed, with its version; empty for none."""

    @property
    def package(self) -> str:
        """Its name without the version."""
        return self.needs.partition("==")[0]
