"""A training that cannot come to anything stops; any other goes on."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpress.errors import TrainingError
from latentpress.training.guard import DIVERGED, DIVERGED_STEPS, LossGuard


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stops_with_the_step_and_the_remedy(value: float) -> None:
    with pytest.raises(TrainingError, match=rf"the loss is {value} at step 7; do this"):
        LossGuard(lambda: "do this").check_finite("the loss", value, 7)


def test_a_loss_that_stays_above_its_best_diverges() -> None:
    guard = LossGuard(lambda: "do this")
    for step in range(DIVERGED_STEPS):
        guard.check_divergence(2.0, step)

    def climb() -> None:
        for step in range(4 * DIVERGED_STEPS):
            guard.check_divergence(2.0 + 2 * DIVERGED, step)

    with pytest.raises(TrainingError, match=r"diverges: .* was 2\.00 at its best; do this"):
        climb()


def test_a_loss_that_comes_back_does_not_diverge() -> None:
    guard = LossGuard(lambda: "")
    for block in range(8):
        for step in range(DIVERGED_STEPS):
            guard.check_divergence(2.0 if block % 2 == 0 else 2.0 + 2 * DIVERGED, step)


@given(st.lists(st.floats(0, DIVERGED), min_size=1, max_size=4 * DIVERGED_STEPS))
def test_noise_within_the_limit_does_not_diverge(losses: list[float]) -> None:
    guard = LossGuard(lambda: "")
    for step, loss in enumerate(losses):
        guard.check_divergence(loss, step)


def test_what_it_remembers_outlives_an_interruption() -> None:
    def stops_at(interrupted: bool) -> int:
        guard = LossGuard(lambda: "")
        for step in range(10 * DIVERGED_STEPS):
            if interrupted and step % 20 == 7:
                before, guard = guard, LossGuard(lambda: "")
                guard.restore(before.state())
            try:
                guard.check_divergence(1.0 if step < DIVERGED_STEPS else 9.0, step)
            except TrainingError:
                return step
        raise AssertionError("it never stopped")

    assert stops_at(interrupted=True) == stops_at(interrupted=False)
