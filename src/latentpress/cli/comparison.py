"""What `latentpress eval` does between its options and its report."""

import hashlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from latentpress import __version__
from latentpress.cli.output import console, print_json, progress_console
from latentpress.cli.run import FAILED
from latentpress.errors import InputError

if TYPE_CHECKING:
    from latentpress.decoder.prompt import PromptSettings
    from latentpress.evaluation.datasets import Dataset
    from latentpress.evaluation.protocols import Protocol
    from latentpress.evaluation.runner import Comparison, Outcome
    from latentpress.evaluation.systems import Setup, System
    from latentpress.press import Press

_BOUNDS = "none,full,head,head-tail,random-sentences,bm25-sentences"


def check_numbers(seed: int, positive: "dict[str, int | None]") -> None:
    """Refuses numbers that no comparison can be made with.

    Raises:
        InputError: one is out of range.
    """
    for option, value in positive.items():
        if value is not None and value < 1:
            raise InputError(f"{option} {value} is below 1; give a positive number, or leave it out")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed} is out of range; give a number from 0 to {2**32 - 1}")


def usual_systems() -> str:
    """Shipped presses and bounds, as `--with` takes them."""
    from latentpress.loading import shipped_presses

    return ",".join([*shipped_presses(), _BOUNDS])


def list_systems(as_json: bool, data_dir: Path | None = None) -> None:
    """Prints bounds, peers and shipped presses, protocols, and sets that are known by name."""
    from latentpress.evaluation.protocols import PROTOCOLS
    from latentpress.evaluation.sources import IN_DOMAIN, OUT_OF_DOMAIN, known_names
    from latentpress.evaluation.systems import families
    from latentpress.evaluation.systems.peers.environments import PACKAGES
    from latentpress.loading import shipped_presses

    every, known, there = families(), known_names(data_dir), {name: _is_installed(name) for name in PACKAGES}
    package = {name: one.package for name, one in every.items()}
    if as_json:
        listed = {
            name: {"kind": one.kind, "about": one.about, "readers": one.readers, "sees_question": one.sees_question}
            | {"needs": one.needs or None, "installed": there.get(package[name])}
            for name, one in every.items()
        }
        protocols = {name: {"about": one.about, "sets": one.sets} for name, one in PROTOCOLS.items()}
        print_json({"presses": list(shipped_presses()), "families": listed, "protocols": protocols, "sets": known})
        return
    shown = Table("name", "kind", "what is read", "needs", box=None, pad_edge=False, padding=(0, 2))
    for name in shipped_presses():
        shown.add_row(name, "press", "its latents", "")
    for name, one in every.items():
        seen = "; sees the question" if one.sees_question else ""
        needs = f"{one.needs}, {'' if there[package[name]] else 'not '}installed" if one.needs else ""
        shown.add_row(name, one.kind, f"{one.about}{seen} ({', '.join(one.readers)})", needs)
    console().print(shown)
    console().print("Any other press: its folder or hub id. Sizes behind an @: head@4/8, a press @auto too.")
    lacking = [f"latentpress eval peer {name}" for name, here in there.items() if not here]
    if lacking:
        console().print(f"To install what is missing: {', '.join(lacking)}")
    rules = Table("protocol", "what it judges by", "sets", box=None, pad_edge=False, padding=(0, 2))
    for name, rule in PROTOCOLS.items():
        every_set = "all of MRQA's" if set(rule.sets) == {*IN_DOMAIN, *OUT_OF_DOMAIN} else ", ".join(rule.sets)
        rules.add_row(name, rule.about, every_set or "those of --data")
    console().print("", rules, "", sep="\n")
    console().print(
        f"Sets by name, from --data-dir, or else of MRQA and AdversarialQA from the hub: {', '.join(known)}"
    )


def _is_installed(peer: str) -> bool:
    from latentpress.evaluation.systems.peers.environments import find

    try:
        find(peer)
    except InputError:
        return False
    return True


def timed_lengths(text: str) -> list[int]:
    """Reads `--speed-lengths`."""
    try:
        lengths = [int(word.replace("_", "")) for word in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 1:
        raise InputError(f"--speed-lengths {text!r} are no numbers of tokens; give for example 512,2048")
    return sorted(set(lengths))


def make_setup(
    press: "Press",
    load: Any,
    prompt: "PromptSettings",
    seed: int,
    readers: dict[str, str | None],
    python: dict[str, Path],
) -> "Setup":
    """What systems share: base model and prompt of the first press that is named."""
    from latentpress.evaluation.systems import Setup

    return Setup(
        press=press,
        readers={name: load(given) for name, given in readers.items() if given is not None},
        prompt=prompt,
        seed=seed,
        python=python,
    )


def peer_interpreters(interpreters: list[str]) -> dict[str, Path]:
    """Interpreters of peers by package, as `--peer-python` gives them.

    Raises:
        InputError: one names no peer.
    """
    from latentpress.evaluation.systems.peers.environments import PACKAGES

    python: dict[str, Path] = {}
    for given in interpreters:
        name, equals, path = given.partition("=")
        if not equals:
            raise InputError(f"--peer-python {given!r} names no peer; write NAME=PATH, for example kvpress=/opt/python")
        if name not in PACKAGES:
            raise InputError(f"--peer-python {given!r}: no peer {name!r}; choose one of {', '.join(PACKAGES)}")
        python[name] = Path(path)
    return python


def systems_of(names: list[str], setup: "Setup", sizes: Any, load: Any) -> "list[System]":
    """Makes the systems, and says what was passed over."""
    from latentpress.evaluation.systems import make_systems

    systems, notes = make_systems(names, setup, sizes, load)
    for note in notes:
        progress_console().print(f"left out: {note}", style="dim", soft_wrap=True)
    return systems


def settings_of(setup: "Setup", rules: "Protocol", seed: int, peer_limit: int | None) -> dict[str, Any]:
    """What answers and scores depend on: a folder made with others is refused."""
    base = setup.press.base
    text = [base.tokenizer.backend_tokenizer.to_str(), str(base.tokenizer.chat_template)]
    return {
        "version": __version__,
        "seed": seed,
        "protocol": rules.name,
        "peer_limit": peer_limit,
        "base": {
            "id": base.id,
            "fingerprint": base.fingerprint,
            "tokenizer": hashlib.sha256("\0".join(text).encode()).hexdigest(),
        },
    }


def answer(comparison: "Comparison", *, close: bool) -> "Outcome":
    """Has the questions answered, with a bar on a terminal and a line for each system and set otherwise."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from latentpress.evaluation import runner

    out = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal, speed_estimate_period=600) as bar:
        task = bar.add_task("answering", total=None)
        told: set[str] = set()
        begun = time.monotonic()
        before: int | None = None  # answered by an earlier run, which took no time of this one

        def show(now: runner.Progress) -> None:
            nonlocal before
            where = f"{now.label} on {now.dataset}"
            bar.update(task, completed=now.done, total=now.total, description=where)
            before = now.done if before is None else before
            if where not in told and not out.is_terminal:
                left = time_left(time.monotonic() - begun, now.done - before, now.total - now.done)
                out.print(f"{where}: {now.done:,} of {now.total:,} questions are answered{left}", soft_wrap=True)
            told.add(where)

        try:
            return runner.run(comparison, show, close=close)
        except KeyboardInterrupt:
            out.print("what is answered is kept; the same command goes on")
            raise


def time_left(seconds: float, done: int, left: int) -> str:
    """What is left to do, in words, by how long so many questions took; empty before the first."""
    if not done:
        return ""
    minutes = math.ceil(seconds / done * left / 60)
    return f", about {minutes:,} minute{'' if minutes == 1 else 's'} left"


def measure_times(systems: "list[System]", setup: "Setup", lengths: list[int], out: Path) -> None:
    """Times the systems into speed.json, length by length."""
    from latentpress.evaluation import speed
    from latentpress.evaluation.systems import families
    from latentpress.evaluation.systems.bounds import CachedText

    reference, cached = families()["full"].make(setup, "zero-shot", None), CachedText(setup, "zero-shot")
    press = setup.press
    with progress_console().status("timing") as status:
        speed.measure(
            systems,
            reference,
            press.base.tokenizer,
            press.base.max_positions,
            cached=cached,
            lengths=lengths,
            note=lambda line: status.update(f"timing: {line}"),
            keep=lambda found: found.write(out / "speed.json"),
        )


def write_report(out: Path) -> dict[str, Any]:
    """Scores, report and pictures of a folder."""
    from latentpress.evaluation.report import write
    from latentpress.plots.pareto import draw

    content = write(out)
    draw(out)
    return content


def finish(out: Path, outcome: "Outcome", sets: "list[Dataset]", as_json: bool) -> None:
    """Writes the report, says where it is, and fails if a system did."""
    write_report(out)
    lines = [f"{label} on {name}: {why}" for name, failed in outcome.failed.items() for label, why in failed.items()]
    if as_json:
        print_json(
            {
                "out": str(out),
                "report": str(out / "report.md"),
                "answered": outcome.answered,
                "kept": outcome.kept,
                "failed": lines,
                "sets": {one.name: len(one.questions) for one in sets},
            }
        )
    else:
        there = f", {outcome.kept:,} were there" if outcome.kept else ""
        console().print(f"{outcome.answered:,} questions answered{there}; report: {out / 'report.md'}", soft_wrap=True)
    for line in lines:
        progress_console().print(f"failed: {line}", soft_wrap=True)
    if lines:
        raise typer.Exit(FAILED)
