"""Requests to replies: patience with a teacher, many requests at once, and an early end without a loss."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from latentpress.synthesis.budget import Budget, Spent
from latentpress.synthesis.journal import Entry
from latentpress.synthesis.requests import Request
from latentpress.synthesis.settings import Patience
from latentpress.synthesis.teachers import Fault, Reply, Teacher

_FAILED_IN_A_ROW = 3  # at least, and as many as are under way: a teacher that fails so many is not there


class Asker:
    """Asks a teacher, again where that may help, and knows when to stop.

    Args:
        teacher: who is asked.
        patience: how often, and after which waits.
        budget: what may be spent.
        reply_tokens: most tokens of a reply, set aside for each request.
        count: tokens of a text, for teachers that do not say.
    """

    def __init__(
        self, teacher: Teacher, patience: Patience, budget: Budget, reply_tokens: int, count: Callable[[str], int]
    ) -> None:
        self._teacher, self._patience, self._budget = teacher, patience, budget
        self._reply_tokens, self._count = reply_tokens, count
        self._stopping = asyncio.Event()
        self._not_before = 0.0
        self._failed_in_a_row = 0
        self.stopped: str | None = None

    async def ask_all(
        self, requests: Sequence[Request], text_of: Callable[[Request], str], keep: Callable[[Entry], None]
    ) -> str | None:
        """Asks for everything, so many at once as the patience says.

        Args:
            requests: in the order in which they are asked.
            text_of: what the teacher reads.
            keep: called with each entry, before the next request of its place is asked.

        Returns:
            Why the run stopped before the last request; None if it did not. What was under way then is waited for.

        Raises:
            OSError: whatever `keep` raises; what is under way is given up then.
        """
        waiting = iter(requests)

        async def work() -> None:
            for request in waiting:
                if self.stopped is not None:
                    return
                entry = await self.entry(request, text_of(request))
                if entry is not None:
                    keep(entry)

        places = min(self._patience.concurrency, len(requests))
        workers = [asyncio.create_task(work()) for _ in range(places)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return self.stopped

    async def entry(self, request: Request, text: str) -> Entry | None:
        """Asks until there is a reply, the tries are used up, or nothing more may be asked.

        Returns:
            What became of the request; None if it was not asked at all.
        """
        started = time.monotonic()
        most = request.tokens + self._reply_tokens
        fault: Fault | None = None
        tries = 0
        while tries < self._patience.tries and self.stopped is None:
            await self._pause(self._not_before - time.monotonic())
            try:
                await self._budget.reserve(most)
            except Spent as error:
                self._stop(str(error))
                break
            tries += 1
            used = 0
            try:
                reply = await self._teacher.reply(text)
                entry = self._replied(request, text, reply, tries, time.monotonic() - started)
                used = entry.prompt_tokens + entry.reply_tokens
            except Fault as error:
                fault = error
            else:
                self._failed_in_a_row = 0
                return entry
            finally:
                self._budget.settle(most, used)
            if not fault.again:
                break
            if tries < self._patience.tries:
                await self._wait(tries, fault)
        return None if fault is None else self._failed(request, fault, tries, time.monotonic() - started)

    def _replied(self, request: Request, text: str, reply: Reply, tries: int, seconds: float) -> Entry:
        tokens_in, tokens_out = reply.prompt_tokens, reply.reply_tokens
        return Entry(
            key=request.key,
            task=request.task,
            record=request.record,
            reply=reply.text,
            cut_off=reply.cut_off,
            tries=tries,
            prompt_tokens=self._count(text) if tokens_in is None else tokens_in,
            reply_tokens=self._count(reply.text) if tokens_out is None else tokens_out,
            estimated=tokens_in is None or tokens_out is None,
            seconds=round(seconds, 3),
            time=_now(),
        )

    def _failed(self, request: Request, fault: Fault, tries: int, seconds: float) -> Entry:
        self._failed_in_a_row += 1
        if fault.final:
            self._stop(str(fault))
        elif self._failed_in_a_row >= max(_FAILED_IN_A_ROW, self._patience.concurrency):
            self._stop(f"{self._failed_in_a_row} requests in a row had no reply, the last after {tries} tries: {fault}")
        return Entry(
            key=request.key,
            task=request.task,
            record=request.record,
            reply=None,
            error=str(fault),
            tries=tries,
            seconds=round(seconds, 3),
            time=_now(),
        )

    async def _wait(self, tries: int, fault: Fault) -> None:
        """Waits before the next try: as long as the teacher asks, else twice as long as before the last one.

        The waits are drawn between half and all of that, so that requests which failed together do not come again
        together. What a teacher asks for holds for all requests.
        """
        patience = self._patience
        if fault.wait is None:
            wait = min(patience.longest_wait, patience.first_wait * 2 ** min(tries - 1, 30))
            await self._pause(wait * random.uniform(0.5, 1.0))
        elif fault.wait > patience.longest_pause:
            self._stop(f"the teacher asks to come again in {fault.wait:,.0f} s; do so with the same command. {fault}")
        else:
            self._not_before = max(self._not_before, time.monotonic() + fault.wait)

    async def _pause(self, seconds: float) -> None:
        """Waits, or less where the run stops meanwhile."""
        if seconds > 0:
            try:
                await asyncio.wait_for(self._stopping.wait(), seconds)
            except TimeoutError:
                return

    def _stop(self, why: str) -> None:
        self.stopped = self.stopped or why
        self._stopping.set()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
