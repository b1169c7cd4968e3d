"""Checks of what a user hands to the library, so that a mistake is named where it is made."""

from __future__ import annotations

import math
import numbers

from latentpress.compressors import Size
from latentpress.errors import InputError
from latentpress.ratios import RatioPolicy


def checked_text(value: object, name: str) -> str:
    """Returns the value if it is a text.

    Raises:
        InputError: another type; `name` says what was wrong.
    """
    if not isinstance(value, str):
        raise InputError(f"{name} is a {type(value).__name__}; give a text (str)")
    return value


def checked_number(value: object, name: str) -> float:
    """Returns the value as a float if it is a finite number.

    Raises:
        InputError: another type, infinity, or not a number; `name` says what was wrong.
    """
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise InputError(f"{name}={value!r} is not a finite number; give one")
    return float(value)


def requested_size(policy: RatioPolicy, ratio: float | None, scale: float) -> Size | None:
    """Size of every window if the user gave a ratio, None if the policy shall choose.

    Raises:
        RatioError: the ratio is no candidate.
        InputError: a scale beside it, or one of them is no number.
    """
    shift = checked_number(scale, "scale")
    if ratio is None:
        return None
    size = policy.fixed(checked_number(ratio, "ratio"))
    if shift:
        raise InputError(
            f"ratio={ratio:g} and scale={shift:g} contradict each other: "
            "scale shifts the selector's choice; give one of them"
        )
    return size
