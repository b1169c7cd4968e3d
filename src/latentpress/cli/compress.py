"""`latentpress compress`: a file, a folder of files, or the rows of a JSON-lines file to latents files."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from latentpress.cli.documents import is_jsonl_file, is_latents_file, read_documents, read_text
from latentpress.cli.jobs import Job, Target, batches, check_target, run_batch
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
from latentpress.cli.run import FAILED, USAGE_ERROR

if TYPE_CHECKING:
    from latentpress.press import Press

_MOST_ROWS = 40

Source = Annotated[
    str,
    typer.Argument(
        metavar="FILE|DIR|JSONL",
        help="Text file, folder (links to folders are not followed), or .jsonl(.xz|.gz) of {id?, text|context}.",
    ),
]
Out = Annotated[
    Path, typer.Option("-o", "--out", help="Folder for the latents files; for one FILE also the file itself.")
]


def compress(
    source: Source,
    out: Out,
    press: PressName = None,
    ratio: Ratio = None,
    length: Length = None,
    scale: Scale = 0.0,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Compress documents into latents files, one a document; run again to go on where it stopped.

    A document whose latents are there, made of the same text by the same press and settings, is skipped.
    One that fails is named and the others go on.
    The exit code is then 2 if nothing but bad input failed, else 1.
    """
    check_size(ratio, length, scale)
    path = Path(source)
    check_target(path, out)
    if path.is_file() and not is_jsonl_file(source) and not is_latents_file(source):
        read_text(source)  # one document: what is wrong with it is an error before anything is loaded
    next(read_documents(path, out))
    started = time.perf_counter()
    opened = open_press(press, base=base, device=device, dtype=dtype, answers=False)
    from latentpress.arguments import requested_size

    requested_size(opened.model.policy, ratio, scale, length)  # refuses what it was not trained for, before any reading
    target = Target(
        out=out,
        press_fingerprint=opened.fingerprint,
        ratio=ratio,
        length=length,
        scale=scale,
        exact=dtype is not None,
    )
    with progress_console().status("reading the documents"):
        jobs = target.plan(read_documents(path, out), opened)
    try:
        _run(opened, path, target, jobs)
    except KeyboardInterrupt:
        done = sum(job.status in ("compressed", "skipped") for job in jobs)
        progress_console().print(
            f"{done} of {len(jobs)} documents are done and kept; the same command goes on with the others"
        )
        raise
    report = _report(opened, jobs, time.perf_counter() - started)
    if as_json:
        print_json(report)
    else:
        _print(report)
    failed = [job for job in jobs if job.status == "failed"]
    if failed:
        raise typer.Exit(USAGE_ERROR if all(job.bad_input for job in failed) else FAILED)


def _run(press: "Press", source: Path, target: Target, jobs: list[Job]) -> None:
    """Compresses what waits, showing progress by tokens."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    target.out.parent.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} tokens"),
        TimeRemainingColumn(),
    )
    waiting = sum(job.tokens for job in jobs if job.status == "waiting")
    out = progress_console()
    with Progress(*columns, console=out, disable=not waiting or not out.is_terminal) as progress:
        task = progress.add_task("compressing", total=waiting)
        before = 0
        for batch in batches(read_documents(source, target.out), jobs):
            tokens = sum(job.tokens for job, _ in batch)

            def show(done: int, total: int, before: int = before, tokens: int = tokens) -> None:
                progress.update(task, completed=before + tokens * done / total)

            run_batch(press, batch, target, show)
            before += tokens
            progress.update(task, completed=before)
    for job in jobs:
        if job.status == "waiting":
            job.fail(f"{job.name}: was there when the documents were counted and is gone; run again", bad_input=False)


def _report(press: "Press", jobs: list[Job], seconds: float) -> dict[str, Any]:
    done = [job for job in jobs if job.status in ("compressed", "skipped")]
    tokens, latents = sum(job.tokens for job in done), sum(job.latents for job in done)
    return {
        "press": {"name": press.config.name, "fingerprint": press.fingerprint},
        "documents": [job.to_dict() for job in jobs],
        "total": {
            **{status: sum(job.status == status for job in jobs) for status in ("compressed", "skipped", "failed")},
            "tokens": tokens,
            "latents": latents,
            "ratio": tokens / latents if latents else None,
            "seconds": seconds,
        },
    }


def _print(report: dict[str, Any]) -> None:
    documents, total = report["documents"], report["total"]
    table = Table("document", "status", box=None, pad_edge=False)
    for heading in ("tokens", "latents", "ratio"):
        table.add_column(heading, justify="right")
    table.columns[0].overflow = "fold"
    failed = [row for row in documents if row["status"] == "failed"]
    shown = documents if len(documents) <= _MOST_ROWS else failed[:_MOST_ROWS]
    for row in shown:
        numbers = (
            (f"{row['tokens']:,}", f"{row['latents']:,}", f"{row['ratio']:.1f}x") if row["ratio"] else ("", "", "")
        )
        table.add_row(row["document"], row["status"], *numbers)
    if len(shown) < len(documents):
        table.add_row(f"and {len(documents) - len(shown):,} more", "")
    ratio = f"{total['ratio']:.1f}x" if total["ratio"] else ""
    table.add_row("total", "", f"{total['tokens']:,}", f"{total['latents']:,}", ratio, style="bold")
    console().print(table)
    parts = [f"{total[status]:,} {status}" for status in ("compressed", "skipped", "failed") if total[status]]
    console().print(f"{', '.join(parts)} in {total['seconds']:.1f} s")
    for row in failed:
        progress_console().print(f"failed: {row['error']}", soft_wrap=True)
