"""What a training starts from where it does not start anew: the weights of another press."""

from __future__ import annotations

import dataclasses
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch

from latentpress.backbone import Backbone, Base
from latentpress.checkpoints.config import PressConfig
from latentpress.checkpoints.io import read_config, read_press
from latentpress.compressors import FirstTokens
from latentpress.errors import TrainingError
from latentpress.loading import fill
from latentpress.lora import load_lora_state
from latentpress.model import PressModel
from latentpress.ratios import POLICIES
from latentpress.training.checkpoint import recorded_start
from latentpress.training.recipes import unusual_settings

# Settings that no weight's shape depends on; where one does after all, its shape is compared.
_WEIGHTLESS = {"candidates", "length_exponent", "prompt", "rounding", "selection", "window_tokens"}
_ADAPTERS = {"encoder_lora", "decoder_lora"}  # what a press lacks of these is made anew: at zero, it changes nothing
_WEIGHTLESS_OF_COMPRESSORS = {"selects"}  # of a compressor's own settings
_HEAD = "head."  # of a selector: a press without one may be given one


def start_of(out: Path, press: Path) -> dict[str, Any]:
    """The press that a run starts from; of a run that is there, as it was then: it may have been replaced since."""
    then = recorded_start(out)
    if then.get("path") == str(press.resolve()):
        return then
    config, _, fingerprint = read_config(press)
    return {"path": str(press.resolve()), "fingerprint": fingerprint, "trained": config.trained}


def load_weights(press: PressModel, folder: Path, *, meant: AbstractSet[str] = frozenset()) -> tuple[str, ...]:
    """Copies the weights of a press folder into a model.

    A reader of text starts from any press that has a decoder's adapter: it takes that over, and nothing else.

    Args:
        press: what is trained.
        folder: the press to start from.
        meant: settings that the user gave; of those that shape no weight, these alone may differ from the press's.

    Returns:
        Roles, `encoder` or `decoder`, whose adapter the press lacks; the model's own stays as it was made, at zero.

    Raises:
        TrainingError: the press was made for another base, or has other settings, each named.
    """
    config, modules, adapters, _ = read_press(folder)
    differing = different_settings(config, press.config, meant)
    own = press.own_state()
    if _takes_decoder(config, press.config):
        modules = {name: tensor for name, tensor in modules.items() if name in own}  # vectors before the text
    there_shapes = {k: v.shape for k, v in modules.items()}
    shapes = {k: v.shape for k, v in own.items() if k in there_shapes or not k.startswith(_HEAD)}
    if not differing and there_shapes != shapes:
        differing = [_other_shape(there_shapes, shapes)]
    if differing:
        raise TrainingError(
            f"training cannot start from press {folder}: {'; '.join(differing)}; give the press's settings as overrides"
        )
    there = {"encoder": config.encoder_lora, "decoder": config.decoder_lora}
    here = {"encoder": press.config.encoder_lora, "decoder": press.config.decoder_lora}
    trees = press.trees()
    new = tuple(role for role, lora in here.items() if role in trees and lora is not None and there[role] is None)
    for role, backbone in trees.items():
        if role in new:
            continue
        missing, unknown = load_lora_state(backbone.body, adapters.get(role, {}))
        assert not missing, f"{role} adapter of equal settings lacks {missing}"
        assert not unknown, f"{role} adapter of equal settings has {unknown}"
    with torch.no_grad():
        for name in modules:
            own[name].copy_(modules[name])
    return new


def _other_shape(there: dict[str, torch.Size], here: dict[str, torch.Size]) -> str:
    """The first module of two presses of equal settings that differs, in words."""
    name = next(name for name in {**there, **here} if there.get(name) != here.get(name))
    shapes = [str(list(shapes[name])) if name in shapes else "missing" for shapes in (there, here)]
    return f"its {name} is {shapes[0]} there, {shapes[1]} here"


def imitated(press: PressModel, base: Base, folder: Path) -> PressModel:
    """Opens a press whose latents another is to learn; see `Recipe.imitate`.

    The one that learns takes over its decoder's adapter and its residual, and of its own weights trains those alone
    that latents are made by.

    Args:
        press: what is trained.
        base: their base model.
        folder: the press to imitate.

    Raises:
        TrainingError: it is made for another base, or has another kind of adapter or residual.
        PressError: it cannot be read.
    """
    config, modules, adapters, _ = read_press(folder)
    own = press.config
    if config.base.fingerprint != base.fingerprint or config.encoder_base is not None:
        raise TrainingError(
            f"press {folder} has another base model than the training; give one with the same to imitate"
        )
    for name in ("decoder_lora", "residual", "prompt", "prompt_vectors", "window_tokens"):
        there, here = getattr(config, name), getattr(own, name)
        if there != here:
            raise TrainingError(
                f"press {folder} cannot be imitated: {name} is {there!r} there, {here!r} here; give its settings"
            )
    other = PressModel(config, base)
    fill(other, modules, adapters, folder)
    if not (other.compressor.tiles and press.compressor.tiles):
        raise TrainingError(
            f"press {folder} cannot be imitated: latents of {config.compressor!r} and of {own.compressor!r} are "
            "compared by the tokens they stand for, and not both share a text out"
        )
    known, asked = other.policy, press.policy
    if known.kind is not asked.kind:
        raise TrainingError(
            f"press {folder} cannot be imitated: it was trained for {known.word()}s, and policy {own.policy!r} chooses "
            f"{asked.word()}s; choose another policy"
        )
    if missing := [value for value in own.candidates if not known.allows(value)]:
        raise TrainingError(
            f"press {folder} was not trained for {known.word()} {missing[0]}; give candidates of {config.candidates}"
        )
    with torch.no_grad():
        for name, tensor in press.own_state().items():
            if name.startswith(("residual.", "decoder.")):
                tensor.copy_(modules[name])
    load_lora_state(press.decoder.body, adapters.get("decoder", {}))
    for part in (press.decoder, press.head, press.residual):
        if part is not None:
            part.requires_grad_(False)
    return other.eval().requires_grad_(False)


def reader_of(press: PressModel, base: Base, folder: Path) -> tuple[Backbone, str]:
    """Opens the decoder of a press that reads the full text, for another to learn from; see `Recipe.teacher`.

    Args:
        press: what is trained.
        base: their base model.
        folder: the reader.

    Returns:
        Its decoder, frozen, and its fingerprint.

    Raises:
        TrainingError: it compresses, is made for another base, or asks in other words.
        PressError: it cannot be read.
    """
    config, modules, adapters, fingerprint = read_press(folder)
    if config.compressor != FirstTokens.name or 1 not in config.candidates:
        raise TrainingError(
            f"press {folder} cannot be a teacher: it compresses ({config.compressor!r}, ratios "
            f"{', '.join(map(str, config.candidates))}), and a teacher reads the full text; give one of recipe reader"
        )
    if config.base.fingerprint != base.fingerprint:
        raise TrainingError(
            f"press {folder} cannot be a teacher: it is made for base model {config.base.id!r} "
            f"({config.base.fingerprint[:12]}), not {base.id!r} ({base.fingerprint[:12]}); train a reader on the latter"
        )
    if config.prompt != press.config.prompt:
        raise TrainingError(
            f"press {folder} cannot be a teacher: prompt is {config.prompt!r} there, {press.config.prompt!r} here; "
            "give its settings"
        )
    reader = PressModel(config, base)
    fill(reader, modules, adapters, folder)
    return reader.decoder.eval().requires_grad_(False), fingerprint


def different_settings(old: PressConfig, new: PressConfig, meant: AbstractSet[str]) -> list[str]:
    """What keeps the weights of one press from being trained further as another, in words."""
    differing = []
    if old.base.fingerprint != new.base.fingerprint:
        bases = [f"{base.id!r} ({base.fingerprint[:12]})" for base in (old.base, new.base)]
        differing.append(f"its base model is {bases[0]}, not {bases[1]}")
    names = {f.name for f in dataclasses.fields(PressConfig)} - {"name", "base", "trained"}
    if _takes_decoder(old, new):
        names = {"decoder_lora", "prompt", "prompt_vectors"}
    for name in sorted(names):
        there, here = getattr(old, name), getattr(new, name)
        if name == "compressor_settings" and old.compressor == new.compressor:
            there, here = unusual_settings(old.compressor, there), unusual_settings(new.compressor, here)
            if name in meant:
                there, here = _without(there, _WEIGHTLESS_OF_COMPRESSORS), _without(here, _WEIGHTLESS_OF_COMPRESSORS)
        allowed = (name in meant and name in _WEIGHTLESS) or (name in _ADAPTERS and there is None)
        if name == "policy":  # a selector's head is kept, or made anew, as an adapter is
            allowed = name in meant and (POLICIES[here].predicts or not POLICIES[there].predicts)
        if there != here and not allowed:
            differing.append(f"{name} is {there!r} there, {here!r} here")
    return differing


def _takes_decoder(old: PressConfig, new: PressConfig) -> bool:
    """Whether one is a reader of text, whose only weights are its decoder's adapter, and the other is not."""
    reader = new.compressor == FirstTokens.name and new.residual == "none" and not POLICIES[new.policy].predicts
    return reader and old.compressor != FirstTokens.name and old.decoder_lora is not None


def _without(settings: dict[str, Any], names: AbstractSet[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
