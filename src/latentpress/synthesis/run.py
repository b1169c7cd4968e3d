"""Synthesis from corpora to records: `latentpress synth`.

    OUT/
      journal.jsonl     what the run is a function of, then each reply as it came; see `latentpress.synthesis.journal`
      records.jsonl     the data, as `latentpress.data.records` reads it
      rejects.jsonl     what of the replies could not be used, with the reason and the teacher's words
      card.json, card.md

Everything but the journal is made anew of it whenever a run ends, also an early one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentpress.backbone import load_tokenizer
from latentpress.base_model import DEFAULT_BASE, base_folder
from latentpress.data.lines import json_line
from latentpress.errors import InputError
from latentpress.files import alone, naming, replacing, write_whole
from latentpress.synthesis.asking import Asker
from latentpress.synthesis.assembly import Assembly
from latentpress.synthesis.budget import Budget
from latentpress.synthesis.card import CARD_JSON, CARD_TEXT, make_card, render
from latentpress.synthesis.corpus import corpus_names, read_corpus
from latentpress.synthesis.groups import GROUPING, related_groups
from latentpress.synthesis.journal import Entry, Journal
from latentpress.synthesis.on_ray import ask_on_ray, check_ray
from latentpress.synthesis.passages import Cutter
from latentpress.synthesis.prompts import Prompts
from latentpress.synthesis.requests import Planner, Request
from latentpress.synthesis.settings import Allowance, Patience, Plan, Prices, RaySettings, TeacherSpec
from latentpress.synthesis.teachers import check_teacher, open_teacher

RECORDS, REJECTS = "records.jsonl", "rejects.jsonl"
_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a run stands."""

    done: int
    """Requests with a reply, those of earlier runs too."""
    total: int
    """Requests of the plan."""
    given_up: int
    """Requests that this run gave up."""
    requests: int
    """Tries of all runs together."""
    tokens: int
    """Tokens of all runs together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a run came to."""

    total: int
    """Requests of the plan."""
    replied: int
    """Those with a reply."""
    kept: int
    """Those among them that had it before."""
    given_up: int
    """Those that this run gave up."""
    stopped: str | None
    """Why it stopped before the last request; None if it did not."""
    card: dict[str, Any]
    """What was made; see `make_card`."""


def synthesize(
    plan: Plan,
    spec: TeacherSpec,
    out: Path,
    *,
    base: str | None = None,
    patience: Patience | None = None,
    allowance: Allowance | None = None,
    prices: Prices | None = None,
    ray: RaySettings | None = None,
    show: Callable[[Standing], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Outcome:
    """Has a teacher write questions and summaries about passages, or goes on where the run in the out folder stopped.

    Args:
        plan: what is asked about what.
        spec: who is asked.
        out: folder of the run.
        base: base model whose tokens are counted; the embedded default if None.
        patience: how it is asked.
        allowance: what may be spent, by all runs in the folder.
        prices: for the card.
        ray: asks in a Ray cluster; None: in this process.
        show: called at the start, and with each entry.
        note: called with a line as each step starts.

    Raises:
        InputError: settings that cannot be used, or a folder with a run of others.
        DataError: a corpus that cannot be read.
        BaseModelError: the base model, or a local teacher, cannot be had.
        OSError: the folder cannot be written to; what was done is kept.
    """
    note = note or (lambda _: None)
    check_teacher(spec, elsewhere=ray is not None)
    if ray is not None:
        check_ray()
    with _alone_in(out):
        tokenizer = load_tokenizer(base_folder(base or DEFAULT_BASE), id=base or DEFAULT_BASE)
        cutter = Cutter(tokenizer, plan.min_passage_tokens, plan.max_passage_tokens, plan.seed)
        prompts = Prompts()
        named_base = Path(base).name if base and Path(base).exists() else base or DEFAULT_BASE
        digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:12]
        journal = Journal(out, _identity(plan, spec, prompts, digest))
        note("reading the corpora")
        corpus = read_corpus(plan, cutter)
        groups = related_groups(corpus.passages, cutter, most=plan.documents, tokens=plan.max_passage_tokens)
        planner = Planner(plan, spec, prompts, cutter)
        requests = planner.requests(corpus.passages, groups)
        asked = Counter(request.task for request in requests)
        waiting = [request for request in requests if journal.reply(request.key) is None]
        note(f"{len(corpus.passages):,} passages, {len(groups):,} groups of them, {len(waiting):,} requests to make")
        run = _Run(journal, len(requests), len(requests) - len(waiting), show or (lambda _: None))

        def finish() -> dict[str, Any]:
            assembly = Assembly(journal, planner, cutter.count)
            write_lines(out / RECORDS, assembly.rows(corpus.passages, groups))
            write_lines(out / REJECTS, assembly.rejects)
            card = make_card(
                plan=plan,
                spec=spec,
                prompts=prompts.version,
                tokenizer=named_base,
                corpus=corpus,
                asked=asked,
                journal=journal,
                tally=assembly.tally,
                prices=prices or Prices(),
            )
            with naming(out / CARD_JSON):
                write_whole(out / CARD_JSON, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
                write_whole(out / CARD_TEXT, render(card))
            return card

        budget = Budget(allowance or Allowance(), journal.requests, journal.tokens_in + journal.tokens_out)
        run.tell()
        try:
            stopped = _ask(waiting, planner, run.keep, spec, patience or Patience(), budget, cutter, ray)
        except KeyboardInterrupt:
            finish()
            raise
        except Exception:
            with contextlib.suppress(OSError):  # where a full disk has ended it
                finish()
            raise
        return Outcome(
            total=len(requests),
            replied=run.done,
            kept=len(requests) - len(waiting),
            given_up=run.given_up,
            stopped=stopped,
            card=finish(),
        )


class _Run:
    """Counts entries as they are kept.

    Args:
        journal: where they are kept.
        total: requests of the plan.
        done: those with a reply already.
        show: called by `tell`.
    """

    def __init__(self, journal: Journal, total: int, done: int, show: Callable[[Standing], None]) -> None:
        self._journal, self._total, self._show = journal, total, show
        self.done, self.given_up = done, 0

    def keep(self, entry: Entry) -> None:
        """Writes an entry down and counts it."""
        self._journal.add(entry)
        self.done += entry.reply is not None
        self.given_up += entry.reply is None
        self.tell()

    def tell(self) -> None:
        """Says where the run stands."""
        journal = self._journal
        self._show(
            Standing(
                done=self.done,
                total=self._total,
                given_up=self.given_up,
                requests=journal.requests,
                tokens=journal.tokens_in + journal.tokens_out,
            )
        )


def _ask(
    requests: Sequence[Request],
    planner: Planner,
    keep: Callable[[Entry], None],
    spec: TeacherSpec,
    patience: Patience,
    budget: Budget,
    cutter: Cutter,
    ray: RaySettings | None,
) -> str | None:
    """Has the requests answered; returns why that ended early, None if it did not."""
    if not requests:
        return None
    if ray is not None:
        return ask_on_ray(requests, planner.text, keep, spec=spec, patience=patience, budget=budget, settings=ray)

    async def here() -> str | None:
        async with open_teacher(spec) as teacher:
            asker = Asker(teacher, patience, budget, spec.reply_tokens, cutter.count)
            return await asker.ask_all(requests, planner.text, keep)

    return asyncio.run(here())


def _identity(plan: Plan, spec: TeacherSpec, prompts: Prompts, tokenizer: str) -> dict[str, Any]:
    """What replies depend on. Tasks and the limit of passages may change from run to run: both add to a folder."""
    return {
        "teacher": spec.kind,
        "model": spec.model,
        "temperature": spec.temperature,
        "reply_tokens": spec.reply_tokens,
        "prompts": prompts.version,
        "corpora": corpus_names(plan),
        "field": plan.field,
        "lang": plan.lang,
        "min_passage_tokens": plan.min_passage_tokens,
        "max_passage_tokens": plan.max_passage_tokens,
        "tokenizer": tokenizer,
        "questions": plan.questions,
        "documents": plan.documents,
        "seed": plan.seed,
        "grouping": GROUPING,
    }


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Makes the out folder, and keeps other runs out of it.

    Raises:
        InputError: another one is at work there, or it is a file.
    """
    if out.is_file():
        raise InputError(f"{out}: is a file; give a folder for the run")
    out.mkdir(parents=True, exist_ok=True)
    busy = InputError(f"another synthesis is at work in {out}; wait, stop it, or give another folder")
    with alone(out / _LOCK, busy):
        yield


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines whole or not at all, one row at a time.

    Raises:
        OSError: they cannot be written; names the file.
    """
    with naming(path), replacing(path) as building, building.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(map(json_line, rows))
