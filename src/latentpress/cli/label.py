"""`latentpress label`: density labels from summaries, surprisals or a press, and how they go together."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from latentpress.cli.fit import fit
from latentpress.cli.options import (
    DEFAULT_PRESS,
    Base,
    Device,
    Dtype,
    Json,
    Lang,
    PressName,
    of_language,
    open_press,
    read_all,
)
from latentpress.cli.output import console, print_json, progress_console
from latentpress.errors import InputError

if TYPE_CHECKING:
    from latentpress.backbone import Base as LoadedBase
    from latentpress.data.records import Record
    from latentpress.labels.base import LabelSource
    from latentpress.labels.comparison import Compared
    from latentpress.labels.making import Outcome, Progress

_SECONDS_BETWEEN_LINES = 30.0  # of progress, where no bar can be drawn

Data = Annotated[
    list[str],
    typer.Option(
        "--data", metavar="PATH", help="JSON lines (plain, .xz, .gz) or a hub id; may be given several times."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="File of the labels; the same command goes on with it.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Labels the first so many texts that can be labelled.")]
BaseName = Annotated[
    str | None,
    typer.Option("--base", metavar="ID", help="Base model: name, folder or hub id; the default one if not given."),
]
Tolerance = Annotated[
    float, typer.Option("--tolerance", help="Most nats a token by which answers may lose against the lowest ratio.")
]
Statistic = Annotated[
    str,
    typer.Option(
        "--statistic", help="What is counted: bits a `token`, bits a `character`, share of `surprising` tokens."
    ),
]
WindowTokens = Annotated[
    int, typer.Option("--window-tokens", help="Most tokens that are read at once; longer texts are cut.")
]
Calibrate = Annotated[
    Path | None,
    typer.Option("--calibrate", metavar="LABELS", help="Labels whose mean and spread theirs shall have."),
]

app = typer.Typer(no_args_is_help=True, help="Label how hard texts may be compressed, for a selector to learn.")
app.command()(fit)


@app.command()
def summary(data: Data, out: Out, limit: Limit = None, base: BaseName = None, as_json: Json = False) -> None:
    """From ultra-concise summaries in the data (`short_summary`): log2 of text tokens over summary tokens. No model."""
    _check(out, limit)
    from latentpress.backbone import load_tokenizer
    from latentpress.base_model import DEFAULT_BASE, base_folder
    from latentpress.labels.summary import SummaryLabels

    records = read_all(data)
    name = base or DEFAULT_BASE
    _label(SummaryLabels(load_tokenizer(base_folder(name), id=name)), records, out, limit, as_json)


@app.command()
def surprisal(
    data: Data,
    out: Out,
    limit: Limit = None,
    statistic: Statistic = "token",
    calibrate: Calibrate = None,
    window_tokens: WindowTokens = 512,
    base: BaseName = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """From the base model's own surprisals: what it foresees needs few latents. No teacher, and any text will do."""
    _check(out, limit)
    from latentpress.data.labels import read_labels
    from latentpress.labels.surprisal import SurprisalLabels

    like = None if calibrate is None else read_labels(calibrate)
    records = read_all(data)
    loaded = _open_base(base, device, dtype)
    source = SurprisalLabels(loaded, statistic=statistic, window_tokens=window_tokens, like=like)
    _label(source, records, out, limit, as_json)


@app.command()
def fidelity(
    data: Data,
    out: Out,
    limit: Limit = None,
    press: PressName = None,
    tolerance: Tolerance = 0.2,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """From a press: the largest ratio at which answers keep their loss. No teacher but the questions in the data."""
    _check(out, limit)
    if not 0 <= tolerance < math.inf:
        raise InputError(f"--tolerance {tolerance:g} must be a finite number of nats a token, 0 or more; 0.2 is usual")
    from latentpress.labels.fidelity import FidelityLabels

    records = read_all(data)
    opened = open_press(press or DEFAULT_PRESS, base=base, device=device, dtype=dtype)
    _label(FidelityLabels(opened, tolerance=tolerance), records, out, limit, as_json)


@app.command()
def compare(
    labels: Annotated[list[Path], typer.Argument(metavar="LABELS...", help="Files of labels.")],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="PATH", help="What was labelled: adds how well zlib's ratio does."),
    ] = None,
    lang: Lang = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Correlations of labels with each other and with the length of the texts, and means and spreads by genre."""
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed} is out of range; give a number from 0 to {2**32 - 1}")
    if lang is not None and not data:
        raise InputError(
            f"--lang {lang} needs --data: labels do not say of which language their texts are; give the data that was "
            "labelled"
        )
    from latentpress.data.labels import read_labels
    from latentpress.labels.comparison import compare as compare_labels
    from latentpress.labels.comparison import of_texts

    files = [read_labels(path) for path in labels]
    records = read_all(data or [])
    if lang is not None:
        records = of_language(records, lang, ", ".join(data or []))
        files = [of_texts(file, records, f"lang {lang!r}") for file in files]
    found = compare_labels(files, records, seed=seed)
    if as_json:
        print_json(_plain(dataclasses.asdict(found)))
    else:
        _print_comparison(found)


def _check(out: Path, limit: int | None) -> None:
    """Refuses what cannot work before anything is read."""
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} is below 1; give a positive number, or leave it out")
    if out.suffix in (".xz", ".gz"):
        raise InputError(f"--out {out} names a compressed file, and labels are written plain; leave {out.suffix} off")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give a file for the labels")


def _open_base(base: str | None, device: str | None, dtype: str | None) -> "LoadedBase":
    with progress_console().status("loading the base model"):
        from latentpress.backbone import load_base
        from latentpress.base_model import DEFAULT_BASE, base_folder
        from latentpress.loading import resolve_device, resolve_dtype
        from latentpress.training.memory import keep_freed_memory

        keep_freed_memory()
        name = base or DEFAULT_BASE
        place = resolve_device(device)
        return load_base(base_folder(name), id=name, device=place, dtype=resolve_dtype(dtype, place))


def _label(source: "LabelSource", records: "Sequence[Record]", out: Path, limit: int | None, as_json: bool) -> None:
    from latentpress.labels.making import make_labels

    started = time.perf_counter()
    with _progress(source.name) as show:
        outcome = make_labels(source, records, out, limit=limit, progress=show)
    report = _report(source.name, out, outcome, time.perf_counter() - started)
    if as_json:
        print_json(report)
        return
    made = f"{report['labels']:,} labels by {source.name}, mean log2 ratio {report['mean']:.2f}, "
    made += f"deviation {report['deviation']:.2f}, in {out}"
    pace = f"; {report['texts_per_second']:.2f} texts a second" if outcome.measured else ""
    there = f"; {outcome.kept:,} were there" if outcome.kept else ""
    console().print(f"{made}{there}{pace}", soft_wrap=True)
    if outcome.beyond:
        console().print(
            f"that is {outcome.beyond:,} more than --limit and the data ask for: the file stays as it is, and these "
            f"are the numbers of all its labels; give another --out for fewer",
            soft_wrap=True,
        )
    for key, value in outcome.found.items():
        console().print(f"{key}: {value:.4g}", soft_wrap=True)
    for reason, count in outcome.left_out.items():
        console().print(f"left out: {count:,} records {reason}", soft_wrap=True)


def _report(source: str, out: Path, outcome: "Outcome", seconds: float) -> dict[str, Any]:
    import statistics

    values = [label.log2_ratio for label in outcome.labels]
    return {
        "source": source,
        "out": str(out),
        "labels": len(values),
        "measured": outcome.measured,
        "kept": outcome.kept,
        "beyond": outcome.beyond,
        "mean": statistics.fmean(values),
        "deviation": statistics.pstdev(values),
        "found": outcome.found,
        "left_out": outcome.left_out,
        "seconds": seconds,
        "texts_per_second": outcome.measured / seconds,
        "tokens_per_second": outcome.measured_tokens / seconds,
    }


@contextmanager
def _progress(name: str) -> "Iterator[Callable[[Progress], None]]":
    """A bar on a terminal, a line now and then otherwise; both go by tokens."""
    from rich import progress as bars

    out = progress_console()
    told = (bars.TextColumn("{task.description}"), bars.TextColumn("{task.fields[texts]}"))
    columns = (told[0], bars.BarColumn(), told[1], bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=out, disable=not out.is_terminal, speed_estimate_period=600) as bar:
        task = bar.add_task(f"labelling by {name}", total=None, texts="")
        started, first, last = time.monotonic(), None, -math.inf

        def show(now: "Progress") -> None:
            nonlocal first, last
            first = now.tokens if first is None else first
            done = f"{now.texts:,} of {now.of_texts:,} texts"
            bar.update(task, completed=now.tokens, total=now.of_tokens, texts=done)
            elapsed = time.monotonic() - started
            if not out.is_terminal and elapsed - last >= _SECONDS_BETWEEN_LINES:
                left = elapsed * (now.of_tokens - now.tokens) / (now.tokens - first) if now.tokens > first else None
                time_left = f", about {left / 60:.1f} minutes left" if left else ""
                out.print(f"labelling by {name}: {done} are measured{time_left}", soft_wrap=True)
                last = elapsed

        try:
            yield show
        except KeyboardInterrupt:
            out.print("what is measured is kept; the same command goes on")
            raise


def _print_comparison(found: "Compared") -> None:
    pairs = Table("labels", "and", "texts", "Pearson", "Spearman", box=None, pad_edge=False, padding=(0, 2))
    for pair in found.pairs:
        pairs.add_row(pair.first, pair.second, f"{pair.texts:,}", _shown(pair.pearson), _shown(pair.spearman))
    console().print(pairs)
    console().print("with 95% bootstrap intervals over texts\n")
    genres = dict.fromkeys(genre for own in found.spreads.values() for genre in own)
    spreads = Table("log2 ratio, mean ± deviation", *found.spreads, box=None, pad_edge=False, padding=(0, 2))
    for genre in genres:
        cells = (own.get(genre) for own in found.spreads.values())
        spreads.add_row(genre, *(f"{c.mean:.2f} ± {c.deviation:.2f} ({c.texts:,})" if c else "" for c in cells))
    console().print(spreads)


def _shown(one: "Mapping[str, float]") -> str:
    if math.isnan(one["mean"]):
        return "not defined"
    interval = "" if math.isnan(one["low"]) else f" ({one['low']:.2f} to {one['high']:.2f})"
    return f"{one['mean']:.2f}{interval}"


def _plain(value: Any) -> Any:
    """Plain data for JSON: what is no number is null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
