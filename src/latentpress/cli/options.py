"""Options that several verbs share, and the press that they choose."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from latentpress.cli.output import progress_console
from latentpress.errors import InputError

if TYPE_CHECKING:
    from latentpress.data.records import Record
    from latentpress.press import Press

DEFAULT_PRESS = "semidynamic-kv-smollm2-135m"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PressName = Annotated[
    str | None, typer.Option("--press", help=f"Name, folder or hub id; {DEFAULT_PRESS} if not given.")
]
Base = Annotated[str | None, typer.Option("--base", help="Where the press's base model lies, if not under its own id.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...; a GPU if there is one.")]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="bfloat16, float32 or float16; if not given, the faster of the first two here."),
]
Ratio = Annotated[
    float | None, typer.Option("--ratio", help="Tokens a latent, one of the press's; it chooses if not given.")
]
Length = Annotated[
    int | None, typer.Option("--length", help="Number of latents, one of the press's if it has lengths, not ratios.")
]
Scale = Annotated[
    float, typer.Option("--scale", help="Shift of the press's own choice: 1 is half the latents, -1 twice.")
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", help="Most tokens of an answer.")]
Lang = Annotated[
    str | None, typer.Option("--lang", metavar="CODE", help="Only passages whose `lang` this is, such as en.")
]


def check_size(ratio: float | None, length: int | None, scale: float) -> None:
    """Refuses what no press takes before any is loaded.

    Raises:
        InputError: one of them is infinite or not a number, or two were given.
    """
    if ratio is not None and length is not None:
        raise InputError(
            f"--ratio {ratio:g} and --length {length} contradict each other: "
            "a ratio is tokens a latent, a length a number of latents; give one"
        )
    for option, value in (("--ratio", ratio), ("--scale", scale)):
        if value is not None and not math.isfinite(value):
            raise InputError(f"{option} {value:g} is not a finite number; give one, or leave it out: the press chooses")
    given = f"--ratio {ratio:g}" if ratio is not None else f"--length {length}" if length is not None else ""
    if given and scale:
        raise InputError(
            f"{given} and --scale {scale:g} contradict each other: "
            "a scale shifts the ratio that the press chooses; give one"
        )


def open_press(
    name: str | None,
    *,
    base: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    answers: bool = True,
) -> "Press":
    """Loads a press, showing on a terminal that this takes a moment.

    Args:
        name: which, the default if None.
        base: see `load`.
        device: see `load`.
        dtype: see `load`.
        answers: whether its decoder will be asked: if not, it is not made fast for that unless it reads the text too.
    """
    with progress_console().status("loading the press"):
        from latentpress.lora import merge_lora
        from latentpress.press import load
        from latentpress.training.memory import keep_freed_memory

        keep_freed_memory()  # every pass frees and asks again for the same buffers
        press = load(name or DEFAULT_PRESS, base=base, device=device, dtype=dtype, merge=False)
        if answers or press.model.encoder is press.model.decoder:
            merge_lora(press.model.decoder.body)
        return press


def read_all(paths: Sequence[str]) -> "list[Record]":
    """Reads the records of files and hub ids, showing on a terminal that this takes a moment."""
    from latentpress.data.records import read_records

    with progress_console().status("reading the data"):
        return [record for path in paths for record in read_records(path)]


def of_language(records: "Sequence[Record]", lang: str, place: str) -> "list[Record]":
    """The records of a language.

    Raises:
        InputError: there is none; `place` says where.
    """
    found = [record for record in records if record.lang == lang]
    if not found:
        there = ", ".join(sorted({record.lang for record in records if record.lang})) or "none"
        raise InputError(f"{place}: no record has lang {lang!r} (there: {there}); give another --lang, or leave it out")
    return found
