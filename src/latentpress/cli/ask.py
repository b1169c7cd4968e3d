"""`latentpress ask`: compress documents, or open their latents, and answer questions from them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from latentpress.cli.documents import STDIN, is_latents_file, read_text
from latentpress.cli.options import (
    Base,
    Device,
    Dtype,
    Json,
    Length,
    MaxNewTokens,
    PressName,
    Ratio,
    Scale,
    check_size,
    open_press,
)
from latentpress.cli.output import console, print_json, progress_console
from latentpress.errors import ContextTooLongError, InputError

if TYPE_CHECKING:
    from latentpress.latents import Latents
    from latentpress.press import Press, Session

# From more windows than this a small decoder answers badly (docs/experiments.md).
_MANY_WINDOWS = 4
_HINT = "a long document: --focus 2 reads the two windows that a question is about, which is better for single facts"
_SHOWN = 60  # characters of a question in a message

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE", help="Texts, latents files, or - for stdin; several are read as several documents."),
]
Questions = Annotated[
    list[str], typer.Option("-q", "--question", metavar="Q", help="Question; may be given several times.")
]
Focus = Annotated[
    int | None,
    typer.Option(
        "--focus", metavar="N", help="Read only the N windows that a question is about; 2 for facts in long documents."
    ),
]
Compare = Annotated[bool, typer.Option("--compare", help="Also let the base model answer from the full text.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class _FullText:
    """The other side of a comparison: the text itself, read once by the base model."""

    tokens: int
    """Tokens of the text."""
    seconds: float | None
    """Time in which it was read; None if it was not."""
    session: "Session | None"
    """What answers from it, if it was read."""
    error: str | None
    """Why it was not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """Latents that were read for a question."""

    session: "Session"
    """What answers from them."""
    seconds: float = 0.0
    """Time that this question alone took before: to look for its windows, and to read them."""
    windows: list[dict[str, Any]] | None = None
    """File and tokens of every window read; None if all were, once for all questions."""


def ask(
    files: Files,
    questions: Questions,
    press: PressName = None,
    ratio: Ratio = None,
    length: Length = None,
    scale: Scale = 0.0,
    focus: Focus = None,
    max_new_tokens: MaxNewTokens = 64,
    compare: Compare = False,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Answer questions about documents from their latents.

    The documents are compressed and read once, whatever the number of questions; with --focus they are looked through
    for each question, and the windows that it is about are read.
    """
    check_size(ratio, length, scale)
    sized = ratio is not None or length is not None or scale != 0
    _check(files, questions, sized=sized, focus=focus, max_new_tokens=max_new_tokens, compare=compare)
    sources = [_read(name) for name in files]  # before the press is loaded: mistakes show at once
    opened = open_press(press, base=base, device=device, dtype=dtype)
    latents, seconds = _compress(opened, sources, ratio=ratio, length=length, scale=scale)
    result: dict[str, Any] = {
        "press": {"name": opened.config.name, "fingerprint": opened.fingerprint},
        "documents": [_describe(name, one) for name, one in zip(files, latents, strict=True)],
        **_total(latents),
        "seconds": {"compress": seconds},
    }
    if not as_json:
        _print_documents(result, hint=focus is None)
    started = time.perf_counter()
    readings = _read_latents(opened, files, latents, questions, focus)
    result["seconds"]["read"] = time.perf_counter() - started
    _check_questions(readings, questions, max_new_tokens)
    full = _read_full_text(opened, [source for source in sources if isinstance(source, str)]) if compare else None
    if full is not None:
        result["full_text"] = {"tokens": full.tokens, "seconds": {"read": full.seconds}}
        if not as_json:
            _print_reading(result)
    result["answers"] = []
    for reading, question in zip(readings, questions, strict=True):
        answer = {"question": question, **_answer(reading.session, question, max_new_tokens)}
        if reading.windows is not None:
            answer["seconds"] += reading.seconds
            answer["read"] = reading.windows
        if full is not None:
            answer["full_text"] = _full_text_answer(full, question, max_new_tokens)
        result["answers"].append(answer)
        if not as_json:
            _print_answer(answer)
    if as_json:
        print_json(result)


def _check(
    files: list[str], questions: list[str], *, sized: bool, focus: int | None, max_new_tokens: int, compare: bool
) -> None:
    if focus is not None and focus < 1:
        raise InputError(f"--focus {focus} must be at least 1, a number of windows; leave it out to read all")
    if max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {max_new_tokens} must be at least 1")
    if not all(question.strip() for question in questions):
        raise InputError("a question is empty; write it behind -q, in quotes")
    if files.count(STDIN) > 1:
        raise InputError("- (stdin) is given twice and can be read once; give it once")
    ready = [name for name in files if is_latents_file(name)]
    if ready and sized:
        raise InputError(
            f"{ready[0]}: is compressed already, so --ratio, --length and --scale cannot change it; "
            "leave them out, or give the text"
        )
    if ready and compare:
        raise InputError(f"{ready[0]}: a latents file does not hold the text that --compare needs; give the text")


def _read(name: str) -> "str | Latents":
    if not is_latents_file(name):
        return read_text(name)
    from latentpress.latents import Latents

    return Latents.load(name)


def _compress(
    press: "Press",
    sources: Sequence["str | Latents"],
    *,
    ratio: float | None,
    length: int | None,
    scale: float,
) -> tuple[list["Latents"], float]:
    """Latents of every source, in order, and the seconds that compressing took."""
    texts = [source for source in sources if isinstance(source, str)]
    started = time.perf_counter()
    with progress_console().status("compressing"):
        made = iter(press.compress(texts, ratio=ratio, length=length, scale=scale) if texts else [])
    seconds = time.perf_counter() - started if texts else 0.0
    return [next(made) if isinstance(source, str) else source for source in sources], seconds


def _describe(name: str, latents: "Latents") -> dict[str, Any]:
    return {
        "file": name,
        "tokens": latents.context_tokens,
        "latents": len(latents),
        "ratio": latents.ratio,
        "requested_ratio": latents.requested_ratio,
        "requested_length": latents.requested_length,
        "scale": latents.scale,
        "windows": len(latents.windows),
    }


def _total(latents: Sequence["Latents"]) -> dict[str, Any]:
    from latentpress.latents import total_ratio

    return {
        "tokens": sum(one.context_tokens for one in latents),
        "latents": sum(len(one) for one in latents),
        "ratio": total_ratio(latents),
    }


def _read_windows(
    files: Sequence[str], documents: Sequence["Latents"], chosen: Sequence["Latents"]
) -> list[dict[str, Any]]:
    """File and tokens of every window that was read for a question."""
    names = {one.text_sha256: name for name, one in reversed(list(zip(files, documents, strict=True)))}
    return [
        {"file": names[one.text_sha256], "start": window.start, "tokens": window.tokens}
        for one in chosen
        for window in one.windows
    ]


def _read_latents(
    press: "Press",
    files: Sequence[str],
    latents: Sequence["Latents"],
    questions: Sequence[str],
    focus: int | None,
) -> list[_Reading]:
    """Reads the documents once for all questions, or for each the windows that it is about."""
    if focus is None:
        return [_Reading(session=press.session(latents))] * len(questions)
    readings = []
    for question in questions:
        started = time.perf_counter()
        with _named(question):
            chosen = press.focus(latents, question, windows=focus)
            session = press.session(chosen)
        seconds = time.perf_counter() - started
        readings.append(_Reading(session=session, seconds=seconds, windows=_read_windows(files, latents, chosen)))
    return readings


def _check_questions(readings: Sequence[_Reading], questions: Sequence[str], max_new_tokens: int) -> None:
    """Makes sure that every question fits before the first is answered: none may cost the answers before it."""
    for reading, question in zip(readings, questions, strict=True):
        with _named(question):
            # Refuses at once what does not fit, and answers only when what it returns is iterated.
            reading.session.ask(question, max_new_tokens=max_new_tokens, stream=True)


@contextmanager
def _named(question: str) -> Iterator[None]:
    """Says which question it was that does not fit."""
    try:
        yield
    except ContextTooLongError as error:
        shown = question if len(question) <= _SHOWN else f"{question[:_SHOWN]}..."
        raise ContextTooLongError(f"question {shown!r}: {error}") from error


def _answer(session: "Session", question: str, max_new_tokens: int) -> dict[str, Any]:
    started = time.perf_counter()
    answer = session.ask(question, max_new_tokens=max_new_tokens).strip()
    return {"answer": answer, "seconds": time.perf_counter() - started}


def _read_full_text(press: "Press", texts: list[str]) -> _FullText:
    """Reads the whole text, or says why it cannot: the answers from the latents are worth having all the same."""
    text = press.config.prompt.between.join(texts)
    tokens = press.count_tokens(text)
    started = time.perf_counter()
    try:
        session = press.text_session(text)
    except ContextTooLongError as error:
        return _FullText(tokens=tokens, seconds=None, session=None, error=str(error))
    return _FullText(tokens=tokens, seconds=time.perf_counter() - started, session=session, error=None)


def _full_text_answer(full: _FullText, question: str, max_new_tokens: int) -> dict[str, Any]:
    error = full.error
    if full.session is not None:
        try:
            return {**_answer(full.session, question, max_new_tokens), "error": None}
        except ContextTooLongError as too_long:
            error = str(too_long)
    return {"answer": None, "seconds": None, "error": error}


def _print_documents(result: dict[str, Any], *, hint: bool) -> None:
    out = console()
    if len(result["documents"]) > 1:
        for row in result["documents"]:
            out.print(
                f"{row['file']}: {row['tokens']:,} tokens, {row['latents']:,} latents, {row['ratio']:.1f}x",
                soft_wrap=True,
            )
    out.print(
        f"{result['press']['name']}: {result['tokens']:,} tokens in {result['latents']:,} latents, "
        f"{result['ratio']:.1f}x, compressed in {result['seconds']['compress']:.2f} s",
        style="dim",
        soft_wrap=True,
    )
    if hint and sum(row["windows"] for row in result["documents"]) > _MANY_WINDOWS:
        out.print(_HINT, style="dim", soft_wrap=True)


def _print_reading(result: dict[str, Any]) -> None:
    """What each side of a comparison reads before the first question, and how long that takes."""
    full = result["full_text"]
    seconds = full["seconds"]["read"]
    mine = f"{result['latents']:,} latents in {result['seconds']['read']:.2f} s"
    other = f"{full['tokens']:,} tokens of the full text {'not' if seconds is None else f'in {seconds:.2f} s'}"
    console().print(f"read: {mine}, {other}", style="dim", soft_wrap=True)


def _print_answer(answer: dict[str, Any]) -> None:
    out = console()
    out.print()
    out.print(answer["question"], style="bold", soft_wrap=True)
    _print_one("from latents: " if "full_text" in answer else "", answer)
    if "read" in answer:
        several = len({one["file"] for one in answer["read"]}) > 1
        spans = ", ".join(
            f"{one['file'] + ' ' if several else ''}{one['start']:,} to {one['start'] + one['tokens']:,}"
            for one in answer["read"]
        )
        out.print(f"read: tokens {spans}", style="dim", soft_wrap=True)
    full = answer.get("full_text")
    if full is not None and full["error"] is None:
        _print_one("full text:    ", full)
    elif full is not None:
        out.print(f"full text:    none, {full['error']}", style="yellow", soft_wrap=True)


def _print_one(label: str, answer: dict[str, Any]) -> None:
    line = Text.assemble((label, "dim"), answer["answer"] or "(no answer)", (f"  {answer['seconds']:.2f} s", "dim"))
    console().print(line, soft_wrap=True)
