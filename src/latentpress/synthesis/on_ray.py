"""Requests to replies on several machines: the same asking as a Ray Data job, its replies kept by the driver.

Workers share nothing: each has a teacher of its own (a connection, or a model on its GPU), gets requests in batches and
hands back entries. The journal, the budget and what is made of the replies stay with the process that was started.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from latentpress.errors import InputError
from latentpress.synthesis.asking import Asker
from latentpress.synthesis.budget import Budget, Spent
from latentpress.synthesis.journal import Entry
from latentpress.synthesis.requests import Request
from latentpress.synthesis.settings import Allowance, Patience, RaySettings, TeacherSpec
from latentpress.synthesis.teachers import Teacher, open_teacher


def check_ray() -> None:
    """Makes sure that Ray Data is there.

    Raises:
        InputError: it is not.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--engine ray needs the package `ray` ({error}): pip install 'latentpress[ray]', on every machine of the "
            "cluster"
        ) from error


class Worker:
    """Asks for batches of requests; made once in each process of the cluster.

    Args:
        spec: the teacher, which is opened here.
        patience: how it is asked.
    """

    def __init__(self, spec: TeacherSpec, patience: Patience) -> None:
        self._spec, self._patience = spec, patience
        self._local: Teacher | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Takes requests as JSON, gives their entries as JSON, and beside each why the batch was stopped, if it was."""
        entries, stopped = asyncio.run(self._ask([json.loads(str(row)) for row in batch["request"]]))
        made = [json.dumps(dataclasses.asdict(entry)) for entry in entries]
        # One more row, so that a batch that was stopped before its first entry says so too.
        return {"entry": [*made, ""], "stopped": [""] * len(made) + [stopped or ""]}

    async def _ask(self, rows: Sequence[dict[str, Any]]) -> tuple[list[Entry], str | None]:
        texts = {row["key"]: row.pop("text") for row in rows}
        patience = dataclasses.replace(self._patience, tries=max(row.pop("tries") for row in rows))
        entries: list[Entry] = []
        async with self._teacher() as teacher:
            asker = Asker(teacher, patience, Budget(Allowance()), self._spec.reply_tokens, _about_tokens)
            requests = [Request(passages=(), **row) for row in rows]
            stopped = await asker.ask_all(requests, lambda request: texts[request.key], entries.append)
        return entries, stopped

    def _teacher(self) -> Teacher:
        """A connection belongs to one event loop and is made for each batch; a model is loaded once."""
        if self._spec.kind == "openai":
            return open_teacher(self._spec)
        if self._local is None:
            self._local = open_teacher(self._spec)
        return self._local


def ask_on_ray(
    requests: Sequence[Request],
    text_of: Callable[[Request], str],
    keep: Callable[[Entry], None],
    *,
    spec: TeacherSpec,
    patience: Patience,
    budget: Budget,
    settings: RaySettings,
) -> str | None:
    """Asks for everything in a Ray cluster: the one that `RAY_ADDRESS` names, else one on this machine.

    With a budget, as many requests are handed out at a time as it covers if each takes all its tries and tokens, until
    it covers none.

    Args:
        requests: in order.
        text_of: what the teacher reads.
        keep: called with each entry as its batch comes back.
        spec: the teacher of each worker.
        patience: of each worker; its concurrency is that of one worker and the size of a batch.
        budget: what may be spent.
        settings: workers and GPUs.

    Returns:
        Why the run stopped before the last request, None if it did not.
    """
    waiting = list(requests)
    stopped: str | None = None
    while waiting and stopped is None:
        try:
            budget.lacks(waiting[0].tokens + spec.reply_tokens)
        except Spent as error:
            return str(error)
        # What a local model cannot answer once it cannot answer twice.
        tries = patience.tries if spec.kind == "openai" else 1
        tries = int(min(tries, budget.requests_left))
        wave = _affordable(waiting, budget, tries, spec.reply_tokens)
        waiting = waiting[len(wave) :]
        rows = [_row(request, text_of(request), tries) for request in wave]
        for entries, why in _results(rows, spec, patience, settings):
            for entry in entries:
                budget.requests += entry.tries
                budget.tokens += entry.prompt_tokens + entry.reply_tokens
                keep(entry)
            if why:
                stopped = why
                break  # ends the job
    return stopped


def _affordable(requests: Sequence[Request], budget: Budget, tries: int, reply_tokens: int) -> Sequence[Request]:
    """The first requests, as many as the budget covers with so many tries of each."""
    tokens = itertools.accumulate(request.tokens + reply_tokens for request in requests)
    costs = zip(itertools.count(tries, tries), tokens, strict=False)
    covered = itertools.takewhile(lambda cost: cost[0] <= budget.requests_left and cost[1] <= budget.tokens_left, costs)
    return requests[: sum(1 for _ in covered)]


def _row(request: Request, text: str, tries: int) -> dict[str, str]:
    """A request as a worker gets it."""
    fields = {"key": request.key, "task": request.task, "record": request.record, "tokens": request.tokens}
    return {"request": json.dumps({**fields, "text": text, "tries": tries})}


def _results(
    rows: list[dict[str, str]], spec: TeacherSpec, patience: Patience, settings: RaySettings
) -> Iterator[tuple[list[Entry], str]]:
    """Yields what batches came to as they are done: entries, and why they were stopped, if they were.

    Raises:
        InputError: a worker cannot work.
    """
    import ray
    import ray.data
    import ray.exceptions

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours shows the requests
    blocks = max(1, -(-len(rows) // patience.concurrency))
    job = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        Worker,
        fn_constructor_args=(spec, patience),
        batch_size=patience.concurrency,
        compute=ray.data.ActorPoolStrategy(size=settings.workers),
        num_gpus=settings.gpus or None,
    )
    try:
        for batch in job.iter_batches(batch_size=None, batch_format="numpy"):
            entries = [Entry(**json.loads(str(entry))) for entry in batch["entry"] if entry]
            yield entries, next((str(why) for why in batch["stopped"] if why), "")
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"a worker of the cluster failed ({lines[-1] if lines else type(error).__name__}); give every machine the "
            "same latentpress with its extras, and the model and the key where they are needed, then the same command"
        ) from error


def _about_tokens(text: str) -> int:
    """Tokens of a text for a teacher that does not say, where no tokenizer is at hand: four bytes each."""
    return -(-len(text.encode()) // 4)
