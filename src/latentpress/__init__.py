"""latentpress: presses a long context into a few latents that a decoder language model reads in place of the text.

    import latentpress
    press = latentpress.load("semidynamic-smollm2-135m")
    latents = press.compress(document)
    press.ask(latents, "Who signed the treaty?")

Names that need torch are imported when they are first used, so that `import latentpress` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from latentpress.errors import (
    BaseModelError,
    ContextTooLongError,
    DataError,
    InputError,
    LatentpressError,
    LatentsError,
    PeerError,
    PeerGoneError,
    PressError,
    RatioError,
    TrainingError,
)

if TYPE_CHECKING:
    from latentpress.decoder.prompt import PLACEHOLDER
    from latentpress.latents import EmbeddingLatents, KVLatents, Latents
    from latentpress.loading import load, shipped_presses
    from latentpress.press import Press
    from latentpress.session import Session

__version__ = "0.1.0"

__all__ = [
    "PLACEHOLDER",
    "BaseModelError",
    "ContextTooLongError",
    "DataError",
    "EmbeddingLatents",
    "InputError",
    "KVLatents",
    "LatentpressError",
    "Latents",
    "LatentsError",
    "PeerError",
    "PeerGoneError",
    "Press",
    "PressError",
    "RatioError",
    "Session",
    "TrainingError",
    "__version__",
    "load",
    "shipped_presses",
]

_HOME_OF = {
    "EmbeddingLatents": "latentpress.latents",
    "KVLatents": "latentpress.latents",
    "Latents": "latentpress.latents",
    "PLACEHOLDER": "latentpress.decoder.prompt",
    "Press": "latentpress.press",
    "Session": "latentpress.session",
    "load": "latentpress.loading",
    "shipped_presses": "latentpress.loading",
}


def __getattr__(name: str) -> object:
    """Imports a public name at its first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
