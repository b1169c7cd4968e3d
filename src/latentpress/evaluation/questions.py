"""What systems are compared on: questions about texts, and the answers they give."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

BETWEEN = "\n\n"
"""Between the documents of a question, where a system reads text."""
Kind = Literal["span", "summary", "choice"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question of a set."""

    id: str
    """Name, unique in its set."""
    dataset: str
    """Name of the set."""
    contexts: tuple[str, ...]
    """The documents that it is about, in order."""
    question: str
    """The question."""
    answers: tuple[str, ...]
    """Every answer that counts as right, at least one."""
    kind: Kind = "span"
    """How answers are judged: short `span` (F1, EM), `summary` (ROUGE-L too), `choice` (the letter)."""
    lang: str | None = None
    """Language code, if known."""
    source: str = ""
    """Where its record comes from, such as a genre; empty if not said. Nothing depends on it but analyses."""

    @property
    def text(self) -> str:
        """The documents as one text."""
        return BETWEEN.join(self.contexts)

    @property
    def digest(self) -> str:
        """Identity of the question with its documents; answers are no part of it: predictions do not depend on them."""
        return hashlib.sha256(json.dumps([self.contexts, self.question]).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a system answered, and what its context took."""

    text: str
    """The answer."""
    tokens: int
    """Tokens of the documents in the base model's tokenizer."""
    kept: int
    """Positions that stood for them in the decoder: latents, tokens of text, or cache entries; 0 for no context."""
    nbytes: int | None = None
    """Bytes of the stored context; None where nothing is stored between two questions."""
    error: str | None = None
    """Why there is no answer, where context and question exceed the decoder's positions; `text` is empty then."""
