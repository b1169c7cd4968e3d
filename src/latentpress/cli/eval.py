"""`latentpress eval`: compare presses, bounds and peers on any data, in one run that can be gone on with."""

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from latentpress.cli.comparison import (
    answer,
    check_numbers,
    finish,
    list_systems,
    make_setup,
    measure_times,
    peer_interpreters,
    settings_of,
    systems_of,
    timed_lengths,
    usual_systems,
    write_report,
)
from latentpress.cli.options import DEFAULT_PRESS, Base, Device, Dtype, Json, open_press
from latentpress.cli.output import console, print_json, progress_console
from latentpress.errors import InputError

if TYPE_CHECKING:
    from latentpress.press import Press

_SIZES = "4,8,16,auto"
_TABLE_WIDTH = 120  # a table of claims has six columns of text

With = Annotated[
    str | None,
    typer.Option(
        "--with",
        help="Systems, comma-separated: NAME, NAME:READER, NAME@SIZE/SIZE; a press (name, folder or hub id; "
        "MINE=FOLDER names it), a bound or a peer. All shipped presses and all bounds if not given.",
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
CutLimit = Annotated[int | None, typer.Option("--cut-limit", help="The same for bounds that read part of a text.")]
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
Timed = Annotated[bool, typer.Option("--speed", help="Also time all systems, in turn; see --speed-lengths.")]
TimedLengths = Annotated[
    str, typer.Option("--speed-lengths", metavar="N,N", help="Tokens of text at which they are timed.")
]
List = Annotated[bool, typer.Option("--list", help="List systems, protocols and known sets, and stop.")]

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
    cut_limit: CutLimit = None,
    seed: Seed = 0,
    min_tokens: MinTokens = None,
    max_tokens: MaxTokens = None,
    join: Join = None,
    max_new_tokens: NewTokens = None,
    reader: Tuned = None,
    prompt_tuned: PromptTuned = None,
    peer_python: PeerPython = None,
    speed: Timed = False,
    speed_lengths: TimedLengths = "512,2048,7900",
    listed: List = False,
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
    if listed:
        list_systems(as_json, data_dir)
        return
    from latentpress.evaluation.protocols import find_protocol
    from latentpress.evaluation.systems import Size

    rules = find_protocol(protocol)
    if not (data or rules.sets):
        raise InputError("no data set is given; give --data FILE, or a --protocol that names its sets")
    if out is None:
        raise InputError("no folder for the results is given; give --out FOLDER")
    numbers = {"--limit": limit, "--peer-limit": peer_limit, "--cut-limit": cut_limit}
    check_numbers(seed, {**numbers, "--max-new-tokens": max_new_tokens})
    lengths = timed_lengths(speed_lengths)
    sizes = [Size.parse(word) for word in ratios.split(",")]
    names = [name.strip() for name in (systems or usual_systems()).split(",") if name.strip()]
    if not names:
        raise InputError(f"--with {systems!r} names no system; `latentpress eval --list` shows them")
    # Before anything is loaded: what cannot be found.
    from latentpress.evaluation.sources import find_sources, notes
    from latentpress.evaluation.systems.named import find_peers, press_names

    sources = find_sources(data, data_dir=data_dir) if data else rules.find_sets(data_dir)
    presses, interpreters = press_names(names), peer_interpreters(peer_python or [])
    find_peers(names, interpreters)

    @functools.cache
    def load(name: str) -> "Press":
        return open_press(name, base=base, device=device, dtype=dtype)

    readers = {"tuned": reader, "prompt-tuned": prompt_tuned}
    press = load(presses[0] if presses else DEFAULT_PRESS)
    from latentpress.evaluation.datasets import Selection, read_dataset
    from latentpress.evaluation.speed import fitting_lengths

    if speed:
        fitting_lengths(press.base.max_positions, lengths)

    selection = Selection(
        min_tokens=rules.min_tokens if min_tokens is None else min_tokens,
        max_tokens=rules.max_tokens if max_tokens is None else max_tokens,
        join=join,
        limit=limit or rules.limit,
        seed=seed,
    )
    for note in notes(sources, data_dir):
        progress_console().print(note, soft_wrap=True)
    with progress_console().status("reading the data sets"):
        sets = [read_dataset(source, count_tokens=press.count_tokens, selection=selection) for source in sources]
    for one in sets:
        progress_console().print(f"{one.name}: {len(one.questions):,} questions; left out: {one.dropped}")
    prompt = rules.reader_prompt(press.config.prompt, {question.kind for one in sets for question in one.questions})
    setup = make_setup(press, load, prompt, seed, readers, interpreters)
    made = systems_of(names, setup, sizes, load)
    from latentpress.evaluation.origin import origin
    from latentpress.evaluation.runner import Comparison

    comparison = Comparison(
        out=out,
        sets=sets,
        systems=made,
        settings=settings_of(setup, rules, seed, peer_limit),
        asked_how={
            "command": ["latentpress", *sys.argv[1:]],
            "data": {source.name: source.place for source in sources},
            "limit": selection.limit,
            "cut_limit": cut_limit,
            "min_tokens": selection.min_tokens,
            "max_tokens": selection.max_tokens,
            "join": selection.join,
            "readers": {name: press.fingerprint for name, press in setup.readers.items()},
            "device": str(setup.press.model.decoder.device),
            "dtype": str(setup.press.model.decoder.dtype).removeprefix("torch."),
        },
        answer_tokens={
            kind: max_new_tokens if max_new_tokens and kind != "summary" else rules.answer_tokens(kind)
            for kind in ("span", "summary", "choice")
        },
        peer_limit=peer_limit,
        cut_limit=cut_limit,
        begun=origin(setup.press.model.decoder.device),
    )
    try:
        outcome = answer(comparison, close=not speed)
        if speed:
            write_report(out)  # what is answered is reported, whatever becomes of the times
            measure_times(made, setup, lengths, out)
    finally:
        for system in made:
            system.close()
    finish(out, outcome, sets, as_json)


@app.command()
def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of results.")], as_json: Json = False
) -> None:
    """Compute scores, report and pictures anew from the answers in a folder."""
    write_report(out)
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
    from latentpress.evaluation.claims import caveats, rows, table

    usual = Path("results")
    folder = results or (usual if usual.is_dir() else None)
    found = table(folder)
    if as_json:
        import dataclasses

        listed = [{**dataclasses.asdict(one), "told": one.told} for one in found]
        print_json({"results": None if folder is None else str(folder), "claims": listed, "caveats": caveats()})
        return
    out = console()
    out.print(_laid_out(rows(found), out.width))
    for caveat in caveats():
        out.print(caveat, soft_wrap=True)
    out.print(_what_was_read(folder, any(one.ours for one in found)), style="bold", soft_wrap=True)


def _laid_out(lines: list[tuple[str, ...]], width: int) -> Table:
    """The claims as a table, or, where its columns would be too narrow to read, one below the other."""
    heading, *cells = lines
    shown = Table(box=None, pad_edge=False, padding=(0, 2), show_header=width >= _TABLE_WIDTH)
    if width >= _TABLE_WIDTH:
        for word in heading:
            shown.add_column(word, overflow="fold")
        for line in cells:
            shown.add_row(*line)
        return shown
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for line in cells:
        for word, cell in zip(heading, line, strict=True):
            shown.add_row(word, cell)
        shown.add_row()
    return shown


def _what_was_read(folder: Path | None, measured: bool) -> str:
    """Which folder the numbers are from, and what to do where there are none."""
    give = "give a folder that holds results: latentpress eval claims FOLDER"
    if folder is None:
        return f"No results were read, since there is no folder ./results here; {give}"
    if not measured:
        return f"Results were read from {folder}, and nothing there tells of a claim; {give}"
    return f"Results were read from {folder}"


@app.command()
def peer(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Package of a peer: llmlingua or kvpress.")],
) -> None:
    """Install a peer's package into an environment of its own."""
    from latentpress.evaluation.systems.peers.environments import install

    with progress_console().status(f"installing {name}; this fetches PyTorch and takes minutes"):
        python = install(name)
    console().print(f"{name} is installed: {python}", soft_wrap=True)
