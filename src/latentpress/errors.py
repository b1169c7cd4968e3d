"""The exceptions that latentpress raises for mistakes a user can make and mend.

Every message names the value, the limit and the remedy. Anything else that escapes (a `TypeError`, an `AssertionError`)
is a bug.

    LatentpressError(Exception)
    ├── InputError(ValueError)         text, question, file or argument of the user
    │   ├── RatioError                 ratio outside the candidates that the press was trained on
    │   └── ContextTooLongError        latents and prompt exceed the decoder's positions
    ├── LatentsError(ValueError)       latents file that cannot be used: truncated, pickle, of another press or base
    ├── PressError(ValueError)         press that cannot be used: missing, truncated, tampered, unknown keys, pickle
    ├── BaseModelError(ValueError)     base model missing, checksum wrong, or fingerprint of another model
    ├── DataError(ValueError)          line of training or evaluation data; the message starts with file:line
    ├── TrainingError(RuntimeError)    loss is NaN or diverges, or the run in the out folder cannot be resumed
    └── PeerError(RuntimeError)        compared peer that cannot answer
        └── PeerGoneError              its process cannot be started, dies or takes too long
"""

__all__ = [
    "BaseModelError",
    "ContextTooLongError",
    "DataError",
    "InputError",
    "LatentpressError",
    "LatentsError",
    "PeerError",
    "PeerGoneError",
    "PressError",
    "RatioError",
    "TrainingError",
]


class LatentpressError(Exception):
    """Root of the tree: catch it to catch every mistake that the library reports."""


class InputError(LatentpressError, ValueError):
    """A text, question, file or argument that cannot be used."""


class RatioError(InputError):
    """A ratio that is not one of the press's candidates."""


class ContextTooLongError(InputError):
    """Latents and prompt together exceed the positions that the decoder was trained on."""


class LatentsError(LatentpressError, ValueError):
    """A latents file that cannot be used: truncated, a pickle, or made by another press or for another base model."""


class PressError(LatentpressError, ValueError):
    """A press that cannot be used: missing, truncated, tampered with, with unknown keys, or pickled."""


class BaseModelError(LatentpressError, ValueError):
    """A base model that is missing, has the wrong checksum, or is another model than the one asked for."""


class DataError(LatentpressError, ValueError):
    """A line of training or evaluation data that cannot be read; the message starts with `file:line`."""


class TrainingError(LatentpressError, RuntimeError):
    """A training run that cannot go on: the loss is NaN or diverges, or the checkpoint does not fit the settings."""


class PeerError(LatentpressError, RuntimeError):
    """A compared peer that cannot answer a request."""


class PeerGoneError(PeerError):
    """A compared peer's process that cannot be started, dies or takes too long; it may answer another time."""
