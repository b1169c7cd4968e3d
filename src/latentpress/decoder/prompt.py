"""Prompts in the base model's chat template, with latents where the user wrote a placeholder.

A prompt is a list of pieces: token ids, and places for latents. Each placeholder grows to as many positions as its
document has latents. Only the template's own special tokens are special: what a user writes is tokenised as plain
characters.
"""

from __future__ import annotations

import re
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
        InputError: the template refuses the messages, or changes, drops or reorders their content.
    """
    mark = uuid.uuid4().hex
    parts: list[str | Slot] = []
    rows = []
    for role, content in messages:
        if not re.fullmatch(r"[\w -]+", role):  # it goes into the template as it is
            raise InputError(f"role {role!r} is not a plain word; give system, user or assistant")
        marks = ""
        for part in _joined(content):
            marks += f"{{{mark}:{len(parts)}}}"
            parts.append(part)
        rows.append({"role": role, "content": marks})
    template, *rest = _apply_template(tokenizer, rows).split(f"{{{mark}:")
    chunks = [chunk.partition("}") for chunk in rest]
    kept = [number for number, _, _ in chunks]
    if kept != [str(i) for i in range(len(parts))]:
        raise InputError(
            f"the base model's chat template kept the parts {', '.join(kept) or 'none'} of {len(parts)} message parts, "
            "each of which must come once and in order; it may not take a system message"
        )
    pieces: list[Piece] = []
    _append(pieces, encode_template(tokenizer, template))
    for part, (_, _, after) in zip(parts, chunks, strict=True):
        _append(pieces, part if isinstance(part, Slot) else encode_inert(tokenizer, part))
        _append(pieces, encode_template(tokenizer, after))
    return pieces


def _joined(content: Content) -> list[str | Slot]:
    """Content without empty strings, neighbouring ones joined: tokens are those of the text, however it was given."""
    parts: list[str | Slot] = []
    for part in content:
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        elif part != "":
            parts.append(part)
    return parts


def _apply_template(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]]) -> str:
    if tokenizer.chat_template is None:
        return "\n\n".join(row["content"] for row in rows if row["content"]) + "\n\n"
    try:
        return str(tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # jinja's own exceptions, which differ by template
        empty_system = {"role": "system", "content": ""}  # Gemma's template takes none, not even an empty one
        if len(rows) > 1 and rows[0] == empty_system:
            return _apply_template(tokenizer, rows[1:])
        raise InputError(
            f"the base model's chat template refuses these messages: {error}; check the roles and their order"
        ) from error


def _append(pieces: list[Piece], piece: Piece) -> None:
    if isinstance(piece, list) and pieces and isinstance(pieces[-1], list):
        pieces[-1] += piece
    elif piece != []:
        pieces.append(piece)


def split_at_last_slot(pieces: Sequence[Piece]) -> tuple[list[Piece], list[int]]:
    """Cuts a prompt behind its last latents: what all questions of a context share, and the token ids of one."""
    last = max(i for i, piece in enumerate(pieces) if isinstance(piece, Slot))
    after = [i for piece in pieces[last + 1 :] if isinstance(piece, list) for i in piece]
    return list(pieces[: last + 1]), after
