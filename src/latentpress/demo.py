"""`python -m latentpress.demo` (`make demo`): a document compressed once, then asked; its full text beside it.

Every question of the sample is asked, of both sides, in the same order and with the same limit on the answer. Each
side reads its context once, before the first question.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from latentpress.cli.options import DEFAULT_PRESS, Json, open_press
from latentpress.cli.output import console, print_json, progress_console
from latentpress.cli.run import run

if TYPE_CHECKING:
    from latentpress.latents import Latents
    from latentpress.press import Press

Ask = Callable[[str], str]
"""Answers a question."""

_FIXED_RATIOS = (4, 8)
_FOCUS = 2
_MAX_NEW_TOKENS = 32

_INTRODUCTION = (
    "A press turns a document into a few latents, once; a language model then answers from the latents alone, "
    "without the text.\n"
    "Beside each answer stands that of the base model ({base}), not trained for this, with the full text before it."
)
_NOTES = (
    "F1 compares an answer's words with those of the gold answers, so a long answer loses even where it is right; "
    "'holds gold' only asks whether a gold answer stands in it. Answers end after {limit} tokens on both sides.\n"
    "The first answer counts from the text: compressing, reading what was compressed, answering. 'focus {focus}': each "
    "question is answered from the {focus} windows of the document that it is about, told by the decoder's attention. "
    "{questions} questions about one article illustrate and do not measure: see the table in the README."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The demonstration's document and questions."""

    title: str
    """Title of the document."""
    text: str
    """The document."""
    questions: tuple[str, ...]
    """Questions about it."""
    answers: tuple[tuple[str, ...], ...]
    """Gold answers of each question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One way of answering all questions, and what it cost."""

    name: str
    """What the tables call it."""
    tokens: int
    """Positions that the document takes in the decoder, if all of it is read."""
    ratio: float
    """Tokens of the text over those positions."""
    compress_seconds: float
    """Time to compress the text; 0 for the text itself."""
    read_seconds: float
    """Time in which the decoder read the document, once."""
    answers: tuple[str, ...]
    """Answer to each question."""
    seconds: tuple[float, ...]
    """Time of each answer, the document read before."""
    f1: float
    """Mean F1 against the gold answers, 0 to 100."""
    holds: float
    """Percent of the answers that hold a gold answer."""

    @property
    def first_answer_seconds(self) -> float:
        """From the text to the first answer."""
        return self.compress_seconds + self.read_seconds + self.seconds[0]

    @property
    def next_answer_seconds(self) -> float:
        """Mean time of the other answers."""
        return sum(self.seconds[1:]) / max(1, len(self.seconds) - 1)

    @property
    def total_seconds(self) -> float:
        """From the text to the last answer."""
        return self.compress_seconds + self.read_seconds + sum(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "tokens": self.tokens,
            "ratio": self.ratio,
            "seconds": {
                "compress": self.compress_seconds,
                "read": self.read_seconds,
                "first_answer": self.first_answer_seconds,
                "next_answer": self.next_answer_seconds,
                "total": self.total_seconds,
            },
            "f1": self.f1,
            "holds_answer": self.holds,
        }


def load_sample() -> Sample:
    """The document and questions that come with the library."""
    folder = resources.files("latentpress") / "samples"
    data = json.loads((folder / "demo_questions.json").read_text(encoding="utf-8"))
    return Sample(
        title=data["title"],
        text=(folder / data["document"]).read_text(encoding="utf-8"),
        questions=tuple(row["question"] for row in data["questions"]),
        answers=tuple(tuple(row["answers"]) for row in data["questions"]),
    )


def compressed(press: "Press", sample: Sample, ratio: int | None) -> tuple["Latents", float]:
    """Compresses the document; returns its latents and the time it took."""
    started = time.perf_counter()
    latents = press.compress(sample.text, ratio=ratio)
    return latents, time.perf_counter() - started


def answer_from_latents(
    press: "Press", sample: Sample, latents: "Latents", compress_seconds: float, *, name: str, focus: int | None = None
) -> Side:
    """Asks every question of the latents, which are read once, or of the windows that each question is about."""

    def read() -> Ask:
        if focus is None:
            return partial(press.session(latents).ask, max_new_tokens=_MAX_NEW_TOKENS)
        return lambda question: press.session(press.focus(latents, question, windows=focus)).ask(
            question, max_new_tokens=_MAX_NEW_TOKENS
        )

    return _ask_all(
        read,
        sample,
        name=name if focus is None else f"{name}, focus {focus}",
        tokens=len(latents),
        ratio=latents.ratio,
        compress_seconds=compress_seconds,
    )


def answer_from_text(press: "Press", sample: Sample) -> Side:
    """Reads the full text once with the base model as it is, and asks every question."""
    tokens = press.count_tokens(sample.text)
    return _ask_all(
        lambda: partial(press.text_session(sample.text).ask, max_new_tokens=_MAX_NEW_TOKENS),
        sample,
        name="full text",
        tokens=tokens,
        ratio=1.0,
        compress_seconds=0.0,
    )


def _ask_all(
    read: Callable[[], Ask], sample: Sample, *, name: str, tokens: int, ratio: float, compress_seconds: float
) -> Side:
    from latentpress.evaluation.metrics import f1

    started = time.perf_counter()
    ask = read()
    read_seconds = time.perf_counter() - started
    answers, seconds = [], []
    for question in sample.questions:
        started = time.perf_counter()
        answers.append(ask(question).strip())
        seconds.append(time.perf_counter() - started)
    pairs = list(zip(answers, sample.answers, strict=True))
    return Side(
        name=name,
        tokens=tokens,
        ratio=ratio,
        compress_seconds=compress_seconds,
        read_seconds=read_seconds,
        answers=tuple(answers),
        seconds=tuple(seconds),
        f1=100 * sum(f1(answer, gold) for answer, gold in pairs) / len(pairs),
        holds=100 * sum(_holds(answer, gold) for answer, gold in pairs) / len(pairs),
    )


def _holds(answer: str, gold: Sequence[str]) -> bool:
    """Tells whether the words of a gold answer stand in the answer, one after the other."""
    from latentpress.evaluation.metrics import normalize_answer

    return any(f" {normalize_answer(one)} " in f" {normalize_answer(answer)} " for one in gold)


def _warm_up(press: "Press") -> None:
    """Makes what the first call alone pays for fall on neither side."""
    text = "A press turns a text into latents."
    press.session(press.focus([text] * (_FOCUS + 1), "What?", windows=_FOCUS)).ask("What?", max_new_tokens=2)
    press.text_session(text).ask("What?", max_new_tokens=2)


def _demo(
    press: Annotated[str, typer.Option("--press", help="Name, folder or hub id of a press.")] = DEFAULT_PRESS,
    as_json: Json = False,
) -> None:
    """Compress a real document and answer questions from its latents, and from its full text beside them."""
    _fetch_base(press)
    opened = open_press(press)
    sample = load_sample()
    out = progress_console() if as_json else console()
    out.print(_INTRODUCTION.format(base=opened.config.base.id) + "\n", soft_wrap=True)
    _warm_up(opened)
    with progress_console().status("compressing the document and asking its latents"):
        made = compressed(opened, sample, None)
        pressed = answer_from_latents(opened, sample, *made, name="latents, chosen ratio")
    with progress_console().status("reading the full text and asking it"):
        full = answer_from_text(opened, sample)
    if not as_json:
        _print_answers(out, sample, pressed, full)
    policy = opened.model.policy
    ratios = [ratio for ratio in _FIXED_RATIOS if policy.word() == "ratio" and policy.allows(ratio)]
    with progress_console().status("the same at fixed ratios, and from the windows that a question is about"):
        made_at = {f"latents, ratio {ratio}": compressed(opened, sample, ratio) for ratio in ratios}
        fixed = [answer_from_latents(opened, sample, *one, name=name) for name, one in made_at.items()]
        focused = [
            answer_from_latents(opened, sample, *one, name=name, focus=_FOCUS)
            for name, one in {pressed.name: made, **made_at}.items()
            if len(one[0].windows) > _FOCUS
        ]
    if as_json:
        print_json(_report(opened, sample, pressed, full, fixed, focused))
    else:
        _print_totals(out, [pressed, full, *fixed, *focused])
        out.print(
            _NOTES.format(limit=_MAX_NEW_TOKENS, focus=_FOCUS, questions=len(sample.questions)),
            style="dim",
            soft_wrap=True,
        )


def _fetch_base(press: str) -> None:
    """Fetches the base model of a press if it is the default one and missing."""
    from latentpress.base_model import DEFAULT_BASE, default_folder, fetch_default, is_complete
    from latentpress.checkpoints.io import read_config
    from latentpress.loading import press_folder

    config, _, _ = read_config(press_folder(press))
    if config.base.id == DEFAULT_BASE and not is_complete(default_folder()):
        progress = progress_console()
        progress.print(f"the base model is not here yet; fetching it into {default_folder()}", soft_wrap=True)
        fetch_default(lambda line: progress.print(line, soft_wrap=True))


def _report(
    press: "Press", sample: Sample, pressed: Side, full: Side, fixed: Sequence[Side], focused: Sequence[Side]
) -> dict[str, Any]:
    return {
        "press": {"name": press.config.name, "fingerprint": press.fingerprint, "base": press.config.base.id},
        "document": {"title": sample.title, "tokens": full.tokens},
        "max_new_tokens": _MAX_NEW_TOKENS,
        "latents": pressed.to_dict(),
        "full_text": full.to_dict(),
        "fixed_ratios": [side.to_dict() for side in fixed],
        "focused": [side.to_dict() for side in focused],
        "questions": [
            {
                "question": question,
                "gold": list(sample.answers[i]),
                "latents": {"answer": pressed.answers[i], "seconds": pressed.seconds[i]},
                "full_text": {"answer": full.answers[i], "seconds": full.seconds[i]},
            }
            for i, question in enumerate(sample.questions)
        ],
    }


def _print_answers(out: Console, sample: Sample, pressed: Side, full: Side) -> None:
    title = f"{sample.title}: {full.tokens:,} tokens in {pressed.tokens:,} latents, {pressed.ratio:.1f}x"
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("question", ratio=4)
    table.add_column("gold answer", ratio=3)
    table.add_column("from the latents", ratio=4, style="bold")
    table.add_column("s", justify="right", min_width=4)
    table.add_column("from the full text", ratio=4)
    table.add_column("s", justify="right", min_width=4)
    for i, question in enumerate(sample.questions):
        mine, other = f"{pressed.seconds[i]:.2f}", f"{full.seconds[i]:.2f}"
        gold = " / ".join(sample.answers[i])
        table.add_row(question, gold, pressed.answers[i] or "(none)", mine, full.answers[i] or "(none)", other)
    out.print(table)


def _print_totals(out: Console, sides: Sequence[Side]) -> None:
    table = Table("read from", title="All questions", title_justify="left")
    for heading in ("tokens kept", "ratio", "first answer", "each next", "in all", "F1", "holds gold"):
        table.add_column(heading, justify="right")
    for i, side in enumerate(sides):
        first, following = f"{side.first_answer_seconds:.2f} s", f"{side.next_answer_seconds:.2f} s"
        cost = (f"{side.tokens:,}", f"{side.ratio:.1f}x", first, following, f"{side.total_seconds:.1f} s")
        table.add_row(side.name, *cost, f"{side.f1:.1f}", f"{side.holds:.0f}%", style=None if i < 2 else "dim")
    out.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demonstration; returns an exit code like that of the `latentpress` command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_demo)
    return run(app, argv, name="python -m latentpress.demo")


if __name__ == "__main__":
    sys.exit(main())
