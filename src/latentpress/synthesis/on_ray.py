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
        failed_in_a_row: requests that failed before its first one, without a reply in between.
    """

    def __init__(self, spec: TeacherSpec, patience: Patience, failed_in_a_row: int = 0) -> None:
        self._spec, self._patience, self._failed_in_a_row = spec, patience, failed_in_a_row
        self._teacher: Teacher | None = None
        self._stopped: str | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Takes requests as JSON, gives their entries as JSON, and beside each why the batch was stopped, if it was.

        Once it was stopped, it asks for none of what still comes.
        """
        rows = [json.loads(str(row)) for row in batch["request"]]
        entries = asyncio.run(self._ask(rows)) if self._stopped is None else []
        stopped = self._stopped
        made = [json.dumps(dataclasses.asdict(entry)) for entry in entries]
        # One more row, so that a batch that was stopped before its first entry says so too.
        return {"entry": [*made, ""], "stopped": [""] * len(made) + [stopped or ""]}

    async def _ask(self, rows: Sequence[dict[str, Any]]) -> list[Entry]:
        if self._teacher is None:
            self._teacher = open_teacher(self._spec)
        texts = {row["key"]: row.pop("text") for row in rows}
        patience = dataclasses.replace(self._patience, tries=max(row.pop("tries") for row in rows))
        entries: list[Entry] = []
        async with self._teacher as teacher:
            asker = Asker(
                teacher,
                patience,
                Budget(Allowance()),
                self._spec.reply_tokens,
                _about_tokens,
                failed_in_a_row=self._failed_in_a_row,
            )
            requests = [Request(passages=(), **row) for row in rows]
            self._stopped = await asker.ask_all(requests, lambda request: texts[request.key], entries.append)
        self._failed_in_a_row = asker.failed_in_a_row
        return entries


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
    failed_in_a_row = 0
    while waiting and stopped is None:
        most = waiting[0].tokens + spec.reply_tokens
        try:
            budget.lacks(most)
        except Spent as error:
            return str(error)
        # What a local model cannot answer once it cannot answer twice.
        tries = patience.tries if spec.kind == "openai" else 1
        tries = int(min(tries, budget.requests_left, budget.tokens_left // most))
        wave = _affordable(waiting, budget, tries, spec.reply_tokens)
        waiting = waiting[len(wave) :]
        rows = [_row(request, text_of(request), tries) for request in wave]
        for entries, why in _results(rows, spec, patience, settings, failed_in_a_row):
            for entry in entries:
                budget.requests += entry.tries
                budget.tokens += entry.tokens_in + entry.tokens_out
                failed_in_a_row = failed_in_a_row + 1 if entry.reply is None else 0
                keep(entry)
            if why:
                stopped = why
                break  # ends the job
    return stopped


def _affordable(requests: Sequence[Request], budget: Budget, tries: int, reply_tokens: int) -> Sequence[Request]:
    """The first requests, as many as the budget covers with so many tries of each."""
    tokens = itertools.accumulate(tries * (request.tokens + reply_tokens) for request in requests)
    costs = zip(itertools.count(tries, tries), tokens, strict=False)
    covered = itertools.takewhile(lambda cost: cost[0] <= budget.requests_left and cost[1] <= budget.tokens_left, costs)
    return requests[: sum(1 for _ in covered)]


def _row(request: Request, text: str, tries: int) -> dict[str, str]:
    """A request as a worker gets it."""
    fields = {"key": request.key, "task": request.task, "record": request.record, "tokens": request.tokens}
    return {"request": json.dumps({**fields, "text": text, "tries": tries})}


def _results(
    rows: list[dict[str, str]], spec: TeacherSpec, patience: Patience, settings: RaySettings, failed_in_a_row: int
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
        fn_constructor_args=(spec, patience, failed_in_a_row),
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
