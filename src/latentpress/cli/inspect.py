"""`latentpress inspect`: a page with pictures of what a press did with a text."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentpress.cli.documents import STDIN, is_latents_file, read_text
from latentpress.cli.options import (
    Base,
    Device,
    Dtype,
    Json,
    Length,
    PressName,
    Ratio,
    Scale,
    check_size,
    open_press,
)
from latentpress.cli.output import console, print_json, progress_console
from latentpress.errors import InputError

if TYPE_CHECKING:
    from latentpress.inspection import Inspection

PAGE = "index.html"
_OWN = ("layers.png", "layer-means.png", "plan.png", PAGE)
_MARK = b"latentpress inspect"  # stands near the start of each of them
_MARK_WITHIN = 512
_LISTED = 10  # tokens of the most and of the least capacity in JSON

File = Annotated[str, typer.Argument(metavar="FILE", help="A text, or - for stdin.")]
Out = Annotated[Path, typer.Option("-o", "--out", help=f"Folder for {PAGE} and its pictures; other files in it stay.")]
Segment = Annotated[
    int | None, typer.Option("--segment", metavar="N", help="Segment whose plan is drawn, from 1; the first.")
]


def inspect(
    file: File,
    out: Out,
    press: PressName = None,
    ratio: Ratio = None,
    length: Length = None,
    scale: Scale = 0.0,
    segment: Segment = None,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Show what a press does with a text, as a page for people.

    The text coloured by the latent that carries it and the ratio of each window; and, for presses that have them, what
    was kept and let go, which layers were read, and which token went into which slot.
    """
    check_size(ratio, length, scale)
    if segment is not None and segment < 1:
        raise InputError(f"--segment {segment} does not exist; the first is 1")
    if is_latents_file(file):
        raise InputError(f"{file}: is a latents file, which does not hold the text; give the text")
    check_out(out)
    text = read_text(file)
    opened = open_press(press, base=base, device=device, dtype=dtype, answers=False)
    from latentpress.inspection import inspect as look
    from latentpress.plots.page import left_out, page
    from latentpress.plots.pictures import draw

    with progress_console().status("compressing and looking"):
        shown = look(opened, text, ratio=ratio, length=length, scale=scale, segment=segment)
    name = "stdin" if file == STDIN else Path(file).name
    with progress_console().status("drawing"):
        pictures = draw(shown)
        html = page(shown, name, pictures)
    write(out, {**pictures, PAGE: html.encode()})
    report = _report(shown, file, out, list(pictures), left_out(shown))
    if as_json:
        print_json(report)
    else:
        _print(report)


def check_out(out: Path) -> None:
    """Refuses a target that cannot be written before anything is loaded.

    Raises:
        InputError: OUT is a file, or a file that is not ours stands where one of ours shall go.
    """
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"{place}: is a file; give a folder for the page and its pictures")
    for name in _OWN:
        file = out / name
        if os.path.lexists(file) and not is_ours(file):
            raise InputError(
                f"{file}: is there and was not made by latentpress inspect, so it stays; give another -o, or remove it"
            )


def is_ours(file: Path) -> bool:
    """Tells by the first bytes whether a file is empty or was made by this verb."""
    try:
        with file.open("rb") as opened:
            start = opened.read(_MARK_WITHIN)
    except OSError:
        return False
    return not start or _MARK in start


def write(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes files under other names and renames them when all are there; own ones that are not among them go.

    Raises:
        OSError: the folder cannot be written; what was there is as it was.
    """
    out.mkdir(parents=True, exist_ok=True)
    building = {out / f".{name}.new": out / name for name in files}
    try:
        for path, target in building.items():
            path.write_bytes(files[target.name])
        for path, target in building.items():
            os.replace(path, target)
    finally:
        for path in building:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    for name in _OWN:
        if name not in files and is_ours(out / name):
            (out / name).unlink()


def _report(shown: "Inspection", file: str, out: Path, pictures: list[str], missing: list[str]) -> dict[str, Any]:
    plan, latents = shown.plan, len(shown.spans)
    return {
        "press": {"name": shown.press, "fingerprint": shown.fingerprint},
        "file": file,
        "tokens": shown.tokens,
        "latents": latents,
        "ratio": shown.tokens / latents,
        "windows": [dataclasses.asdict(window) for window in shown.windows],
        "capacity": _extremes(shown),
        "layers": None if shown.layers is None else [float(mean) for mean in shown.layers.mean(1)],
        "segments": shown.segments,
        "segment": None
        if plan is None
        else {
            "number": plan.number,
            "start": plan.start,
            "tokens": plan.end - plan.start,
            "latents": plan.plan.shape[1],
            "own": plan.own,
        },
        "left_out": missing,
        "page": str(out / PAGE),
        "pictures": [str(out / name) for name in pictures],
    }


def _extremes(shown: "Inspection") -> dict[str, Any] | None:
    """Tokens with the most and with the least capacity."""
    if shown.capacity is None:
        return None
    by_piece = shown.by_piece(shown.capacity)
    order = by_piece.argsort(kind="stable").tolist()

    def rows(chosen: list[int]) -> list[dict[str, Any]]:
        pieces = [(shown.pieces[i], float(by_piece[i])) for i in chosen]
        return [{"token": piece.start, "text": piece.text, "capacity": value} for piece, value in pieces]

    return {"most": rows(order[: -_LISTED - 1 : -1]), "least": rows(order[:_LISTED])}


def _print(report: dict[str, Any]) -> None:
    out = console()
    windows = len(report["windows"])
    out.print(
        f"{report['press']['name']}: {report['tokens']:,} tokens in {report['latents']:,} latents, "
        f"{report['ratio']:.1f}x, {windows:,} window{'s' if windows > 1 else ''}",
        soft_wrap=True,
    )
    for line in report["left_out"]:
        out.print(f"left out: {line}", style="dim", soft_wrap=True)
    out.print(f"page: {report['page']}", soft_wrap=True)
