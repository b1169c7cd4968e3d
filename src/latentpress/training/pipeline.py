"""A training as phases: one for a recipe, several for a pipeline, each from the press of the one before.

    OUT/
      ntp/, sft/            a run each, named after its phase; see `latentpress.training.checkpoint`
      press/                that of the last phase, copied when its run ends or is stopped

A phase is a run like any other: the same command goes on in whichever was interrupted, and a finished one returns at
once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentpress.checkpoints.config import BaseReference
from latentpress.checkpoints.io import CONFIG, copy_press
from latentpress.data.records import read_records
from latentpress.errors import InputError, TrainingError
from latentpress.loading import press_folder
from latentpress.training.checkpoint import PRESS, checkpoints, sweep, writing
from latentpress.training.overrides import make_recipe, overridden
from latentpress.training.recipes import PIPELINES, RECIPES, Recipe
from latentpress.training.start import different_settings

_FILES = ("data", "dev")  # what a phase may have of its own beside the settings of its recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One run of a training."""

    name: str = ""
    """Its name in the pipeline; empty for the only one of a recipe."""
    place: str = ""
    """Which of how many it is, in words."""
    recipe: Recipe
    """Every setting."""
    meant: frozenset[str]
    """Settings that the user gave."""
    data: tuple[str, ...]
    """Files or hub ids of training records."""
    dev: str | None
    """File or hub id to evaluate on; some of the data is held back if None."""
    out: Path
    """Folder of the run."""
    from_press: Path | None
    """Press to start the weights from."""
    copy: Path | None = None
    """Where its press is copied to, if anywhere."""

    @property
    def press(self) -> Path:
        """The press that is asked for when the training ends or stops in this phase."""
        return self.copy or self.out / PRESS


def plan(
    name: str, *, data: Sequence[str], dev: str | None, out: Path, overrides: Sequence[str], from_press: str | None
) -> tuple[Phase, ...]:
    """Plans a training, and finds what can be wrong in a later phase before the first one runs.

    Args:
        name: one of `RECIPES` or `PIPELINES`.
        data: of every phase without its own.
        dev: likewise.
        out: folder of the run, or of the runs of a pipeline.
        overrides: `name=value`; of a pipeline for all its phases, `phase.name=value` for one, where `phase.data=FILE`
            (may be given several times) and `phase.dev=FILE` (`none`: some of its data is held back) are its own files.
        from_press: press folder that the first phase starts from.

    Raises:
        InputError: an unknown recipe, phase or setting, or settings of a phase that do not go on from the one before.
        DataError: own files of a later phase that cannot be read.
        TrainingError: the folder holds the run of a recipe alone, or a later phase's whose beginning is missing.
    """
    start = None if from_press is None else Path(from_press)
    if name in RECIPES:
        recipe, meant = make_recipe(name, overrides), overridden(overrides)
        return (Phase(recipe=recipe, meant=meant, data=tuple(data), dev=dev, out=out, from_press=start),)
    if name not in PIPELINES:
        raise InputError(f"recipe {name!r} is unknown; choose one of {', '.join((*RECIPES, *PIPELINES))}")
    shared, own = _by_phase(name, overrides)
    phases: list[Phase] = []
    for number, (recipe_name, phase) in enumerate(zip(PIPELINES[name], own, strict=True), start=1):
        files, settings = _own_files(own[phase])
        # What the first phase learns from is not the target of the others.
        common = [text for text in shared if not phases or text.partition("=")[0].strip() != "imitate"]
        devs = [dev, *(None if path.lower() == "none" else path for path in files["dev"])]
        phases.append(
            Phase(
                name=phase,
                place=f"phase {number} of {len(own)}, {phase}",
                recipe=make_recipe(recipe_name, [*common, *settings]),
                meant=overridden([*common, *settings]),
                data=tuple(files["data"] or data),
                dev=devs[-1],
                out=out / phase,
                from_press=phases[-1].press if phases else start,
                copy=out / PRESS if number == len(own) else None,
            )
        )
    for later in phases:
        if later.recipe.imitate:
            press_folder(later.recipe.imitate)
    _check_settings(phases)
    _check_folders(name, out, phases)
    own_files = {path for phase in phases[1:] for path in (*phase.data, phase.dev) if path} - {*data, dev}
    for path in sorted(own_files):  # the others are read in the first phase
        read_records(path, limit=1)
    return tuple(phases)


def phase_names(pipeline: str) -> tuple[str, ...]:
    """Names of a pipeline's phases: those of its recipes without its own before them."""
    return tuple(recipe.removeprefix(f"{pipeline}-") for recipe in PIPELINES[pipeline])


def _by_phase(pipeline: str, overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Overrides of all phases, and by phase its own without the name, which come behind and win.

    Raises:
        InputError: one names a phase that there is not, or no setting of it.
    """
    settings = {f.name for f in dataclasses.fields(Recipe)}
    own: dict[str, list[str]] = {phase: [] for phase in phase_names(pipeline)}
    shared = []
    for text in overrides:
        key = text.partition("=")[0]
        head, dot, _ = (part.strip() for part in key.partition("."))
        if head in settings or (not dot and head not in own):
            shared.append(text)
        elif head not in own:
            raise InputError(
                f"override {text!r}: pipeline {pipeline!r} has no phase {head!r}; choose one of {', '.join(own)}, or "
                "write NAME=VALUE for all of them"
            )
        elif not dot:
            raise InputError(f"override {text!r} names a phase and no setting of it; write {head}.steps=1000")
        else:
            own[head].append(text.partition(".")[2])
    return shared, own


def _own_files(overrides: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """A phase's own files, and its settings."""
    files: dict[str, list[str]] = {name: [] for name in _FILES}
    settings = []
    for text in overrides:
        name, equals, value = text.partition("=")
        if equals and name.strip() in files:
            files[name.strip()].append(value.strip())
        else:
            settings.append(text)
    return files, settings


def _check_settings(phases: Sequence[Phase]) -> None:
    """Makes sure that each phase can start from the press of the one before.

    Raises:
        InputError: it cannot, with the settings that differ.
    """
    base = BaseReference(id="", fingerprint="", width=0)
    for before, phase in itertools.pairwise(phases):
        there, here = before.recipe.press_config(base, {}), phase.recipe.press_config(base, {})
        if differing := different_settings(there, here, phase.meant):
            raise InputError(
                f"phase {phase.name} cannot start from the press of phase {before.name}: {'; '.join(differing)}; "
                "give settings of the press as NAME=VALUE, for all phases"
            )


def _check_folders(pipeline: str, out: Path, phases: Sequence[Phase]) -> None:
    """Makes sure that no run is in the way, before the first phase takes its hours.

    Raises:
        TrainingError: one is.
    """
    if found := checkpoints(out):
        raise TrainingError(
            f"{out} holds a run of one recipe, at {found[-1][1].name}; give another folder for pipeline {pipeline!r}"
        )
    for before, phase in itertools.pairwise(phases):
        done, found = checkpoints(before.out), checkpoints(phase.out)
        if found and (not done or done[-1][0] < before.recipe.steps):
            raise TrainingError(
                f"{phase.out} holds a run at {found[-1][1].name}, and {before.out}, whose press it starts from, none "
                f"that is finished at step {before.recipe.steps}; remove {phase.out}, or give another folder"
            )


def copy_of_press(press: Path, to: Path) -> None:
    """Brings the copy of a press up to date.

    Raises:
        PressError: it cannot be written; the one before is unchanged.
    """
    with writing(to.parent):
        sweep(to.parent)
        made = [folder / CONFIG for folder in (press, to)]
        if not made[1].is_file() or made[0].read_bytes() != made[1].read_bytes():
            copy_press(press, to)
