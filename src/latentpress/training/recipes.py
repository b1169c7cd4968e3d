"""Recipes: functions by name that return everything a training depends on, and `name=value` overrides of it."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from latentpress.checkpoints.config import BaseReference, PressConfig
from latentpress.decoder.prompt import PromptSettings
from latentpress.errors import InputError
from latentpress.lora import LoraSettings

_FREE = {"free": True}  # settings that change no weight: a run may be resumed with other values


@dataclass(frozen=True, kw_only=True, slots=True)
class RatioPhase:
    """How candidate ratios are drawn from some point of the training on."""

    start: float
    """Fraction of the steps at which the phase starts."""
    weights: tuple[float, ...]
    """Weight of each candidate in the draw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuotePhase:
    """How many quotes an example has from some point of the training on."""

    start: float
    """Fraction of the steps at which the phase starts."""
    quotes: int
    """Quotes of an example."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every setting of a training. A run is a function of the recipe, the data and the base model, and of nothing else."""

    recipe: str
    """Name of the recipe."""
    press: str
    """Name of the press that comes out."""
    seed: int = 0
    """Seed of initial weights, order of the data, draws and dropout."""
    dtype: str = "bfloat16"
    """Type of base weights and activations, `bfloat16` or `float32`; what is trained has float32 masters."""

    compressor: str = "mean-pooling"
    """Name of the compressor."""
    policy: str = "selector"
    """Name of the ratio policy."""
    candidates: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Ratios trained, ascending; one is drawn a step."""
    encoder_layers: int | None = 12
    """Layers of the base that the encoder uses, counted from the input; all if none."""
    encoder_lora: LoraSettings = field(default_factory=LoraSettings)
    """Adapter of the encoder."""
    decoder_lora: LoraSettings = field(default_factory=LoraSettings)
    """Adapter of the decoder."""
    converter_width: int = 2048
    """Hidden width of the converter."""
    residual: str = "salient"
    """Embedding path beside the converter: `none`, `mean` or `salient`."""
    residual_sharpness: float = 0.7
    """How far the salience starts towards rare words: 0 weighs all alike, 1 by inverse frequency."""
    window_tokens: int = 512
    """Most tokens of an encoder window."""

    steps: int = 20_000
    """Steps of the whole training; schedules follow them."""
    tokens_per_step: int = 1000
    """Context tokens of a step: rows are added until it has so many."""
    max_context_tokens: int = 1300
    """Most context tokens of a row: longer plain texts are cut into passages, longer records with questions are left out."""
    exclude_sources: tuple[str, ...] = ()
    """Records whose source starts with one of these are left out."""
    multi_document: float = 0.1
    """Share of rows made of 2 to 4 records of one document each."""
    questions: int = 5
    """Most questions of a row."""
    quotes: int = 2
    """Passages of its text that a row is asked to continue, where `quote_schedule` says nothing else."""
    quote_tokens: int = 40
    """Tokens of such a passage."""
    quote_schedule: tuple[QuotePhase, ...] = ()
    """Number of quotes by fraction of the steps, written `0:3,0.5:1`."""
    ratio_schedule: tuple[RatioPhase, ...] = ()
    """Weights of the candidates by fraction of the steps, written `0:1/1/1/0/0,0.5:1/1/1/1/1`; all alike if empty."""

    learning_rate: float = 1e-3
    """Peak learning rate of the adapters."""
    other_learning_rate: float = 1e-3
    """Peak learning rate of everything else that is trained."""
    warmup_steps: int = 30
    """Steps over which the learning rate rises from 0."""
    schedule: str = "linear"
    """`linear` (down to 10% at the last step) or `constant`, by steps."""
    beta2: float = 0.98
    """AdamW's decay of the squared gradients."""
    weight_decay: float = 0.0
    """AdamW's weight decay, of matrices only."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    ratio_loss: float = 1.0
    """Weight lambda of the squared error of the predicted log2 ratio."""

    log_every: int = field(default=20, metadata=_FREE)
    """Steps between two lines of the log."""
    eval_every: int = field(default=500, metadata=_FREE)
    """Steps between two evaluations on the dev records."""
    save_every: int = field(default=100, metadata=_FREE)
    """Steps between two checkpoints."""
    dev_records: int = 200
    """Records held back for evaluation where no dev set is given (a tenth of the data at most)."""
    dev_rows: int = field(default=48, metadata=_FREE)
    """Dev records whose loss is taken each time."""
    dev_ratios: tuple[int, ...] = field(default=(4, 8, 16), metadata=_FREE)
    """Ratios at which it is taken, those that are candidates."""
    f1_questions: int = field(default=64, metadata=_FREE)
    """Dev questions answered by greedy generation each time; 0 for none."""
    f1_ratio: int = field(default=4, metadata=_FREE)
    """Ratio at which they are answered."""

    def __post_init__(self) -> None:
        for name, options in (("dtype", ("bfloat16", "float32")), ("schedule", ("linear", "constant"))):
            if getattr(self, name) not in options:
                raise InputError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(options)}")
        for name in ("steps", "tokens_per_step", "max_context_tokens", "window_tokens", "converter_width", "quote_tokens", "log_every", "eval_every", "save_every", "dev_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("questions", "quotes", "warmup_steps", "dev_records", "f1_questions", "learning_rate", "other_learning_rate", "weight_decay", "clip", "ratio_loss"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)} must be 0 or more")
        if not 0 <= self.multi_document <= 1:
            raise InputError(f"multi_document={self.multi_document:g} is a share of the rows, between 0 and 1")
        self._check_phases("ratio_schedule", self.ratio_schedule)
        self._check_phases("quote_schedule", self.quote_schedule)
        for phase in self.ratio_schedule:
            if len(phase.weights) != len(self.candidates) or min(phase.weights) < 0 or not sum(phase.weights):
                shown = "/".join(f"{weight:g}" for weight in phase.weights)
                raise InputError(f"ratio_schedule gives the weights {shown}; give one a candidate ({', '.join(map(str, self.candidates))}), none below 0 and not all 0")

    @staticmethod
    def _check_phases(name: str, phases: tuple[Any, ...]) -> None:
        starts = [phase.start for phase in phases]
        if starts and (starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1):
            shown = ", ".join(f"{start:g}" for start in starts)
            raise InputError(f"{name} has phases that start at {shown}; the first starts at 0, the others follow in ascending order below 1")

    def quotes_at(self, step: int) -> int:
        """Quotes of a row at a step."""
        started = [phase.quotes for phase in self.quote_schedule if phase.start * self.steps <= step]
        return started[-1] if started else self.quotes

    def ratio_weights_at(self, step: int) -> tuple[float, ...]:
        """Weight of each candidate in the draw at a step."""
        started = [phase.weights for phase in self.ratio_schedule if phase.start * self.steps <= step]
        return started[-1] if started else (1.0,) * len(self.candidates)

    def learning_rate_factor(self, step: int) -> float:
        """Share of the peak learning rate at a step, counted from 0."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return warm if self.schedule == "constant" else warm * max(0.1, 1.0 - 0.9 * step / self.steps)

    def identity(self) -> dict[str, Any]:
        """Plain data of every setting that a weight depends on."""
        kept = {f.name for f in dataclasses.fields(self) if not f.metadata.get("free")}
        return {name: value for name, value in dataclasses.asdict(self).items() if name in kept}

    def press_config(self, base: BaseReference, trained: dict[str, Any]) -> PressConfig:
        """Settings of the press that this recipe trains."""
        return PressConfig(
            name=self.press,
            base=base,
            encoder_layers=self.encoder_layers,
            encoder_lora=self.encoder_lora,
            decoder_lora=self.decoder_lora,
            compressor=self.compressor,
            policy=self.policy,
            candidates=self.candidates,
            converter_width=self.converter_width,
            residual=self.residual,
            window_tokens=self.window_tokens,
            prompt=PromptSettings(),
            trained=trained,
        )


def semidynamic() -> Recipe:
    """The shipped press: the paper's method with an embedding residual, quotes as dense targets, and a shallow encoder."""
    lora = LoraSettings(rank=16, alpha=32.0, rank_stabilised=False)
    return Recipe(recipe="semidynamic", press="semidynamic-smollm2-135m", encoder_lora=lora, decoder_lora=lora)


def semidynamic_paper() -> Recipe:
    """The paper's settings (arXiv 2603.25926, authors' code): answers and summaries only, no residual, all layers, 80 contexts a step."""
    return Recipe(
        recipe="semidynamic-paper",
        press="semidynamic-paper-smollm2-135m",
        encoder_layers=None,
        encoder_lora=LoraSettings(rank=16, alpha=32.0, rank_stabilised=True, dropout=0.1),
        decoder_lora=LoraSettings(rank=16, alpha=16.0, rank_stabilised=True, dropout=0.1),
        converter_width=4096,
        residual="none",
        steps=100_000,
        tokens_per_step=80 * 291,  # the mean context has 291 tokens
        quotes=0,
        learning_rate=4e-5,
        other_learning_rate=4e-5,
        warmup_steps=100,
        schedule="constant",
        beta2=0.999,
        weight_decay=0.01,
    )


def reader() -> Recipe:
    """The bound: the same decoder and data, reading the first tokens of the text verbatim, the whole text at ratio 1."""
    lora = LoraSettings(rank=16, alpha=32.0, rank_stabilised=False)
    return Recipe(
        recipe="reader",
        press="reader-smollm2-135m",
        compressor="first-tokens",
        policy="fixed",
        candidates=(1, 4, 8, 16),
        residual="none",
        decoder_lora=lora,
        quotes=0,
        dev_ratios=(1, 4, 8, 16),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"semidynamic": semidynamic, "semidynamic-paper": semidynamic_paper, "reader": reader}


def make_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Returns a recipe by name with `name=value` overrides; `encoder_lora.rank=8` reaches into an adapter.

    Raises:
        InputError: an unknown recipe or setting, or a value of the wrong type; the message lists the valid ones.
    """
    if name not in RECIPES:
        raise InputError(f"recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    changes: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"override {text!r} is not name=value, for example steps=1000")
        _apply(recipe, changes, key.strip(), value.strip())
    return dataclasses.replace(recipe, **changes)


def _apply(recipe: Recipe, changes: dict[str, Any], key: str, value: str) -> None:
    """Adds one override to the changes."""
    name, dot, inner = key.partition(".")
    hints = {k: v for k, v in typing.get_type_hints(Recipe).items() if k != "recipe"}
    if name not in hints:
        raise InputError(f"recipe {recipe.recipe!r} has no setting {name!r}; choose one of {', '.join(hints)}")
    hint = hints[name]
    if hint is LoraSettings:
        inner_hints = typing.get_type_hints(LoraSettings)
        if inner not in inner_hints:
            raise InputError(f"{name} has the settings {', '.join(f'{name}.{k}' for k in inner_hints)}; set one of them, not {key!r}")
        current = changes.get(name, getattr(recipe, name))
        changes[name] = dataclasses.replace(current, **{inner: _parse(key, inner_hints[inner], value)})
    elif dot:
        raise InputError(f"{name} has no inner settings; write {name}=value, not {key!r}")
    else:
        changes[name] = _parse(name, hint, value)


def _parse(name: str, hint: Any, value: str) -> Any:
    """Reads the text of an override as the type of its setting."""
    options = typing.get_args(hint)
    try:
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            return None if value.lower() == "none" else _parse(name, options[0], value)
        if typing.get_origin(hint) is tuple:
            return tuple(_parse(name, options[0], item.strip()) for item in value.split(",") if item.strip())
        if hint is RatioPhase:
            start, weights = value.split(":")
            return RatioPhase(start=float(start), weights=tuple(float(weight) for weight in weights.split("/")))
        if hint is QuotePhase:
            start, quotes = value.split(":")
            return QuotePhase(start=float(start), quotes=int(quotes))
        if hint is bool:
            return {"true": True, "false": False}[value.lower()]
        return hint(value.replace("_", "") if hint in (int, float) else value)
    except (ValueError, KeyError) as error:
        raise InputError(f"{name}={value!r} cannot be read; expected {_EXPECTED.get(hint, 'another value')}") from error


_EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    RatioPhase: "phases such as 0:1/1/1/0/0,0.5:1/1/1/1/1 (start of the phase, then one weight a candidate)",
    QuotePhase: "phases such as 0:3,0.5:1 (start of the phase, then the number of quotes)",
}
