"""Checks of what a user hands to the library, so that a mistake is named where it is made."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

from latentpress.compressors import Size
from latentpress.errors import InputError, RatioError
from latentpress.ratios import RatioPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedSize:
    """How hard a user wants a text compressed; of ratio, length and scale one at most."""

    ratio: float | None = None
    """One of the press's ratios; None lets it choose."""
    length: int | None = None
    """One of the press's numbers of latents, for a press that has lengths in place of ratios."""
    scale: float = 0.0
    """Added to the predicted log2 ratio."""


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


def requested_size(policy: RatioPolicy, ratio: float | None, scale: float, length: float | None = None) -> Size | None:
    """Size of every window, or document (see `RatioPolicy.spread`), that the user asked for; None: the policy chooses.

    Raises:
        RatioError: the press was not trained for it, or for no sizes of its kind; a scale for one without a selector.
        InputError: two of ratio, length and scale together, or one of them is no number.
    """
    shift = checked_number(scale, "scale")
    if ratio is not None and length is not None:
        raise InputError(
            f"ratio={ratio} and length={length} contradict each other: a ratio is tokens a latent, a length a number "
            "of latents; give one of them"
        )
    if ratio is None and length is None:
        if shift and not policy.predicts:
            policy.choose(None, shift, 1)  # refuses it, before anything is read
        return None
    name, given = ("length", length) if ratio is None else ("ratio", ratio)
    value = checked_number(given, name)
    if name != policy.word():
        raise RatioError(
            f"{name}={value:g} cannot be had: this press was trained for {policy.word()}s; "
            f"use {policy.word()}= with {policy.allowed()}, or neither to let it choose"
        )
    size = policy.fixed(value)
    if shift:
        raise InputError(
            f"{name}={value:g} and scale={shift:g} contradict each other: "
            "scale shifts the selector's choice; give one of them"
        )
    return size


def check_batch(contexts: int, questions: int, batch_size: int, kind: str) -> None:
    """Makes sure that questions have a context each.

    Args:
        contexts: how many there are.
        questions: how many there are.
        batch_size: questions decoded together.
        kind: what a context is called.

    Raises:
        InputError: the numbers differ, or no question would be decoded.
    """
    if contexts != questions:
        raise InputError(
            f"{contexts} {kind}s for {questions} questions; give one {kind} a question, repeating it if need be"
        )
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1")
