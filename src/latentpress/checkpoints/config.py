"""The configuration of a press: every setting that its weights were trained with."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from latentpress.decoder.prompt import PromptSettings
from latentpress.errors import PressError
from latentpress.lora import LoraSettings

SCHEMA_VERSION = 1
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseReference:
    """A base model by name and identity."""

    id: str
    """Shipped name, folder or hub id."""
    fingerprint: str
    """See `latentpress.backbone.fingerprint`."""
    width: int
    """Width D of its hidden states."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PressConfig:
    """What a press is made of."""

    name: str
    """Name of the press."""
    base: BaseReference
    """Decoder's base model, and the encoder's if `encoder_base` is None."""
    encoder_base: BaseReference | None = None
    """Another base model for the encoder."""
    encoder_layers: int | None = None
    """Layers of the encoder's base that are used, counted from the input; all if None."""
    encoder_lora: LoraSettings | None = field(default_factory=LoraSettings)
    """Adapter of the encoder; None leaves it as the base model is."""
    decoder_lora: LoraSettings | None = field(default_factory=LoraSettings)
    """Adapter of the decoder; None leaves it as the base model is."""
    prompt_vectors: int = 0
    """Learned input embeddings before the first document of a prompt (prompt tuning)."""
    compressor: str = "mean-pooling"
    """Name of the compressor."""
    compressor_settings: dict[str, Any] = field(default_factory=dict)
    """Its own settings where they are not the usual ones; see its class."""
    policy: str = "selector"
    """Name of the ratio policy."""
    candidates: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Ratios it was trained for, or numbers of latents where the policy counts those, ascending."""
    rounding: str = "linear"
    """How the selector rounds: `linear` or `log`."""
    selection: str = "window"
    """What has a size of its own: each `window` (or part of one, if the compressor makes parts), or the `document`."""
    length_exponent: float = 0.0
    """How much harder the selector compresses long documents than short ones; see `latentpress.ratios.RatioPolicy`."""
    converter_width: int = 4096
    """Hidden width of the converter."""
    residual: str = "salient"
    """Embedding path beside the converter: `none`, `mean`, or `salient` (see `latentpress.residual`)."""
    window_tokens: int = 512
    """Most tokens of an encoder window; longer documents go through in equal windows."""
    prompt: PromptSettings = field(default_factory=PromptSettings)
    """Texts around the latents."""
    trained: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from: recipe, data, steps; for people, read by no code."""

    def __post_init__(self) -> None:
        if not self.name:
            raise PressError("the name of the press is empty; give it one, which its latents carry")
        if "{question}" not in self.prompt.question:
            raise PressError(
                f"press {self.name!r}: prompt.question is {self.prompt.question!r}, which has no place for the "
                "question; write {question} there"
            )
        limits: dict[str, tuple[float, float]] = {
            "window_tokens": (self.window_tokens, 1),
            "converter_width": (self.converter_width, 1),
            "prompt_vectors": (self.prompt_vectors, 0),
            "encoder_layers": (1 if self.encoder_layers is None else self.encoder_layers, 1),
        }
        adapters = {"encoder_lora": self.encoder_lora, "decoder_lora": self.decoder_lora}
        limits |= {f"{name}.rank": (lora.rank, 1) for name, lora in adapters.items() if lora}
        for name, (value, least) in limits.items():
            if value < least:
                raise PressError(f"press {self.name!r}: {name} is {value}, it must be at least {least}")
        for name, lora in adapters.items():
            if lora is None:
                continue
            if not math.isfinite(lora.alpha):
                raise PressError(f"press {self.name!r}: {name}.alpha is {lora.alpha}, it must be a finite number")
            if not 0 <= lora.dropout < 1:
                raise PressError(f"press {self.name!r}: {name}.dropout is {lora.dropout}, it must be from 0 to below 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the schema version."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}

    @staticmethod
    def from_dict(data: Any, where: str) -> PressConfig:
        """Reads what `to_dict` wrote.

        Raises:
            PressError: another schema version, an unknown or missing key, or a value of the wrong type, each named.
        """
        if not isinstance(data, dict):
            raise PressError(f"{where} holds {type(data).__name__}, not an object of settings; restore the file")
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise PressError(
                f"{where} has schema_version {version!r}, this library reads {SCHEMA_VERSION}; "
                "install the latentpress that wrote it, or train again"
            )
        return read_dataclass(PressConfig, {k: v for k, v in data.items() if k != "schema_version"}, where)


def read_dataclass(kind: type[_T], data: Any, where: str) -> _T:
    """Builds a dataclass from plain data, strictly.

    Raises:
        PressError: naming the key that is unknown, missing or of the wrong type.
    """
    if not isinstance(data, dict):
        raise PressError(f"{where} must be an object, got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise PressError(f"{where} has unknown key {unknown[0]!r}; known are {', '.join(fields)}")
    hints = typing.get_type_hints(kind)
    values = {}
    for name, f in fields.items():
        if name in data:
            values[name] = _read(hints[name], data[name], f"{where}: {name}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise PressError(f"{where} lacks the key {name!r}; restore the file")
    return kind(**values)


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return (
            None
            if value is None and type(None) in options
            else _read(next(o for o in options if o is not type(None)), value, where)
        )
    if origin is typing.Literal:
        if value not in options:
            raise PressError(f"{where} is {value!r}; choose one of {', '.join(map(str, options))}")
        return value
    if dataclasses.is_dataclass(hint):
        return read_dataclass(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_read(options[0], item, where) for item in value)
    if hint is float and type(value) in (int, float):
        return float(value)
    expected = origin or hint
    if type(value) is not expected:
        raise PressError(f"{where} is {value!r}, expected {getattr(expected, '__name__', expected)}")
    return value
