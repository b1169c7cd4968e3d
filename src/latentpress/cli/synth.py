"""`latentpress synth`: training data written by a teacher model, from any texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentpress.cli.options import Device, Dtype, Json
from latentpress.cli.output import console, print_json, progress_console
from latentpress.cli.run import FAILED
from latentpress.errors import InputError

if TYPE_CHECKING:
    from latentpress.synthesis.run import Outcome, Standing

_TASKS = "qa,multi-document,multi-hop,summary,short-summary"

Data = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="CORPUS",
        help="Texts: JSON lines (plain, .xz, .gz), .txt, .md, or a hub id; may be given several times.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; the same command goes on in it.")]
TeacherName = Annotated[
    str,
    typer.Option(
        "--teacher",
        help="openai:URL (any OpenAI-compatible address, its key in LATENTPRESS_TEACHER_KEY or OPENAI_API_KEY), "
        "hf:FOLDER_OR_ID, gguf:FILE, or embedded (the default base model).",
    ),
]
Model = Annotated[str | None, typer.Option("--model", help="Name of the model at an address.")]
Tasks = Annotated[str, typer.Option("--tasks", help="What is asked for, comma-separated.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Most passages, the first ones; all if not given.")]
MinPassage = Annotated[int, typer.Option("--min-passage-tokens", help="Shortest passage.")]
MaxPassage = Annotated[
    int, typer.Option("--max-passage-tokens", help="Longest passage, and all passages of one request together.")
]
Base = Annotated[
    str | None, typer.Option("--base", help="Base model whose tokens are counted; the embedded default if not given.")
]
Field = Annotated[
    str | None, typer.Option("--field", help="Field of a row that holds its text, if not text, context or contexts.")
]
Lang = Annotated[str | None, typer.Option("--lang", help="Language of all texts; a row's own, or told by the script.")]
Questions = Annotated[int, typer.Option("--questions", help="Questions of one request.")]
Documents = Annotated[int, typer.Option("--documents", help="Most passages of a request about several.")]
Concurrency = Annotated[
    int, typer.Option("--concurrency", help="Requests under way at once; of a local teacher, in one batch.")
]
Timeout = Annotated[
    float, typer.Option("--timeout", help="Seconds until the whole answer of an address must be there.")
]
Tries = Annotated[int, typer.Option("--tries", help="Tries of a request until it is given up until the next run.")]
MaxRequests = Annotated[
    int | None, typer.Option("--max-requests", help="Budget of tries, of all runs in the folder together.")
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", help="Budget of tokens, prompts and replies, of all runs together.")
]
PriceIn = Annotated[float, typer.Option("--price-in", help="Price of a million tokens of prompts, for the card.")]
PriceOut = Annotated[float, typer.Option("--price-out", help="Price of a million tokens of replies, for the card.")]
Temperature = Annotated[float, typer.Option("--temperature", help="Of the teacher's sampling; 0 is greedy.")]
ReplyTokens = Annotated[int, typer.Option("--reply-tokens", help="Most tokens of a reply.")]
Seed = Annotated[int, typer.Option("--seed", help="Of passage lengths and of the teacher's sampling.")]
Engine = Annotated[str, typer.Option("--engine", help="local, or ray: a Ray cluster, the one that RAY_ADDRESS names.")]
Workers = Annotated[int, typer.Option("--workers", help="With --engine ray: processes that ask.")]
WorkerGpus = Annotated[float, typer.Option("--worker-gpus", help="With --engine ray: GPUs of each.")]


def synth(
    data: Data,
    out: Out,
    teacher: TeacherName,
    model: Model = None,
    tasks: Tasks = _TASKS,
    limit: Limit = None,
    min_passage_tokens: MinPassage = 128,
    max_passage_tokens: MaxPassage = 1300,
    base: Base = None,
    field: Field = None,
    lang: Lang = None,
    questions: Questions = 4,
    documents: Documents = 3,
    concurrency: Concurrency = 8,
    timeout: Timeout = 120.0,
    tries: Tries = 5,
    max_requests: MaxRequests = None,
    max_tokens: MaxTokens = None,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    temperature: Temperature = 0.7,
    reply_tokens: ReplyTokens = 1024,
    seed: Seed = 0,
    engine: Engine = "local",
    workers: Workers = 1,
    worker_gpus: WorkerGpus = 0.0,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Have a teacher model write questions, summaries and density labels about texts.

    Stop it whenever you like: the same command goes on, and asks nothing twice. The exit code is 1 if requests are left
    without a reply, or no reply could be used.
    """
    if engine not in ("local", "ray"):
        raise InputError(f"--engine {engine!r} is unknown; give local or ray")
    from latentpress.synthesis.settings import Allowance, Patience, Plan, Prices, RaySettings, TeacherSpec

    plan = Plan(
        corpora=tuple(data),
        tasks=tuple(dict.fromkeys(task.strip() for task in tasks.split(",") if task.strip())),
        field=field,
        lang=lang,
        limit=limit,
        min_passage_tokens=min_passage_tokens,
        max_passage_tokens=max_passage_tokens,
        questions=questions,
        documents=documents,
        seed=seed,
    )
    sampling: dict[str, Any] = {"temperature": temperature, "reply_tokens": reply_tokens, "seed": seed}
    spec = TeacherSpec.parse(teacher, model, timeout=timeout, device=device, dtype=dtype, **sampling)
    options = {
        "base": base,
        "patience": Patience(concurrency=concurrency, tries=tries),
        "allowance": Allowance(max_requests=max_requests, max_tokens=max_tokens),
        "prices": Prices(per_million_in=price_in, per_million_out=price_out),
        "ray": RaySettings(workers=workers, gpus=worker_gpus) if engine == "ray" else None,
    }
    outcome = _run(plan, spec, out, options)
    _report(out, outcome, as_json)
    if outcome.replied < outcome.total or not outcome.card["records"]:
        raise typer.Exit(FAILED)


def _run(plan: Any, spec: Any, out: Path, options: dict[str, Any]) -> "Outcome":
    """Runs the synthesis, with a bar on a terminal and a line now and then otherwise."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, disable=not screen.is_terminal, speed_estimate_period=600) as bar:
        task = bar.add_task("starting", total=None)
        said = -1.0

        def show(now: "Standing") -> None:
            nonlocal said
            if said < 0:  # the time left is that of what this run does
                bar.reset(task, completed=now.done, total=now.total)
                said = 0.0
            spent = f"{now.requests:,} requests, {now.tokens:,} tokens"
            failed = f", {now.given_up:,} given up" if now.given_up else ""
            bar.update(task, completed=now.done, total=now.total, description=spent + failed)
            if not screen.is_terminal and now.done >= (said + 0.05) * now.total:
                said = now.done / now.total
                screen.print(f"{now.done:,} of {now.total:,} replies: {spent}{failed}", soft_wrap=True)

        def note(line: str) -> None:
            bar.update(task, description=line)
            if not screen.is_terminal:
                screen.print(line, soft_wrap=True)

        from latentpress.synthesis.run import synthesize

        try:
            return synthesize(plan, spec, out, show=show, note=note, **options)
        except KeyboardInterrupt:
            screen.print("what came is kept; the same command goes on")
            raise


def _report(out: Path, outcome: "Outcome", as_json: bool) -> None:
    """Says what was made, and why it is not everything."""
    card = outcome.card
    made = {task: numbers["made"] for task, numbers in card["tasks"].items()}
    rejected = sum(row["number"] for row in card["rejects"])
    left = outcome.total - outcome.replied
    if as_json:
        print_json(
            {
                "out": str(out),
                "records": card["records"],
                "requests": outcome.total,
                "replied": outcome.replied,
                "kept": outcome.kept,
                "given_up": outcome.given_up,
                "stopped": outcome.stopped,
                "made": made,
                "rejected": rejected,
                "spent": card["spent"],
            }
        )
    else:
        listed = ", ".join(f"{count:,} {task}" for task, count in made.items())
        there = f", {outcome.kept:,} of them there before" if outcome.kept else ""
        console().print(
            f"{card['records']:,} records ({listed}) from {outcome.replied:,} replies{there}; {rejected:,} rejected; "
            f"see {out / 'card.md'}",
            soft_wrap=True,
        )
    screen = progress_console()
    if left:
        screen.print(f"{left:,} of {outcome.total:,} requests have no reply; the same command goes on", soft_wrap=True)
        for error in card["without_reply"]["errors"]:
            screen.print(f"given up: {error}", soft_wrap=True)
    if outcome.stopped:
        screen.print(f"stopped: {outcome.stopped}", soft_wrap=True)
    if not card["records"] and outcome.replied:
        screen.print(f"no reply could be used; {out / 'rejects.jsonl'} says why", soft_wrap=True)
