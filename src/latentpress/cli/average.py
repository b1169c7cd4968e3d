"""`latentpress average`: the mean of several presses."""

from pathlib import Path
from typing import Annotated

import typer

from latentpress.cli.options import Base, Json
from latentpress.cli.output import console, print_json


def average(
    presses: Annotated[list[str], typer.Argument(metavar="PRESS...", help="Two presses or more: names or folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the press that comes out.")],
    base: Base = None,
    as_json: Json = False,
) -> None:
    """Average the weights of presses that were trained from the same press, with other seeds or data."""
    from latentpress.loading import press_folder
    from latentpress.training.averaging import average as mean

    mean([press_folder(press) for press in presses], out, base=base)
    if as_json:
        print_json({"out": str(out), "presses": presses})
        return
    console().print(f"the mean of {len(presses)} presses is in {out}", soft_wrap=True)
