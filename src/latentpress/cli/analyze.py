"""`latentpress analyze`: tables and pictures from what other verbs wrote, as in the semi-dynamic paper's figures."""

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from latentpress.cli.options import Base, Device, Dtype, Json, Lang, PressName, of_language, open_press
from latentpress.cli.output import console, print_json, progress_console
from latentpress.errors import InputError

if TYPE_CHECKING:
    from latentpress.analysis.comparison import Comparison


class By(StrEnum):
    """What groups are called by, of the presses that --presses names."""

    compressor = "compressor"
    policy = "policy"


Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder that `latentpress eval` wrote.")]
SeveralResults = Annotated[
    list[Path],
    typer.Argument(metavar="RESULTS...", help="Folders that `latentpress eval` wrote, of the same questions."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for table, numbers and pictures.")]
Groups = Annotated[
    str | None,
    typer.Option(
        "--groups",
        metavar="NAME=SYSTEM,...",
        help="What is compared, the first with all others; SYSTEM@fixed, @selector or @4/8 chooses sizes. A name that "
        "comes twice is the mean of its systems. Every press by itself if not given.",
    ),
]
Presses = Annotated[
    list[str] | None,
    typer.Option("--presses", metavar="PRESS", help="Press folders that name the groups, see --by; may be repeated."),
]
ComparedPress = Annotated[str, typer.Option("--press", metavar="NAME", help="The press, as the folder calls it.")]
AtScale = Annotated[float, typer.Option("--scale", help="Of the selector.")]
Scales = Annotated[
    str | None, typer.Option("--scales", metavar="N,N", help="Scales of the selector; -2 to 4 by 0.5 if not given.")
]

app = typer.Typer(help="Tables and pictures from what `latentpress eval` wrote, as in the paper's figures.")


@app.command()
def extraction(
    results: SeveralResults,
    out: Out,
    groups: Groups = None,
    presses: Presses = None,
    by: Annotated[By, typer.Option("--by", help="What --presses name groups by.")] = By.compressor,
    as_json: Json = False,
) -> None:
    """Compare ways to extract latents at equal ratios, with paired differences to the first."""
    from latentpress.analysis.curves import extraction as analyse

    _finish(lambda: analyse(_read(results), groups=groups, called=_called(presses, by)), out, as_json)


@app.command()
def policies(
    results: SeveralResults,
    out: Out,
    groups: Groups = None,
    presses: Presses = None,
    by: Annotated[By, typer.Option("--by", help="What --presses name groups by.")] = By.policy,
    as_json: Json = False,
) -> None:
    """Compare ratio policies over the ratio that they reach, with paired differences to the first."""
    from latentpress.analysis.curves import policies as analyse

    _finish(lambda: analyse(_read(results), groups=groups, called=_called(presses, by)), out, as_json)


@app.command()
def sweep(results: Results, press: ComparedPress, out: Out, scales: Scales = None, as_json: Json = False) -> None:
    """Hold a selector at many scales against fixed ratios of the same press."""
    from latentpress.analysis.curves import SCALES
    from latentpress.analysis.curves import sweep as analyse

    wanted = SCALES if scales is None else _numbers(scales)
    _finish(lambda: analyse(_read([results]), press, scales=wanted), out, as_json)


@app.command()
def lengths(
    results: Results,
    press: ComparedPress,
    out: Out,
    exponents: Annotated[
        str | None, typer.Option("--exponents", metavar="N,N", help="0.25, 0.5, 0.75 and 1 if not given.")
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option("--scales", metavar="N,N", help="Log2 ratios of short texts; 1 to 3 by 0.5 if not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell from a press's answers at fixed ratios what a selector by length alone would give."""
    from latentpress.analysis.lengths import EXPONENTS, SCALES
    from latentpress.analysis.lengths import lengths as analyse

    asked = EXPONENTS if exponents is None else _numbers(exponents, "--exponents", "0.5,1")
    wanted = SCALES if scales is None else _numbers(scales, example="1,2,3")
    _finish(lambda: analyse(_read([results]), press, exponents=asked, scales=wanted), out, as_json)


@app.command()
def variance(
    results: Results,
    press: ComparedPress,
    out: Out,
    scale: AtScale = 0.0,
    least: Annotated[int, typer.Option("--least", help="Questions below which a genre is left out.")] = 10,
    as_json: Json = False,
) -> None:
    """Gain over fixed ratios against the variance of the chosen ratios, by set and by genre."""
    from latentpress.analysis.variance import variance as analyse

    if least < 1:
        raise InputError(f"--least {least} is below 1; give a number of questions")
    _check_scale(scale)
    _finish(lambda: analyse(_read([results]), press, scale=scale, least=least), out, as_json)


@app.command()
def genres(results: Results, press: ComparedPress, out: Out, scale: AtScale = 0.0, as_json: Json = False) -> None:
    """Show which ratios a selector chose for texts of which genre."""
    from latentpress.analysis.genres import genres as analyse

    _check_scale(scale)
    _finish(lambda: analyse(_read([results]), press, scale=scale), out, as_json)


@app.command()
def rounding(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="head.jsonl of `latentpress analyze head`, or its folder.")
    ],
    out: Out,
    scale: AtScale = 0.0,
    results: Annotated[
        list[Path] | None, typer.Option("--results", help="Folder with a press of each rounding; may be repeated.")
    ] = None,
    linear: Annotated[str | None, typer.Option("--linear", metavar="NAME", help="Press in it that rounds so.")] = None,
    log: Annotated[str | None, typer.Option("--log", metavar="NAME", help="Press in it that rounds so.")] = None,
    as_json: Json = False,
) -> None:
    """Compare linear and log rounding of what a head predicts; and their scores, where a folder has both."""
    from latentpress.analysis.predictions import read_predictions
    from latentpress.analysis.rounding import rounding as analyse
    from latentpress.analysis.rounding import with_scores

    _check_scale(scale)
    given = {"--results": results, "--linear": linear, "--log": log}
    missing = [option for option, value in given.items() if not value]
    if missing and len(missing) < len(given):
        raise InputError(f"{' and '.join(missing)} missing; scores need --results, --linear and --log, or none of them")

    def content() -> dict[str, Any]:
        made = analyse(*read_predictions(predictions), scale=scale)
        return with_scores(made, _read(results), linear, log) if results and linear and log else made

    _finish(content, out, as_json)


@app.command()
def head(
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="FILE", help="Records, .jsonl or a hub id; may be given several times."),
    ],
    out: Out,
    press: PressName = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Density labels of `latentpress label`; short_summary if not given.")
    ] = None,
    lang: Lang = None,
    every: Annotated[bool, typer.Option("--all", help="Judge on all passages, not on those held back alone.")] = False,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Judge a selector's head on held-back passages, beside lines from length and from zlib's ratio.

    The only analysis that runs a model. Its predictions go into head.jsonl, which the same command goes on with.
    """
    from latentpress.analysis.report import check_out
    from latentpress.data.records import read_records

    check_out(out)
    records = [record for file in data for record in read_records(file)]
    place = ", ".join(data)
    if lang is not None:
        records, place = of_language(records, lang, place), f"{place} (lang {lang})"
    from latentpress.analysis.head import judge, split
    from latentpress.analysis.predictions import check_head, predict
    from latentpress.data.labels import read_labels

    found = None if labels is None else read_labels(labels)
    opened = open_press(press, base=base, device=device, dtype=dtype)
    check_head(opened)
    cut = split(records, opened.base.tokenizer, labels=found, every=every, place=place)
    out.mkdir(parents=True, exist_ok=True)
    passages = [one.passage for one in cut.judged]
    with progress_console().status("reading passages") as status:

        def tell(done: int) -> None:
            status.update(f"reading passages: {done:,} of {len(passages):,}")

        predicted = predict(opened, passages, out, progress=tell)
    _finish(lambda: judge(cut, predicted, press=opened.config.name, place=place), out, as_json)


def _read(results: list[Path]) -> "Comparison":
    from latentpress.analysis.comparison import read

    return read(results)


def _called(presses: list[str] | None, by: By) -> Mapping[str, str] | None:
    """What presses are called by their compressor or policy, by fingerprint; None without --presses."""
    if not presses:
        return None
    from latentpress.analysis.groups import press_words

    return press_words(presses, by.value)


def _numbers(text: str, option: str = "--scales", example: str = "-2,-1,0,1,2") -> list[float]:
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise InputError(f"{option} {text!r} are no numbers; give for example {example}")
    return sorted(set(found))


def _check_scale(scale: float) -> None:
    if not math.isfinite(scale):
        raise InputError(f"--scale {scale:g} is not a finite number; -2 to 4 is usual")


def _finish(analyse: Callable[[], dict[str, Any]], out: Path, as_json: bool) -> None:
    """Computes an analysis, writes its files and shows its first table."""
    from latentpress.analysis.report import check_out, notes, read, tables, write

    check_out(out)
    with progress_console().status("computing"):
        files = write(analyse(), out)
    with progress_console().status("drawing"):
        from latentpress.plots.analyses import draw

        files += draw(files[0])
    content = read(files[0])
    if as_json:
        print_json({**content, "files": [str(file) for file in files]})
        return
    first = tables(content)[0]
    if first.title:
        console().print(first.title, soft_wrap=True)
    shown = Table(box=None, pad_edge=False, padding=(0, 1))
    for word in first.header:
        shown.add_column(word, overflow="fold")
    for row in first.rows:
        shown.add_row(*row)
    console().print(shown)
    for note in notes(content):
        console().print(note, style="dim", soft_wrap=True)
    console().print(f"tables: {files[1]}, picture: {files[2]}", soft_wrap=True)
