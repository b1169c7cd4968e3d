"""Prompts in the base model's chat template, with latents where the user wrote a placeholder.

A prompt is a list of pieces: token ids, and places for latents. Each placeholder grows to as many positions as its document has
latents. Only the template's own special tokens are special: what a user writes is tokenised as plain characters.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from latentpress.errors import InputError
from latentpress.tokens import encode_inert, encode_template

PLACEHOLDER = "<|latents|>"


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the latents of a document go."""

    document: int
    """Index of the document."""


Content = Sequence["str | Slot"]
Piece = list[int] | Slot


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSettings:
    """Texts around the latents; part of a press, because its decoder was trained with them."""

    system: str = ""
    """System message."""
    context: str = "Context: "
    """Before the latents of the first document."""
    between: str = "\n\n"
    """Between the latents of two documents."""
    question: str = "\n\nQuestion: {question}"
    """After the latents, for a question."""
    summary: str = "\n\nPlease write a concise summary of the above context."
    """After the latents, for a summary."""


def split_placeholders(text: str, first: int) -> list[str | Slot]:
    """Cuts a message at its placeholders; they stand for documents `first`, `first + 1`, ..."""
    pieces: list[str | Slot] = []
    for i, part in enumerate(text.split(PLACEHOLDER)):
        if i:
            pieces.append(Slot(first + i - 1))
        if part:
            pieces.append(part)
    return pieces


def ask_messages(settings: PromptSettings, documents: int, request: str) -> list[tuple[str, Content]]:
    """Messages of one question (or summary request) over documents, in order."""
    content: list[str | Slot] = [settings.context]
    for i in range(documents):
        content += [settings.between, Slot(i)] if i else [Slot(i)]
    return [("system", [settings.system]), ("user", [*content, request])]


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[tuple[str, Content]]) -> list[Piece]:
    """Applies the chat template, ready for the assistant's answer.

    Args:
        tokenizer: of the decoder; without a chat template, messages are joined by blank lines.
        messages: role and content of each; strings are user text and inert, slots are for latents.

    Returns:
        Pieces in order, neighbouring token pieces merged.

    Raises:
        InputError: the template refuses the messages, or changes or drops their content.
    """
    mark = uuid.uuid4().hex
    parts: list[str | Slot] = []
    rows = []
    for role, content in messages:
        marks = ""
        for part in content:
            if part != "":
                marks += f"{{{mark}:{len(parts)}}}"
                parts.append(part)
        rows.append({"role": role, "content": marks})
    if tokenizer.chat_template is None:
        text = "\n\n".join(str(row["content"]) for row in rows if row["content"]) + "\n\n"
    else:
        try:
            text = str(tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # jinja's own exceptions, which differ by template
            raise InputError(f"the base model's chat template refuses these messages: {error}; check the roles and their order") from error
    pieces: list[Piece] = []
    template, *rest = text.split(f"{{{mark}:")
    _append(pieces, encode_template(tokenizer, template))
    if len(rest) != len(parts):
        raise InputError(f"the base model's chat template kept {len(rest)} of {len(parts)} message parts; it may not take a system message")
    for chunk in rest:
        number, _, after = chunk.partition("}")
        part = parts[int(number)]
        _append(pieces, part if isinstance(part, Slot) else encode_inert(tokenizer, part))
        _append(pieces, encode_template(tokenizer, after))
    return pieces


def _append(pieces: list[Piece], piece: Piece) -> None:
    if isinstance(piece, list) and pieces and isinstance(pieces[-1], list):
        pieces[-1] += piece
    elif piece != []:
        pieces.append(piece)


def split_at_last_slot(pieces: Sequence[Piece]) -> tuple[list[Piece], list[int]]:
    """Cuts a prompt behind its last latents: what all questions of a context share, and the token ids of one question."""
    last = max(i for i, piece in enumerate(pieces) if isinstance(piece, Slot))
    after = [i for piece in pieces[last + 1 :] if isinstance(piece, list) for i in piece]
    return list(pieces[: last + 1]), after
