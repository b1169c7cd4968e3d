"""What a question is asked about: latents or texts, one document or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from latentpress.checkpoints.config import PressConfig
from latentpress.errors import InputError, LatentsError
from latentpress.latents import Latents

Context = str | Latents | Sequence[str | Latents]
"""A document, as text or latents, or several."""


def open_contexts(
    contexts: Sequence[Context],
    check: Callable[[Latents], None],
    compress: Callable[[list[str]], list[Latents]],
) -> list[list[Latents]]:
    """Latents of each context's documents.

    Args:
        contexts: what the user gave.
        check: raises for latents that cannot be used; called before anything is compressed.
        compress: called once, with all texts, each once.

    Raises:
        InputError: a context without documents, or with something that is neither text nor latents.
    """
    rows = [list(one) if isinstance(one, Sequence) and not isinstance(one, str) else [one] for one in contexts]
    if not all(rows):
        raise InputError("no context: give latents, a text, or a list of them")
    for part in (part for row in rows for part in row):
        if not isinstance(part, str):
            check(part)
    texts = list(dict.fromkeys(part for row in rows for part in row if isinstance(part, str)))
    made = dict(zip(texts, compress(texts), strict=True))
    return [[made[part] if isinstance(part, str) else part for part in row] for row in rows]


def check_made_by(latents: object, config: PressConfig, fingerprint: str) -> None:
    """Makes sure that a press can read latents.

    Args:
        latents: what the user gave.
        config: settings of the press.
        fingerprint: of the press.

    Raises:
        InputError: it is no latents.
        LatentsError: another press made them, for the same base model or another; both are named.
    """
    if not isinstance(latents, Latents):
        raise InputError(f"the context holds a {type(latents).__name__}; give latents or texts")
    if latents.base_fingerprint != config.base.fingerprint:
        raise LatentsError(
            f"these latents, made by press {latents.press!r}, are for a base model with fingerprint "
            f"{latents.base_fingerprint[:12]}; press {config.name!r} runs on {config.base.id!r} "
            f"({config.base.fingerprint[:12]}); ask the press that made them, or compress the text again"
        )
    if latents.press_fingerprint != fingerprint:
        raise LatentsError(
            f"these latents were made by press {latents.press!r} ({latents.press_fingerprint[:12]}), this is "
            f"{config.name!r} ({fingerprint[:12]}); ask the press that made them, or compress the text again"
        )
