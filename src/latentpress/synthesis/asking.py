"""Requests to replies: patience with a teacher, many requests at once, and an early end without a loss."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from latentpress.synthesis.budget import Budget, Spent
from latentpress.synthesis.journal import Entry
from latentpress.synthesis.requests import Request
from latentpress.synthesis.settings import Patience
from latentpress.synthesis.teachers import Fault, Reply, Teacher

_FAILED_IN_A_ROW = 3  # at least, and as many as are under way: a teacher that fails so many is not there


@dataclass(kw_only=True, slots=True)
class _Course:
    """How a request has gone so far."""

    request: Request
    started: float = field(default_factory=time.monotonic)
    tries: int = 0
    lost_in: int = 0
    lost_out: int = 0

    def lose(self, fault: Fault) -> int:
        """Counts what the teacher may have spent on a try without a reply, and returns it."""
        if fault.wrote is None:
            return 0
        self.lost_in += self.request.tokens
        self.lost_out += fault.wrote
        return self.request.tokens + fault.wrote

    def entry(self, **came: Any) -> Entry:
        """What became of it."""
        return Entry(
            key=self.request.key,
            task=self.request.task,
            record=self.request.record,
            tries=self.tries,
            lost_prompt_tokens=self.lost_in,
            lost_reply_tokens=self.lost_out,
            seconds=round(time.monotonic() - self.started, 3),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            **came,
        )


class Asker:
    """Asks a teacher, again where that may help, and knows when to stop.

    Args:
        teacher: who is asked.
        patience: how often, and after which waits.
        budget: what may be spent.
        reply_tokens: most tokens of a reply, set aside for each request.
        count: tokens of a text, for teachers that do not say.
        failed_in_a_row: requests that failed before the first one of this asker, without a reply in between.
        draw: a number between two others, by which waits differ.
    """

    def __init__(
        self,
        teacher: Teacher,
        patience: Patience,
        budget: Budget,
        reply_tokens: int,
        count: Callable[[str], int],
        *,
        failed_in_a_row: int = 0,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._teacher, self._patience, self._budget = teacher, patience, budget
        self._reply_tokens, self._count, self._draw = reply_tokens, count, draw
        self._stopping = asyncio.Event()
        self._not_before = 0.0
        self.failed_in_a_row = failed_in_a_row
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
        course = _Course(request=request)
        most = request.tokens + self._reply_tokens
        fault: Fault | None = None
        waits = 0
        while waits < self._patience.tries and await self._let_through(most):
            course.tries += 1
            used = 0
            try:
                reply = await self._teacher.reply(text)
                entry = self._replied(course, text, reply)
                used = entry.prompt_tokens + entry.reply_tokens
            except Fault as error:
                fault = error
                used = course.lose(fault)
            else:
                self.failed_in_a_row = 0
                return entry
            finally:
                self._budget.settle(most, used)
            if not fault.again:
                break
            if not fault.at_once:
                waits += 1
                if waits < self._patience.tries:
                    await self._wait(waits, fault)
        return None if fault is None else self._failed(course, fault)

    async def _let_through(self, most: int) -> bool:
        """Waits until the teacher's pause is over and the budget has room, which is taken; False if the run stops."""
        while True:
            left = self._not_before - time.monotonic()
            if left > 0:  # a little longer, so that those that wait do not all come at once
                await self._pause(left + self._draw(0.0, self._patience.first_wait))
            if self.stopped is not None:
                return False
            try:
                await self._budget.reserve(most)
            except Spent as error:
                self._stop(str(error))
                return False
            if self.stopped is None and self._not_before <= time.monotonic():
                return True
            self._budget.give_back(most)

    def _replied(self, course: _Course, text: str, reply: Reply) -> Entry:
        tokens_in, tokens_out = reply.prompt_tokens, reply.reply_tokens
        return course.entry(
            reply=reply.text,
            cut_off=reply.cut_off,
            prompt_tokens=self._count(text) if tokens_in is None else tokens_in,
            reply_tokens=self._count(reply.text) if tokens_out is None else tokens_out,
            estimated=tokens_in is None or tokens_out is None,
            refused=", ".join(reply.refused),
        )

    def _failed(self, course: _Course, fault: Fault) -> Entry:
        self.failed_in_a_row += 1
        if fault.final:
            self._stop(str(fault))
        elif self.failed_in_a_row >= max(_FAILED_IN_A_ROW, self._patience.concurrency):
            last = f"the last after {course.tries} tries: {fault}"
            self._stop(f"{self.failed_in_a_row} requests in a row had no reply, {last}")
        return course.entry(reply=None, error=str(fault))

    async def _wait(self, tries: int, fault: Fault) -> None:
        """Waits before the next try: twice as long as before the last one, and as long as the teacher asks.

        The waits are drawn between half and all of that, so that requests which failed together do not come again
        together. What a teacher asks for holds for all requests.
        """
        patience = self._patience
        if fault.wait is not None and fault.wait > patience.longest_pause:
            self._stop(f"the teacher asks to come again in {fault.wait:,.0f} s; do so with the same command. {fault}")
            return
        if fault.wait is not None:
            self._not_before = max(self._not_before, time.monotonic() + fault.wait)
        wait = min(patience.longest_wait, patience.first_wait * 2 ** min(tries - 1, 30))
        await self._pause(wait * self._draw(0.5, 1.0))

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
