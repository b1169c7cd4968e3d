"""The mean of several presses: one press of weights between those of trainings that parted from the same start.

Weights of trainings with other data or seeds, from one trained press, lie close enough together that the loss on the
way between them is low, and their mean is often better than each (Wortsman et al. 2022, arXiv 2203.05482). Of presses
that were trained apart from the beginning it is worth nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from latentpress.checkpoints.io import read_press
from latentpress.errors import PressError
from latentpress.loading import fill, load_model
from latentpress.training.checkpoint import export_press


def average(folders: Sequence[Path], out: Path, *, base: str | Path | None = None) -> Path:
    """Writes the mean of the weights of presses of the same settings.

    Args:
        folders: two presses or more; their names may differ, the first one's is kept.
        out: folder of the press that comes out; an older press there is replaced.
        base: where their base model lies, if not under its own id.

    Returns:
        The folder.

    Raises:
        PressError: fewer than two, one that cannot be read, or presses of other settings, the first of which is named.
        BaseModelError: the base model cannot be had.
    """
    if len(folders) < 2:
        raise PressError(f"a mean needs two presses or more, and {len(folders)} was given; name another")
    read = [read_press(folder) for folder in folders]
    first = read[0][0]
    for folder, (config, _, _, _) in zip(folders[1:], read[1:], strict=True):
        for field in dataclasses.fields(config):
            here, there = getattr(first, field.name), getattr(config, field.name)
            if field.name not in ("name", "trained") and here != there:
                raise PressError(
                    f"presses {folders[0]} and {folder} have no mean: {field.name} is {here!r} in one and {there!r} "
                    "in the other; give presses of the same settings"
                )
    model, _, _ = load_model(folders[0], base=base, device="cpu")
    modules = _mean([own for _, own, _, _ in read])
    adapters = {role: _mean([states[role] for _, _, states, _ in read]) for role in read[0][2]}
    fill(model, modules, adapters, folders[0])
    trained = {"mean_of": [{"fingerprint": fingerprint, **config.trained} for config, _, _, fingerprint in read]}
    export_press(out, model, dataclasses.replace(first, trained=trained))
    return out


def _mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name].float() for one in states]).mean(0) for name in states[0]}
