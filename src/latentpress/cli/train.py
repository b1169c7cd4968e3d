"""`latentpress train`: train a press by a recipe, or go on with a training."""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from latentpress.cli.options import Json
from latentpress.cli.output import console, print_json
from latentpress.errors import InputError

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name of the recipe, or of several that follow each other in phases; `latentpress info` lists them.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME=VALUE",
        help="Settings of the recipe to change. Of several phases NAME=VALUE changes all, PHASE.NAME=VALUE one "
        "(ntp.steps=1000); PHASE.data=PATH and PHASE.dev=PATH are files of its own instead of --data and --dev.",
        show_default=False,
    ),
]
Data = Annotated[
    list[str],
    typer.Option(
        "--data", metavar="PATH", help="JSON lines (plain, .xz, .gz) or a hub id; may be given several times."
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Folder of the run, of several phases one in it each: checkpoints, log, best press."
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes", help="Stop with a full checkpoint after so long, all phases together; the same command goes on."
    ),
]
Dev = Annotated[str | None, typer.Option("--dev", metavar="PATH", help="Records to evaluate on as the training goes.")]
BaseModel = Annotated[str | None, typer.Option("--base", metavar="ID", help="Base model: name, folder or hub id.")]
FromPress = Annotated[
    str | None,
    typer.Option("--from-press", metavar="PRESS", help="Start (the first phase) from the weights of a press."),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels", metavar="LABELS", help="Density labels of `latentpress label`, in place of those of the summaries."
    ),
]
HoldOut = Annotated[
    str | None,
    typer.Option(
        "--hold-out", metavar="DATA", help="Passages a fifth of which, by id, is kept out of the data, to judge on."
    ),
]
NoResume = Annotated[
    bool, typer.Option("--no-resume", help="Do not go on with a run in the out folder: refuse one that holds a run.")
]


def train(
    recipe: Recipe,
    data: Data,
    out: Out,
    overrides: Overrides = None,
    minutes: Minutes = None,
    dev: Dev = None,
    base: BaseModel = None,
    from_press: FromPress = None,
    labels: Labels = None,
    hold_out: HoldOut = None,
    no_resume: NoResume = False,
    as_json: Json = False,
) -> None:
    """Train a press. Stop it whenever you like: the same command goes on from the last checkpoint."""
    for override in overrides or []:
        if "=" not in override.lstrip("="):
            raise InputError(
                f"override {override!r} is not a setting with its value; write name=value, for example steps=1000"
            )
    if minutes is not None and not minutes > 0:
        raise InputError(f"--minutes {minutes:g} must be more than 0; leave it out to train to the last step")
    if out.is_file():
        raise InputError(f"{out}: is a file; give a folder for the run")
    from latentpress.loading import press_folder
    from latentpress.training.run import train as run_training

    started = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        press = run_training(
            recipe,
            data=data,
            out=out,
            minutes=minutes,
            dev=dev,
            base=base,
            overrides=list(overrides or []),
            resume=not no_resume,
            from_press=None if from_press is None else str(press_folder(from_press)),
            labels=labels,
            hold_out=hold_out,
        )
    seconds = time.perf_counter() - started
    if os.environ.get("RANK", "0") != "0":  # the first of several processes speaks for all
        return
    if as_json:
        print_json({"recipe": recipe, "out": str(out), "press": str(press), "seconds": seconds})
    else:
        console().print(
            f"press in {press}, after {seconds / 60:.1f} minutes; "
            f"try: latentpress ask FILE -q QUESTION --press {press}",
            soft_wrap=True,
        )
