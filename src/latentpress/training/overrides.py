"""Recipes by name with `name=value` overrides, as the command line gives them."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable
from typing import Any

from latentpress.compressors import COMPRESSORS, Ratio
from latentpress.decoder.prompt import PromptSettings
from latentpress.errors import InputError
from latentpress.lora import LoraSettings
from latentpress.ratios import POLICIES, USUAL
from latentpress.training.recipes import RECIPES, Recipe
from latentpress.training.schedules import QuotePhase, RatioPhase

_NESTED: tuple[Any, ...] = (LoraSettings, PromptSettings)


def make_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Returns a recipe by name with `name=value` overrides; `encoder_lora.rank=8` and `prompt.system=...` reach inside.

    Where the recipe's `f1_ratio` is no size of the policy and candidates that are asked for, the nearest candidate
    takes its place.

    Raises:
        InputError: an unknown recipe or setting, a value of the wrong type, or an `f1_ratio` that the policy does not
            have; the message lists the valid ones.
    """
    if name not in RECIPES:
        raise InputError(f"recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    changes: dict[str, Any] = {}
    # A compressor's own settings can be read once it is known which one it is.
    for text in sorted(overrides, key=lambda text: text.partition("=")[0].strip() != "compressor"):
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"override {text!r} is not name=value, for example steps=1000")
        _apply(recipe, changes, key.strip(), value)
    return _with_f1_ratio(dataclasses.replace(recipe, **_of_its_kind(recipe, changes)), given="f1_ratio" in changes)


def _with_f1_ratio(recipe: Recipe, *, given: bool) -> Recipe:
    """The recipe with a size that its policy has to answer questions at.

    Raises:
        InputError: the user gave another.
    """
    policy = recipe.ratio_policy()
    if policy.allows(recipe.f1_ratio):
        return recipe
    if given:
        raise InputError(
            f"f1_ratio={recipe.f1_ratio} is no {policy.word()} that the press is trained for, so no question could be "
            f"answered at it; choose {policy.allowed()}, or leave it out"
        )
    # Of two that are as near the one that keeps more comes first.
    nearest = min(policy.ordered(), key=lambda size: abs(math.log2(size.value / recipe.f1_ratio)))
    return dataclasses.replace(recipe, f1_ratio=nearest.value)


def _of_its_kind(recipe: Recipe, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes, with what else must change where a policy counts latents and the recipe's counts ratios.

    Candidates must be given then. The schedule of the recipe's is dropped, all candidates are evaluated, and questions
    are answered at the one that keeps most, where nothing else is asked for.

    Raises:
        InputError: there are no such candidates.
    """
    before, now = (POLICIES.get(name) for name in (recipe.policy, changes.get("policy", recipe.policy)))
    if before is None or now is None or before.kind is now.kind:
        return changes
    compressor = COMPRESSORS.get(changes.get("compressor", recipe.compressor))
    if compressor is None or now.kind not in compressor.sizes:
        return changes  # refused as a pair, whatever the candidates
    if "candidates" not in changes:
        usual = ",".join(map(str, USUAL[now.kind]))
        raise InputError(
            f"policy={now.name} takes {now.word()}s, and the candidates {', '.join(map(str, recipe.candidates))} of "
            f"recipe {recipe.recipe!r} are {before.word()}s; give candidates={usual} too"
        )
    keeps_most = (min if now.kind is Ratio else max)(changes["candidates"], default=recipe.f1_ratio)
    return {"ratio_schedule": (), "dev_ratios": (), "f1_ratio": keeps_most} | changes


def overridden(overrides: Iterable[str]) -> frozenset[str]:
    """Names of the settings that overrides change."""
    return frozenset(text.partition("=")[0].partition(".")[0].strip() for text in overrides)


def _apply(recipe: Recipe, changes: dict[str, Any], key: str, value: str) -> None:
    """Adds one override to the changes."""
    name, dot, inner = key.partition(".")
    hints = {k: v for k, v in typing.get_type_hints(Recipe).items() if k != "recipe"}
    if name not in hints:
        raise InputError(f"recipe {recipe.recipe!r} has no setting {name!r}; choose one of {', '.join(hints)}")
    hint = hints[name]
    nested = next((kind for kind in _NESTED if hint in (kind, kind | None)), None)
    if name == "compressor_settings":
        nested = _settings_of(changes.get("compressor", recipe.compressor), key)
    without = hint != nested and not dot and value.strip().lower() == "none"
    if nested is not None and not without:
        inner_hints = typing.get_type_hints(nested)
        if inner not in inner_hints:
            raise InputError(
                f"{name} has the settings {', '.join(f'{name}.{k}' for k in inner_hints)}; set one of them, not {key!r}"
            )
        current, read = changes.get(name, getattr(recipe, name)), _parse(key, inner_hints[inner], value)
        if isinstance(current, dict):
            changes[name] = {**current, inner: read}
        else:
            changes[name] = dataclasses.replace(nested() if current is None else current, **{inner: read})
    elif dot:
        raise InputError(f"{name} has no inner settings; write {name}=value, not {key!r}")
    else:
        changes[name] = _parse(name, hint, value)
        if name == "compressor" and changes[name] != recipe.compressor:
            changes["compressor_settings"] = {}  # the recipe's are another's


def _settings_of(compressor: str, key: str) -> type:
    """Settings of a compressor's own, for an override that names one of them."""
    if compressor not in COMPRESSORS:
        raise InputError(f"compressor {compressor!r} is unknown; choose one of {', '.join(COMPRESSORS)}")
    kind = COMPRESSORS[compressor].Settings
    if not dataclasses.fields(kind):
        raise InputError(f"compressor {compressor!r} has no setting of its own; leave {key} out")
    return kind


def _parse(name: str, hint: Any, value: str) -> Any:
    """Reads the text of an override as the type of its setting."""
    options = typing.get_args(hint)
    if not name.startswith("prompt."):  # white space is part of a prompt
        value = value.strip()
    try:
        if typing.get_origin(hint) is typing.Literal:
            if value not in options:
                raise InputError(f"{name}={value!r} is unknown; choose one of {', '.join(options)}")
            return value
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
    except InputError:  # of a part of it
        raise
    except (ValueError, KeyError) as error:
        raise InputError(f"{name}={value!r} cannot be read; expected {_EXPECTED[hint]}") from error


_EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    RatioPhase: "phases such as 0:1/1/1/0/0,0.5:1/1/1/1/1 (start of the phase, then one weight a candidate)",
    QuotePhase: "phases such as 0:3,0.5:1 (start of the phase, then the number of quotes)",
}
