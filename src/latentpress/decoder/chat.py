"""Conversations that hold latents anywhere, beside verbatim text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentpress.arguments import checked_text
from latentpress.decoder.prompt import PLACEHOLDER, Content, Slot, split_placeholders
from latentpress.errors import InputError
from latentpress.latents import Latents

Message = dict[str, Any]


def chat_rows(
    messages: Sequence[Message], documents: Sequence[Latents], system: str
) -> tuple[list[tuple[str, Content]], list[Latents]]:
    """Reads a user's messages.

    Args:
        messages: `{"role": ..., "content": ...}`; content is a text with a placeholder for each document, or
            a list of latents and of texts in which nothing is special.
        documents: for the placeholders, in their order.
        system: system message of a conversation that does not begin with one.

    Returns:
        Role and content of each message, and the latents of its slots.

    Raises:
        InputError: naming the message that has no role or content, or another count of placeholders than of documents.
    """
    if not all(isinstance(one, Latents) for one in documents):
        raise InputError("documents holds something that is no latents; give a list of what press.compress returns")
    rows = [_read(message, number) for number, message in enumerate(messages)]
    if not rows:
        raise InputError("there are no messages; give at least one from the user")
    written = sum(isinstance(part, Slot) for _, parts in rows for part in parts)
    if written != len(documents):
        raise InputError(
            f"{written} placeholders in the messages for {len(documents)} documents; write one {PLACEHOLDER} for each, "
            "or give content as a list, in which texts are plain and latents stand where they belong"
        )
    waiting = iter(documents)
    used: list[Latents] = []
    placed: list[tuple[str, Content]] = []
    for role, parts in rows:
        content: list[str | Slot] = []
        for part in parts:
            if isinstance(part, str):
                content.append(part)
            else:
                content.append(Slot(len(used)))
                used.append(next(waiting) if isinstance(part, Slot) else part)
        placed.append((role, content))
    if placed[0][0] != "system":
        placed.insert(0, ("system", [system]))
    return placed, used


def _read(message: object, number: int) -> tuple[str, list[str | Slot | Latents]]:
    """Role of a message, and its content as parts."""
    if not isinstance(message, Mapping):
        raise InputError(f"message {number} is a {type(message).__name__}; give a dict with a role and a content")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not isinstance(content, str | list | tuple):
        raise InputError(
            f"message {number} has the keys {sorted(map(str, message))}; "
            "it needs a role and a content (a text, or a list of texts and latents)"
        )
    if isinstance(content, str):
        return role, [*split_placeholders(checked_text(content, f"message {number}"), 0)]
    parts: list[str | Slot | Latents] = []
    for part in content:
        if not isinstance(part, Latents):
            part = checked_text(part, f"a part of message {number} that is no latents")
        parts.append(part)
    return role, parts
