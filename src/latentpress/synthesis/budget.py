"""Requests and tokens that may be spent, counted over all runs in a folder."""

from __future__ import annotations

import asyncio
import math

from latentpress.synthesis.settings import Allowance


class Spent(Exception):  # noqa: N818 - no error: the run stops where it was told to
    """The next request might cost more than is left, and nothing under way can free any of it."""


class Budget:
    """Lets a request through only if all that it may cost is left.

    What a request may cost is set aside while it is under way, so that the limits hold however many are: as far as the
    teacher's own count is not above the estimate of a prompt, which is made in tokens of the base model.

    Args:
        allowance: the limits.
        requests: what earlier runs have spent.
        tokens: likewise.
    """

    def __init__(self, allowance: Allowance, requests: int = 0, tokens: int = 0) -> None:
        self._allowance = allowance
        self.requests, self.tokens = requests, tokens
        self._held = 0
        self._under_way = 0
        self._settled = asyncio.Event()

    async def reserve(self, tokens: int) -> None:
        """Takes one request and sets tokens aside; waits as long as what is under way may leave enough of them.

        Raises:
            Spent: it never will; says what is spent and what to raise.
        """
        while self.lacks(tokens):
            self._settled.clear()
            await self._settled.wait()
        self.requests += 1
        self._held += tokens
        self._under_way += 1

    @property
    def requests_left(self) -> float:
        """Requests that may still be asked; infinite without a limit."""
        most = self._allowance.max_requests
        return math.inf if most is None else most - self.requests

    @property
    def tokens_left(self) -> float:
        """Tokens that may still be spent beside those set aside; infinite without a limit."""
        most = self._allowance.max_tokens
        return math.inf if most is None else most - self.tokens - self._held

    def settle(self, reserved: int, used: int) -> None:
        """Counts what a request has cost, and gives back what was set aside for it."""
        self._held -= reserved
        self._under_way -= 1
        self.tokens += used
        self._settled.set()

    def give_back(self, reserved: int) -> None:
        """Takes back a request that was let through and did not go out."""
        self.requests -= 1
        self.settle(reserved, 0)

    def lacks(self, tokens: int) -> bool:
        """Whether a request of so many tokens has to wait for what is under way.

        Raises:
            Spent: nothing is, and less is left than it may cost.
        """
        if self.requests_left <= 0:
            most = self._allowance.max_requests
            raise Spent(f"the budget of {most:,} requests is spent; go on with a higher --max-requests")
        if self.tokens_left >= tokens:
            return False
        if self._under_way == 0:
            raise Spent(
                f"of the budget of {self._allowance.max_tokens:,} tokens {self.tokens:,} are spent, and the next "
                f"request may take {tokens:,}; go on with a higher --max-tokens"
            )
        return True
