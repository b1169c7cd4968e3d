"""Checks of what a user hands to the library, so that a mistake is named where it is made."""

from __future__ import annotations

import numbers

from latentpress.errors import InputError


def checked_text(value: object, name: str) -> str:
    """Returns the value if it is a text that can be written in UTF-8.

    Args:
        value: what the user gave.
        name: what to call it in messages.

    Raises:
        InputError: another type, or a lone surrogate (what `errors="surrogateescape"` makes of bytes that are not UTF-8).
    """
    if not isinstance(value, str):
        raise InputError(f"{name} is a {type(value).__name__}; give a text (str)")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} holds half a character ({value[error.start]!r}) at position {error.start}: it was not read as UTF-8; "
            "decode the document with its own encoding first"
        ) from error
    return value


def checked_number(value: object, name: str) -> float:
    """Returns the value as a float if it is a real number.

    Raises:
        InputError: another type.
    """
    if not isinstance(value, numbers.Real):
        raise InputError(f"{name}={value!r} is a {type(value).__name__}; give a number")
    return float(value)
