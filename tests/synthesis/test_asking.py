"""Patience with a teacher that is none of this world: who waits, how long, and who is not sent any more."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable

import pytest

from latentpress.synthesis.asking import Asker
from latentpress.synthesis.budget import Budget
from latentpress.synthesis.journal import Entry
from latentpress.synthesis.requests import Request
from latentpress.synthesis.settings import Allowance, Patience
from latentpress.synthesis.teachers import Fault, Reply, Teacher


class Scripted(Teacher):
    """Answers by the number of the request: with a fault after some seconds, or with a reply."""

    def __init__(self, script: Callable[[int], tuple[float, Fault] | None]) -> None:
        self.times: list[float] = []
        self._script = script

    async def reply(self, text: str) -> Reply:
        number = len(self.times)
        self.times.append(time.monotonic())
        answer = self._script(number)
        if answer is None:
            return Reply(text=text, prompt_tokens=1, reply_tokens=1, cut_off=False)
        await asyncio.sleep(answer[0])
        raise answer[1]


def ask(
    teacher: Teacher, budget: Budget, draw: Callable[[float, float], float] = max, **patience: float
) -> tuple[list[Entry], str | None]:
    entries: list[Entry] = []
    requests = [Request(key=f"k{i}", task="qa", record="r", passages=(), tokens=100) for i in range(4)]
    asker = Asker(teacher, Patience(**{"concurrency": 4, **patience}), budget, 50, len, draw=draw)  # type: ignore[arg-type]
    return entries, asyncio.run(asker.ask_all(requests, lambda one: one.key, entries.append))


@pytest.mark.parametrize(
    "last", [Fault("come next week", again=True, wait=5000.0), Fault("who are you", final=True)], ids=["pause", "key"]
)
def test_requests_that_pause_are_not_sent_after_a_stop(last: Fault) -> None:
    teacher = Scripted(lambda number: (0.05, Fault("busy", again=True, wait=0.2)) if number < 3 else (0.1, last))
    budget = Budget(Allowance())
    entries, stopped = ask(teacher, budget, lambda low, high: low, first_wait=0.01)
    assert len(teacher.times) == budget.requests == 4
    assert str(last) in (stopped or "")
    assert sorted(entry.tries for entry in entries) == [1] * 4


def test_requests_that_wait_for_the_budget_are_not_sent_after_a_stop() -> None:
    teacher = Scripted(lambda _: (0.02, Fault("who are you", final=True)))
    budget = Budget(Allowance(max_tokens=200))
    entries, stopped = ask(teacher, budget)
    assert (len(teacher.times), stopped) == (1, "who are you")
    assert (budget.requests, budget.tokens_left, len(entries)) == (1, 200, 1)


def test_requests_that_paused_together_do_not_come_again_together() -> None:
    shares = itertools.count()

    def draw(low: float, high: float) -> float:
        return low or high * next(shares) / 4

    teacher = Scripted(lambda number: (0.0, Fault("busy", again=True, wait=0.1)) if number < 4 else None)
    entries, stopped = ask(teacher, Budget(Allowance()), draw, first_wait=0.12)
    assert (len(entries), stopped) == (4, None)
    again = sorted(teacher.times[4:])
    assert again[0] - teacher.times[3] >= 0.1
    assert all(later - sooner > 0.015 for sooner, later in itertools.pairwise(again))


def test_a_pause_that_grows_while_others_wait_for_it_holds_for_them() -> None:
    faults = {0: (0.0, 0.05), 1: (0.03, 0.2)}
    teacher = Scripted(
        lambda number: (
            (faults[number][0], Fault("busy", again=True, wait=faults[number][1])) if number in faults else None
        )
    )
    ask(teacher, Budget(Allowance()), first_wait=0.001, concurrency=2)
    assert teacher.times[2] - teacher.times[0] >= 0.2


def test_failures_of_before_count() -> None:
    teacher = Scripted(lambda _: (0.0, Fault("gone")))
    request = Request(key="k", task="qa", record="r", passages=(), tokens=1)
    asker = Asker(teacher, Patience(concurrency=1), Budget(Allowance()), 50, len, failed_in_a_row=2)
    stopped = asyncio.run(asker.ask_all([request] * 5, lambda one: one.key, lambda _: None))
    assert (len(teacher.times), asker.failed_in_a_row) == (1, 3)
    assert "3 requests in a row" in (stopped or "")
