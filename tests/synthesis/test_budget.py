"""A budget holds however many requests are under way, and stops only when nothing can free any of it."""

from __future__ import annotations

import asyncio
import random

import pytest

from latentpress.synthesis.budget import Budget, Spent
from latentpress.synthesis.settings import Allowance


def test_no_more_is_spent_than_is_allowed_and_all_that_fits_is() -> None:
    async def spend(seed: int) -> tuple[Budget, int]:
        budget, draw, served = Budget(Allowance(max_requests=40, max_tokens=3000)), random.Random(seed), 0

        async def work() -> None:
            nonlocal served
            while True:
                most = draw.randint(50, 150)
                await budget.reserve(most)
                assert budget.tokens_left >= 0
                await asyncio.sleep(draw.random() / 1000)
                budget.settle(most, draw.randint(0, most))
                served += 1

        done = await asyncio.gather(*(work() for _ in range(5)), return_exceptions=True)
        assert all(isinstance(one, Spent) for one in done)
        return budget, served

    for seed in range(5):
        budget, served = asyncio.run(spend(seed))
        assert budget.tokens <= 3000
        assert budget.requests == served <= 40
        assert served == 40 or budget.tokens > 3000 - 150


@pytest.mark.parametrize(
    ("allowance", "spent", "parts"),
    [
        (Allowance(max_requests=3), (3, 0), ("the budget of 3 requests is spent", "--max-requests")),
        (
            Allowance(max_tokens=100),
            (0, 60),
            ("of the budget of 100 tokens 60 are spent", "may take 50", "--max-tokens"),
        ),
    ],
)
def test_what_earlier_runs_spent_counts(allowance: Allowance, spent: tuple[int, int], parts: tuple[str, ...]) -> None:
    with pytest.raises(Spent) as caught:
        asyncio.run(Budget(allowance, *spent).reserve(50))
    for part in parts:
        assert part in str(caught.value)


def test_without_limits_everything_goes_through() -> None:
    asyncio.run(Budget(Allowance()).reserve(10**12))
