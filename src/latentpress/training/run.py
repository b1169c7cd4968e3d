"""One training from start to press: `latentpress train`."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from transformers import PrinterCallback, TrainerCallback, set_seed

from latentpress.backbone import Backbone, Base, load_base
from latentpress.base_model import DEFAULT_BASE, base_folder
from latentpress.checkpoints.config import BaseReference, PressConfig
from latentpress.checkpoints.io import read_config
from latentpress.data.labels import LabelFile, read_labels
from latentpress.data.rows import ExampleMaker
from latentpress.errors import InputError
from latentpress.loading import press_folder, resolve_dtype, usual_dtype
from latentpress.model import PressModel
from latentpress.tokens import equal_windows
from latentpress.training.callbacks import Files, Pace, ShowProgress, StopAfter
from latentpress.training.checkpoint import PRESS, START, alone_in, check_whole, claim, recorded_dtype, trained, writing
from latentpress.training.data_stream import StepStream
from latentpress.training.evaluate import make_dev_set
from latentpress.training.memory import keep_freed_memory
from latentpress.training.pipeline import Phase, copy_of_press, plan
from latentpress.training.reading import TrainingData, answer_rates, read_data, unigram_counts
from latentpress.training.recipes import RECIPES, Recipe
from latentpress.training.sharding import check_settings
from latentpress.training.start import imitated, load_weights, reader_of, start_of
from latentpress.training.teacher import Teacher
from latentpress.training.trainer import PressTrainer, training_arguments


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
    labels: str | Path | None = None,
    hold_out: str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Trains a press, or goes on where the run in the out folder stopped.

    Args:
        recipe_name: one of `RECIPES`, or of `PIPELINES` for several that follow each other.
        data: files or hub ids of training records.
        out: folder of the run; see `latentpress.training.checkpoint`, and `latentpress.training.pipeline`.
        minutes: stop with a full checkpoint after so many, None to train to the end.
        dev: file or hub id to evaluate on; some of the data is held back if None.
        base: base model by id, folder or hub id; the embedded default if None.
        overrides: `name=value` settings; of one phase of a pipeline `phase.name=value`, see `plan`.
        resume: whether a run in the out folder may be continued.
        from_press: press folder to start the weights from.
        labels: file of density labels, which take the place of those that the data's summaries give.
        hold_out: file or hub id of passages a fifth of which, by their ids, is kept out of the data, to judge on; see
            `latentpress.data.held_out`.
        callbacks: watch the training, in every phase.

    Returns:
        Folder of the best press so far, of the phase that was reached.

    Raises:
        InputError: an unknown recipe, phase or setting, rows that exceed the decoder's positions, or labels for a press
            that predicts no ratio.
        DataError: the data or the labels cannot be read, or do not go together.
        BaseModelError: the base model cannot be had.
        PressError: `from_press` cannot be read.
        TrainingError: the loss is not finite or diverges, or the out folder holds another run.
    """
    started = time.monotonic()
    phases = plan(recipe_name, data=data, dev=dev, out=out, overrides=overrides, from_press=from_press)
    file = None if labels is None else read_labels(labels)
    if file is not None:
        _check_predicts(phases)
    keep_freed_memory()
    for phase in phases:
        stop = StopAfter(minutes, started)
        _train(phase, base=base, resume=resume, stop=stop, labels=file, hold_out=hold_out, callbacks=callbacks)
        if stop.stopped:
            break
        gc.collect()  # the trainer and its model hold each other, and the next phase has its own
    return phase.press


def _check_predicts(phases: Sequence[Phase]) -> None:
    """Makes sure that labels are learned.

    Raises:
        InputError: the press of a phase has no head to learn them.
    """
    for phase in phases:
        if not phase.recipe.ratio_policy().predicts:
            raise InputError(
                f"recipe {phase.recipe.recipe!r} has policy={phase.recipe.policy}, which predicts no ratio, so that "
                "--labels would teach nothing; leave them out, or set policy=selector"
            )


def _train(
    phase: Phase,
    *,
    base: str | None,
    resume: bool,
    stop: StopAfter,
    labels: LabelFile | None,
    hold_out: str | None,
    callbacks: Sequence[TrainerCallback],
) -> None:
    """Trains a phase, or goes on with it, to its end or until it is stopped."""
    recipe, out, from_press = phase.recipe, phase.out, phase.from_press
    args = training_arguments(recipe, out)
    check_settings()
    with alone_in(out) if args.process_index == 0 else contextlib.nullcontext():
        recipe = with_dtype(recipe, args.device, out)
        loaded = open_base(base, recipe, args.device)
        reference = BaseReference(id=loaded.id, fingerprint=loaded.fingerprint, width=loaded.width)
        config = recipe.press_config(reference, {})
        maker = ExampleMaker(loaded.tokenizer, config.prompt, config.window_tokens)
        records = read_data(phase.data, phase.dev, recipe, maker, labels, hold_out)
        press = new_press(config, loaded, recipe, records)
        _check_positions(recipe, press, loaded)
        start = None if from_press is None else start_of(out, from_press)
        model = press_folder(recipe.imitate) if recipe.imitate else None
        reads = press_folder(recipe.teacher) if recipe.teacher else None
        identity = {
            "recipe": recipe.identity(),
            "data": records.digest,
            "base": loaded.fingerprint,
            "from_press": start and start["fingerprint"],
            "imitated": None if model is None else read_config(model)[2],
            "teacher": None if reads is None else read_config(reads)[2],
            START: start,
        }
        with args.main_process_first(local=False), writing(out):
            older = {
                "recipe": Recipe(recipe=recipe.recipe, press=recipe.press).identity(),
                "imitated": None,
                "teacher": None,
            }
            checkpoint = claim(out, identity, resume=resume or args.process_index > 0, defaults=older)
        if checkpoint is not None:
            check_whole(checkpoint)
        new: tuple[str, ...] = ()
        if from_press is not None and checkpoint is None:
            new = load_weights(press, from_press, meant=phase.meant)
        other = None if model is None else imitated(press, loaded, model)
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
                "data": [Path(path).name for path in phase.data],
                "records": len(records.train),
                **({"labels": {"source": labels.source, "digest": labels.digest}} if labels else {}),
                **({"after": start["trained"]} if start else {}),
            },
            callbacks=[stop, Pace(), Files(out), *callbacks],
            teacher=_teacher(recipe, press, loaded, reads, maker, out) if recipe.distill else None,
            imitated=other,
        )
        console = Console(stderr=True, quiet=args.process_index > 0)
        if phase.place:
            console.print(f"{phase.place}: recipe {recipe.recipe}, in {out}", highlight=False, soft_wrap=True)
        console.print(
            _summary(press, loaded, records, recipe, checkpoint, new) + _f1_summary(phase),
            highlight=False,
            soft_wrap=True,
        )
        del loaded  # or its whole weights would stay beside those that are shared out
        try:
            with writing(out):
                _run(trainer, checkpoint, console)
        finally:
            if phase.copy is not None and args.process_index == 0 and (out / PRESS).is_dir():
                copy_of_press(out / PRESS, phase.copy)
    trainer.accelerator.wait_for_everyone()  # the next phase reads the press that the first process wrote
    if stop.stopped:
        of = f"{recipe.steps} in {phase.place}" if phase.place else str(recipe.steps)
        step = trainer.state.global_step
        console.print(f"time is up at step {step} of {of}; the same command goes on from there", soft_wrap=True)


def _check_positions(recipe: Recipe, press: PressModel, base: Base) -> None:
    """Makes sure that the longest row fits the decoder at the size that keeps most.

    Raises:
        InputError: it does not.
    """
    longest = max(recipe.max_context_tokens, recipe.long_document_tokens if recipe.long_documents else 0)
    size = press.policy.ordered()[0]
    windows = [end - start for start, end in equal_windows(longest, recipe.window_tokens)]
    counts = map(press.compressor.count, windows, press.policy.spread(size, windows))
    latents = sum(counts) + recipe.prompt_vectors
    if recipe.distill and recipe.max_context_tokens >= base.max_positions:
        raise InputError(
            f"with distill={recipe.distill:g} a text of {recipe.max_context_tokens} tokens is read in full, and the "
            f"decoder has {base.max_positions} positions; lower max_context_tokens"
        )
    if latents >= base.max_positions:
        raise InputError(
            f"a row of {longest} context tokens is {latents} latents at {press.policy.word()} {size.value}, and the "
            f"decoder has {base.max_positions} positions; lower max_context_tokens or long_document_tokens"
        )


def _teacher(
    recipe: Recipe, press: PressModel, base: Base, reader: Path | None, maker: ExampleMaker, out: Path
) -> Teacher:
    """What the press learns from beside the targets."""
    if reader is None:
        backbone, identity = Backbone(base.model), base.fingerprint
    else:
        backbone, identity = reader_of(press, base, reader)
    folder = Path(recipe.teacher_cache).expanduser() if recipe.teacher_cache else out / "teacher"
    prompt = repr((recipe.prompt, recipe.dtype)).encode()
    identity = hashlib.sha256(identity.encode() + prompt).hexdigest()
    return Teacher(backbone, identity=identity, prefix=maker.prefix, share=recipe.distill, folder=folder)


def with_dtype(recipe: Recipe, device: torch.device, out: Path) -> Recipe:
    """The recipe with the type of the run in a folder, where it says `auto`: a run keeps its type on other machines."""
    if recipe.dtype != "auto":
        return recipe
    then = recorded_dtype(out) or str(usual_dtype(device)).removeprefix("torch.")
    return dataclasses.replace(recipe, dtype=then)


def open_base(base: str | None, recipe: Recipe, device: torch.device) -> Base:
    """Loads the base model of a training, frozen, in the recipe's type."""
    name = base or DEFAULT_BASE
    dtype = resolve_dtype(None if recipe.dtype == "auto" else recipe.dtype, device)
    return load_base(base_folder(name), id=name, device=str(device), dtype=dtype)


def new_press(config: PressConfig, base: Base, recipe: Recipe, records: TrainingData) -> PressModel:
    """Makes the press that training starts from: random weights by the seed, salience by the data's frequencies."""
    set_seed(recipe.seed)
    press = PressModel(config, base)
    if press.residual is None and not press.compressor.asks_counts:
        return press
    counts = unigram_counts(records.train, base.model.config.vocab_size).to(base.model.device)
    if press.compressor.asks_counts:
        press.compressor.start_from_counts(counts, answer_rates(records.train, counts, base.tokenizer))
    if press.residual is not None:
        press.residual.start_from(counts, recipe.residual_sharpness)
    return press


def _run(trainer: PressTrainer, checkpoint: Path | None, console: Console) -> None:
    """Trains from a checkpoint, or from the start, unless all steps are done; leaves a press in any case."""
    trainer.remove_callback(PrinterCallback)
    if checkpoint is None or int(checkpoint.name.rpartition("-")[2]) < trainer.recipe.steps:
        progress = ShowProgress(console)
        trainer.add_callback(progress)
        if checkpoint is not None:
            trainer.load(checkpoint)
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            progress.close()
    elif trainer.export_is_behind():
        trainer.load(checkpoint)
        trainer.export({})
    if trainer.first_says(not (trainer.out / PRESS).exists()):  # stopped before the first evaluation
        trainer.export({})


def _summary(
    press: PressModel,
    base: Base,
    records: TrainingData,
    recipe: Recipe,
    checkpoint: Path | None,
    new_adapters: Sequence[str],
) -> str:
    """What is trained, on what, and from where."""
    count = sum(parameter.numel() for parameter in trained(press).values())
    whole = sum(parameter.numel() for parameter in base.model.parameters())
    tokens = sum(record.tokens for record in records.train)
    questions = sum(len(record.answers) for record in records.train)
    left_out = f", {records.left_out} left out" if records.left_out else ""
    held_out = f", {records.held_out} held out" if records.held_out else ""
    limits = f"{recipe.steps} of {recipe.tokens_per_step} context tokens"
    new = "".join(
        f"\nadapter: the press that this starts from has none of the {role}; a new one starts at zero"
        for role in new_adapters
    )
    return (
        f"press {recipe.press}: {count / 1e6:.2f} M parameters trained, "
        f"{100 * count / whole:.1f}% of the base's {whole / 1e6:.1f} M\n"
        f"data: {len(records.train)} records, {questions} questions, {tokens / 1e6:.2f} M context tokens"
        f"{left_out}{held_out}; {len(records.dev)} dev records\n"
        f"{_labels_summary(records)}"
        f"steps: {limits}, from {checkpoint.name if checkpoint else 'the start'}{new}"
    )


def _f1_summary(phase: Phase) -> str:
    """That questions are answered at another size than the recipe's, one line; nothing where they are not."""
    recipe = phase.recipe
    usual = RECIPES[recipe.recipe]()
    policies = recipe.ratio_policy(), usual.ratio_policy()
    same = recipe.f1_ratio == usual.f1_ratio and policies[0].kind is policies[1].kind
    if same or "f1_ratio" in phase.meant or not recipe.f1_questions:
        return ""
    return (
        f"\nF1: questions are answered at {policies[0].word()} {recipe.f1_ratio}, as the press has no "
        f"{policies[1].word()} {usual.f1_ratio}, the recipe's; f1_ratio= sets another"
    )


def _labels_summary(records: TrainingData) -> str:
    """Which labels of a file are used, one line; nothing without one."""
    if (use := records.labels) is None:
        return ""
    unknown = f"; {use.unknown} of its labels are of other texts and stay unused" if use.unknown else ""
    clamped = f"; {use.clamped} clamped" if use.clamped else ""
    return f"labels: {use.records} records have one{unknown}{clamped}\n"
