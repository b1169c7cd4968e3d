"""One training from start to press: `latentpress train`."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PrinterCallback, set_seed

from latentpress.backbone import Base, load_base
from latentpress.base_model import DEFAULT_BASE, base_folder
from latentpress.checkpoints.config import BaseReference, PressConfig
from latentpress.checkpoints.io import read_config, read_press
from latentpress.data.rows import ExampleMaker
from latentpress.errors import InputError, TrainingError
from latentpress.lora import load_lora_state
from latentpress.model import PressModel
from latentpress.training.callbacks import Files, Pace, ShowProgress, StopAfter
from latentpress.training.checkpoint import PRESS, START, alone_in, check_whole, claim, recorded_start, trained, writing
from latentpress.training.data_stream import StepStream, TrainingData, read_data, unigram_counts
from latentpress.training.evaluate import make_dev_set
from latentpress.training.memory import keep_freed_memory
from latentpress.training.overrides import make_recipe, overridden
from latentpress.training.recipes import Recipe
from latentpress.training.trainer import PressTrainer, training_arguments

_WEIGHTLESS = {"candidates", "prompt", "rounding", "window_tokens"}  # settings that no weight's shape depends on
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def train(
    recipe_name: str,
    *,
    data: Sequence[str],
    out: Path,
    minutes: float | None = None,
    dev: str | None = None,
    base: str | None = None,
    overrides: Sequence[str] = (),
    resume: bool = True,
    from_press: str | None = None,
) -> Path:
    """Trains a press, or goes on where the run in the out folder stopped.

    Args:
        recipe_name: one of `RECIPES`.
        data: files or hub ids of training records.
        out: folder of the run; see `latentpress.training.checkpoint`.
        minutes: stop with a full checkpoint after so many, None to train to the end.
        dev: file or hub id to evaluate on; some of the data is held back if None.
        base: base model by id, folder or hub id; the embedded default if None.
        overrides: `name=value` settings.
        resume: whether a run in the out folder may be continued.
        from_press: press folder to start the weights from.

    Returns:
        Folder of the best press so far.

    Raises:
        InputError: an unknown recipe or setting, or rows that exceed the decoder's positions.
        DataError: the data cannot be read.
        BaseModelError: the base model cannot be had.
        PressError: `from_press` cannot be read.
        TrainingError: the loss is not finite or diverges, or the out folder holds another run.
    """
    started = time.monotonic()
    recipe = make_recipe(recipe_name, overrides)
    keep_freed_memory()
    args = training_arguments(recipe, out)
    with alone_in(out) if args.process_index == 0 else contextlib.nullcontext():
        loaded = open_base(base, recipe, args.device)
        reference = BaseReference(id=loaded.id, fingerprint=loaded.fingerprint, width=loaded.width)
        config = recipe.press_config(reference, {})
        maker = ExampleMaker(loaded.tokenizer, config.prompt, config.window_tokens)
        records = read_data(data, dev, recipe, maker)
        _check_positions(recipe, loaded)
        start = None if from_press is None else _start(out, Path(from_press))
        identity = {
            "recipe": recipe.identity(),
            "data": records.digest,
            "base": loaded.fingerprint,
            "from_press": start and start["fingerprint"],
            START: start,
        }
        with args.main_process_first(local=False), writing(out):
            older = {"recipe": Recipe(recipe=recipe.recipe, press=recipe.press).identity()}
            checkpoint = claim(out, identity, resume=resume or args.process_index > 0, defaults=older)
        if checkpoint is not None:
            check_whole(checkpoint)
        press = new_press(config, loaded, recipe, records)
        if from_press is not None and checkpoint is None:
            load_weights(press, Path(from_press), meant=overridden(overrides))
        stop = StopAfter(minutes, started)
        trainer = PressTrainer(
            press,
            recipe,
            StepStream(records.train, maker, recipe),
            make_dev_set(records.dev, records.dev_sources, maker, recipe) if records.dev else None,
            loaded.tokenizer,
            out=out,
            args=args,
            provenance={
                "recipe": recipe.identity(),
                "data": [Path(path).name for path in data],
                "records": len(records.train),
                **({"after": start["trained"]} if start else {}),
            },
            callbacks=[stop, Pace(), Files(out)],
        )
        console = Console(stderr=True, quiet=args.process_index > 0)
        console.print(_summary(press, loaded, records, recipe, checkpoint), highlight=False, soft_wrap=True)
        with writing(out):
            _run(trainer, checkpoint, console)
    if stop.stopped:
        step = trainer.state.global_step
        console.print(f"time is up at step {step} of {recipe.steps}; the same command goes on from there")
    return out / PRESS


def _start(out: Path, press: Path) -> dict[str, Any]:
    """The press that a run starts from; of a run that is there, as it was then: it may have been replaced since."""
    then = recorded_start(out)
    if then.get("path") == str(press.resolve()):
        return then
    config, _, fingerprint = read_config(press)
    return {"path": str(press.resolve()), "fingerprint": fingerprint, "trained": config.trained}


def _check_positions(recipe: Recipe, base: Base) -> None:
    """Makes sure that the longest row fits the decoder at the lowest ratio.

    Raises:
        InputError: it does not.
    """
    longest = max(recipe.max_context_tokens, recipe.long_document_tokens if recipe.long_documents else 0)
    latents = -(-longest // recipe.candidates[0])
    if latents >= base.max_positions:
        raise InputError(
            f"a row of {longest} context tokens is {latents} latents at ratio {recipe.candidates[0]}, and the decoder "
            f"has {base.max_positions} positions; lower max_context_tokens or long_document_tokens"
        )


def open_base(base: str | None, recipe: Recipe, device: torch.device) -> Base:
    """Loads the base model of a training, frozen, in the recipe's type."""
    name = base or DEFAULT_BASE
    return load_base(base_folder(name), id=name, device=str(device), dtype=_DTYPES[recipe.dtype])


def new_press(config: PressConfig, base: Base, recipe: Recipe, records: TrainingData) -> PressModel:
    """Makes the press that training starts from: random weights by the seed, salience by the data's frequencies."""
    set_seed(recipe.seed)
    press = PressModel(config, base)
    if press.residual is not None:
        counts = unigram_counts(records.train, base.model.config.vocab_size)
        press.residual.start_from(counts.to(base.model.device), recipe.residual_sharpness)
    return press


def load_weights(press: PressModel, folder: Path, *, meant: AbstractSet[str] = frozenset()) -> None:
    """Copies the weights of a press folder into a model.

    Args:
        press: what is trained.
        folder: the press to start from.
        meant: settings that the user gave; of those that shape no weight, these alone may differ from the press's.

    Raises:
        TrainingError: the press was made for another base, or has other settings, each named.
    """
    config, modules, adapters, _ = read_press(folder)
    differing = _different_settings(config, press.config, meant)
    own = press.own_state()
    if not differing and {k: v.shape for k, v in modules.items()} != {k: v.shape for k, v in own.items()}:
        differing = ["its modules have other shapes"]
    if differing:
        raise TrainingError(
            f"training cannot start from press {folder}: {'; '.join(differing)}; give the press's settings as overrides"
        )
    for role, backbone in (("encoder", press.encoder), ("decoder", press.decoder)):
        if backbone is not None:
            missing, unknown = load_lora_state(backbone.body, adapters.get(role, {}))
            assert not missing, f"{role} adapter of equal settings lacks {missing}"
            assert not unknown, f"{role} adapter of equal settings has {unknown}"
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(modules[name])


def _different_settings(old: PressConfig, new: PressConfig, meant: AbstractSet[str]) -> list[str]:
    """What keeps the weights of one press from being trained further as another, in words."""
    differing = []
    if old.base.fingerprint != new.base.fingerprint:
        there, here = (f"{base.id!r} ({base.fingerprint[:12]})" for base in (old.base, new.base))
        differing.append(f"its base model is {there}, not {here}")
    for name in sorted({f.name for f in dataclasses.fields(PressConfig)} - {"name", "base", "trained"}):
        there, here = getattr(old, name), getattr(new, name)
        if there != here and (name not in meant or name not in _WEIGHTLESS):
            differing.append(f"{name} is {there!r} there, {here!r} here")
    return differing


def _run(trainer: PressTrainer, checkpoint: Path | None, console: Console) -> None:
    """Trains from a checkpoint, or from the start, unless all steps are done; leaves a press in any case."""
    trainer.remove_callback(PrinterCallback)
    if checkpoint is None or int(checkpoint.name.rpartition("-")[2]) < trainer.recipe.steps:
        progress = ShowProgress(console)
        trainer.add_callback(progress)
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            progress.close()
    elif trainer.export_is_behind():
        trainer.load(checkpoint)
        trainer.export({})
    if not (trainer.out / PRESS).exists():  # stopped before the first evaluation
        trainer.export({})


def _summary(press: PressModel, base: Base, records: TrainingData, recipe: Recipe, checkpoint: Path | None) -> str:
    """What is trained, on what, and from where."""
    count = sum(parameter.numel() for parameter in trained(press).values())
    whole = sum(parameter.numel() for parameter in base.model.parameters())
    tokens = sum(record.tokens for record in records.train)
    questions = sum(len(record.answers) for record in records.train)
    left_out = f", {records.left_out} left out" if records.left_out else ""
    limits = f"{recipe.steps} of {recipe.tokens_per_step} context tokens"
    return (
        f"press {recipe.press}: {count / 1e6:.2f} M parameters trained, "
        f"{100 * count / whole:.1f}% of the base's {whole / 1e6:.1f} M\n"
        f"data: {len(records.train)} records, {questions} questions, {tokens / 1e6:.2f} M context tokens{left_out}; "
        f"{len(records.dev)} dev records\n"
        f"steps: {limits}, from {checkpoint.name if checkpoint else 'the start'}"
    )
