"""`latentpress eval`: compare presses, bounds and peers on any data, in one run that can be gone on with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from latentpress.cli.options import DEFAULT_PRESS, Base, Device, Dtype, Json, open_press
from latentpress.cli.output import console, print_json, progress_console
from latentpress.cli.run import FAILED
from latentpress.errors import InputError

if TYPE_CHECKING:
    from latentpress.evaluation.datasets import Dataset
    from latentpress.evaluation.protocols import Protocol
    from latentpress.evaluation.runner import Comparison, Outcome
    from latentpress.evaluation.systems import Setup, System
    from latentpress.press import Press

_SIZES = "4,8,16"
_USUAL = "none,full,head,head-tail,random-sentences,bm25-sentences"

With = Annotated[
    str | None,
    typer.Option(
        "--with",
        help="Systems, comma-separated: NAME, NAME:READER, NAME@SIZE/SIZE; a press (name, folder or hub id), a "
        "bound or a peer. All shipped presses and all bounds if not given.",
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="SET", help="File, NAME=FILE, hub id, or a set's name; may be given several times."),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder in which sets are looked for by name.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of results; the same command goes on in it.")]
Ratios = Annotated[
    str, typer.Option("--ratios", help="Sizes for systems that are given none: ratios, auto, auto+1 (a scale).")
]
Limit = Annotated[
    int | None, typer.Option("--limit", help="Questions drawn of each set; the protocol's number if not given.")
]
PeerLimit = Annotated[int | None, typer.Option("--peer-limit", help="Questions that peers are asked: the first drawn.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the draw.")]
MinTokens = Annotated[int | None, typer.Option("--min-tokens", help="Leaves shorter contexts out.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Leaves longer contexts out.")]
Join = Annotated[
    int | None, typer.Option("--join", help="Joins neighbouring contexts to documents of up to so many tokens.")
]
ProtocolName = Annotated[str, typer.Option("--protocol", help="default, semidynamic or comprexit: as the papers do.")]
Tuned = Annotated[
    str | None, typer.Option("--reader", metavar="PRESS", help="LoRA-tuned reader of text (recipe `reader`).")
]
PromptTuned = Annotated[
    str | None,
    typer.Option("--prompt-tuned", metavar="PRESS", help="Prompt-tuned reader of text (recipe `prompt-tuning`)."),
]
PeerPython = Annotated[
    list[str] | None,
    typer.Option("--peer-python", metavar="NAME=PATH", help="Python of a peer's own environment; may be repeated."),
]
NewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", help="Most tokens of a short answer; the protocol's if not given.")
]
Timed = Annotated[bool, typer.Option("--speed", help="Also time all systems, in turn, at 512, 2,048 and 7,900 tokens.")]
List = Annotated[bool, typer.Option("--list", help="List bounds, peers and shipped presses, and stop.")]

app = typer.Typer(
    invoke_without_command=True, help="Compare presses, bounds and peers on any data; run again to go on."
)


@app.callback()
def evaluate(
    context: typer.Context,
    systems: With = None,
    data: Data = None,
    out: Out = None,
    data_dir: DataDir = None,
    ratios: Ratios = _SIZES,
    protocol: ProtocolName = "default",
    limit: Limit = None,
    peer_limit: PeerLimit = None,
    seed: Seed = 0,
    min_tokens: MinTokens = None,
    max_tokens: MaxTokens = None,
    join: Join = None,
    max_new_tokens: NewTokens = None,
    reader: Tuned = None,
    prompt_tuned: PromptTuned = None,
    peer_python: PeerPython = None,
    speed: Timed = False,
    list_systems: List = False,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Compare presses, bounds and peers on any data.

    Answers are written as they come, scores are computed from them into report.md, metrics.json and pictures.
    The exit code is 1 if a system could not go on with a set; all others are scored.
    """
    if context.invoked_subcommand is not None:
        return
    if list_systems:
        _list(as_json)
        return
    from latentpress.evaluation.protocols import find_protocol
    from latentpress.evaluation.systems import Size

    rules = find_protocol(protocol)
    sets_wanted = data or list(rules.sets)
    if not sets_wanted:
        raise InputError("no data set is given; give --data FILE, or a --protocol that names its sets")
    if out is None:
        raise InputError("no folder for the results is given; give --out FOLDER")
    for option, value in (("--limit", limit), ("--peer-limit", peer_limit), ("--max-new-tokens", max_new_tokens)):
        if value is not None and value < 1:
            raise InputError(f"{option} {value} is below 1; give a positive number, or leave it out")
    sizes = [Size.parse(word) for word in ratios.split(",")]
    names = [name.strip() for name in (systems or _usual()).split(",") if name.strip()]
    from latentpress.evaluation.sources import find_sources

    sources = find_sources(sets_wanted, data_dir=data_dir)  # before anything is loaded

    def load(name: str) -> "Press":
        return open_press(name, base=base, device=device, dtype=dtype)

    setup = _setup(names, load, rules, seed, {"tuned": reader, "prompt-tuned": prompt_tuned}, peer_python or [])
    made = _systems(names, setup, sizes, load)
    from latentpress.evaluation.datasets import Selection, read_dataset

    selection = Selection(
        min_tokens=rules.min_tokens if min_tokens is None else min_tokens,
        max_tokens=rules.max_tokens if max_tokens is None else max_tokens,
        join=join,
        limit=limit or rules.limit,
        seed=seed,
    )
    with progress_console().status("reading the data sets"):
        sets = [read_dataset(source, count_tokens=setup.press.count_tokens, selection=selection) for source in sources]
    for one in sets:
        progress_console().print(f"{one.name}: {len(one.questions):,} questions; left out: {one.dropped}")
    from latentpress.evaluation.runner import Comparison

    comparison = Comparison(
        out=out,
        sets=sets,
        systems=made,
        settings=_settings(setup, rules, seed, peer_limit),
        answer_tokens={
            kind: max_new_tokens if max_new_tokens and kind != "summary" else rules.answer_tokens(kind)
            for kind in ("span", "summary", "choice")
        },
        peer_limit=peer_limit,
    )
    outcome = _run(comparison)
    if speed:
        _time(made, setup, out)
    _finish(out, outcome, sets, as_json)


@app.command()
def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of results.")], as_json: Json = False
) -> None:
    """Compute scores, report and pictures anew from the answers in a folder."""
    _write(out)
    if as_json:
        print_json({"out": str(out), "report": str(out / "report.md")})
    else:
        console().print(f"report: {out / 'report.md'}", soft_wrap=True)


@app.command()
def claims(
    results: Annotated[
        Path | None,
        typer.Argument(metavar="RESULTS", help="Folder with results that were measured; ./results if it is there."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what both papers claim, beside what was measured here."""
    from latentpress.evaluation.claims import rows, table

    usual = Path("results")
    found = table(results or (usual if usual.is_dir() else None))
    if as_json:
        import dataclasses

        print_json({"claims": [dataclasses.asdict(one) for one in found]})
        return
    shown = Table(box=None, pad_edge=False, padding=(0, 2))
    heading, *lines = rows(found)
    for word in heading:
        shown.add_column(word, overflow="fold")
    for line in lines:
        shown.add_row(*line)
    console().print(shown)


@app.command()
def peer(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Package of a peer: llmlingua or kvpress.")],
) -> None:
    """Install a peer's package into an environment of its own."""
    from latentpress.evaluation.systems.peers.environments import install

    with progress_console().status(f"installing {name}; this fetches PyTorch and takes minutes"):
        python = install(name)
    console().print(f"{name} is installed: {python}", soft_wrap=True)


def _usual() -> str:
    from latentpress.loading import shipped_presses

    return ",".join([*shipped_presses(), _USUAL])


def _list(as_json: bool) -> None:
    from latentpress.evaluation.systems import families
    from latentpress.loading import shipped_presses

    every = families()
    if as_json:
        listed = {
            name: {"kind": one.kind, "about": one.about, "readers": one.readers, "sees_question": one.sees_question}
            for name, one in every.items()
        }
        print_json({"presses": list(shipped_presses()), "families": listed})
        return
    shown = Table("name", "kind", "what is read", "needs", box=None, pad_edge=False, padding=(0, 2))
    for name in shipped_presses():
        shown.add_row(name, "press", "its latents", "")
    for name, one in every.items():
        seen = "; sees the question" if one.sees_question else ""
        shown.add_row(name, one.kind, f"{one.about}{seen} ({', '.join(one.readers)})", one.needs)
    console().print(shown)
    console().print("Any other press: its folder or hub id. Sizes behind an @: head@4/8, a press @auto too.")


def _setup(
    names: list[str],
    load: Any,
    rules: "Protocol",
    seed: int,
    readers: dict[str, str | None],
    interpreters: list[str],
) -> "Setup":
    """What systems share: the base model of the first press that is named."""
    from latentpress.evaluation.systems import Setup, families

    known = families()
    presses = [name.partition("@")[0] for name in names if name.partition("@")[0].partition(":")[0] not in known]
    press = load(presses[0] if presses else DEFAULT_PRESS)
    python: dict[str, Path] = {}
    for given in interpreters:
        name, equals, path = given.partition("=")
        if not equals:
            raise InputError(f"--peer-python {given!r} names no peer; write NAME=PATH, for example kvpress=/opt/python")
        python[name] = Path(path)
    return Setup(
        press=press,
        readers={name: load(given) for name, given in readers.items() if given is not None},
        prompt=rules.reader_prompt(press.config.prompt),
        seed=seed,
        python=python,
    )


def _systems(names: list[str], setup: "Setup", sizes: Any, load: Any) -> "list[System]":
    from latentpress.evaluation.systems import make_systems

    systems, notes = make_systems(names, setup, sizes, load)
    for note in notes:
        progress_console().print(f"left out: {note}", style="dim", soft_wrap=True)
    return systems


def _settings(setup: "Setup", rules: "Protocol", seed: int, peer_limit: int | None) -> dict[str, Any]:
    base = setup.press.base
    return {
        "seed": seed,
        "protocol": rules.name,
        "shots": rules.shots,
        "peer_limit": peer_limit,
        "base": {"id": base.id, "fingerprint": base.fingerprint},
    }


def _run(comparison: "Comparison") -> "Outcome":
    """Has the questions answered, with a bar on a terminal and a line for each system and set otherwise."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from latentpress.evaluation import runner

    out = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal, speed_estimate_period=600) as bar:
        task = bar.add_task("answering", total=None)
        last = ""

        def show(now: runner.Progress) -> None:
            nonlocal last
            where = f"{now.label} on {now.dataset}"
            bar.update(task, completed=now.done, total=now.total, description=where)
            if where != last and not out.is_terminal:
                out.print(f"{where}: {now.done:,} of {now.total:,} questions are answered", soft_wrap=True)
            last = where

        try:
            return runner.run(comparison, show)
        except KeyboardInterrupt:
            out.print("what is answered is kept; the same command goes on")
            raise


def _time(systems: "list[System]", setup: "Setup", out: Path) -> None:
    from latentpress.evaluation import speed
    from latentpress.evaluation.systems import families

    reference = families()["full"].make(setup, "zero-shot", None)
    press = setup.press
    with progress_console().status("timing") as status:
        taken = speed.measure(
            systems,
            reference,
            press.base.tokenizer,
            press.base.max_positions,
            note=lambda line: status.update(f"timing: {line}"),
        )
    taken.write(out / "speed.json")


def _write(out: Path) -> dict[str, Any]:
    from latentpress.evaluation.report import write
    from latentpress.plots.pareto import draw

    content = write(out)
    draw(out)
    return content


def _finish(out: Path, outcome: "Outcome", sets: "list[Dataset]", as_json: bool) -> None:
    _write(out)
    if as_json:
        print_json(
            {
                "out": str(out),
                "report": str(out / "report.md"),
                "answered": outcome.answered,
                "kept": outcome.kept,
                "failed": outcome.failed,
                "sets": {one.name: len(one.questions) for one in sets},
            }
        )
    else:
        there = f", {outcome.kept:,} were there" if outcome.kept else ""
        console().print(f"{outcome.answered:,} questions answered{there}; report: {out / 'report.md'}", soft_wrap=True)
    for line in outcome.failed:
        progress_console().print(f"failed: {line}", soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(FAILED)
