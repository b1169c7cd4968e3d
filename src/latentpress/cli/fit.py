"""`latentpress label fit`: the selector's head of a press, fitted to labels."""

from pathlib import Path
from typing import Annotated

import typer

from latentpress.cli.options import DEFAULT_PRESS, Base, Device, Dtype, Json, PressName, open_press, read_all
from latentpress.cli.output import console, print_json, progress_console


def fit(
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="File of labels.")],
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="PATH", help="What was labelled; may be given several times."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the press that comes out.")],
    press: PressName = None,
    hold_out: Annotated[
        str | None,
        typer.Option("--hold-out", metavar="PATH", help="Leaves a fifth of its passages out, to judge on."),
    ] = None,
    clamp_labels: Annotated[
        bool, typer.Option("--clamp-labels", help="Brings labels outside the candidates' range to its end.")
    ] = False,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Fit the selector's head of a trained press to labels; nothing else of the press changes. Minutes, not hours."""
    from rich.progress import Progress

    from latentpress.data.labels import read_labels
    from latentpress.labels.fitting import fit_head

    known = read_labels(labels)
    records, held = read_all(data), read_all([hold_out] if hold_out else [])
    opened = open_press(press or DEFAULT_PRESS, base=base, device=device, dtype=dtype, answers=False)
    shown = progress_console()
    with Progress(console=shown, disable=not shown.is_terminal) as bar:
        task = bar.add_task("encoding", total=None)
        found, left_out = fit_head(
            opened,
            records,
            known,
            out,
            hold_out=held,
            clamp=clamp_labels,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json({"out": str(out), "source": known.source, "left_out": left_out, **found.told()})
        return
    clamped = f", {found.clamped:,} of them clamped" if found.clamped else ""
    console().print(
        f"head fitted to {found.texts:,} labels by {known.source}{clamped}, in {out}\n"
        f"on texts left out in turn: error {found.mae:.3f} in log2 of the ratio, correlation {found.pearson:.3f} "
        f"(always the mean label: error {found.mae_of_mean:.3f})",
        soft_wrap=True,
    )
    for reason, count in left_out.items():
        console().print(f"left out: {count:,} records {reason}", soft_wrap=True)
